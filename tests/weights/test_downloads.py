"""Weights named by address: fetched once from a server on this machine, kept whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
import torchvision

from detectune.cli.loading import load_for_command
from detectune.cli.places import packaged_configs
from detectune.errors import OutputError, WeightsError
from detectune.weights import zoo
from detectune.weights.downloads import cached_place, local_weights
from detectune.weights.zoo import digest_in, find_known, known_names

BYTES = b"weights" * 1000


class Server:
    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []  # type: Path, list[str]
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                asked.append(self.path)

        handler = functools.partial(Handler, directory=str(folder))
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served" / "models").mkdir(parents=True)
    (tmp_path / "served" / "models" / "R-50.pkl").write_bytes(BYTES)
    running = Server(tmp_path / "served")
    yield running
    running.http.shutdown()
    running.http.server_close()


def test_a_path_is_a_path(tmp_path: Path) -> None:
    assert local_weights(tmp_path / "a.pkl", download_cache="/none") == tmp_path / "a.pkl"
    assert local_weights("~/a.pkl", download_cache="/none") == Path.home() / "a.pkl"


def test_detectron2s_other_names_for_detectrons_files() -> None:
    for theirs, ours in (
        ("catalog://ImageNetPretrained/FAIR/X-152-32x8d-IN5k", "detectron/X-152-32x8d-IN5k"),
        ("catalog://Caffe2Detectron/COCO/35857345/e2e_faster_rcnn_R-50-FPN_1x", "detectron/35857345"),
    ):
        known, same = find_known(theirs), find_known(ours)
        assert known is not None and same is not None and known.address == same.address
    with pytest.raises(WeightsError, match="catalog://ImageNetPretrained/MSRA/R-51 is no known name"):
        find_known("catalog://ImageNetPretrained/MSRA/R-51")


def test_detectrons_files_lie_where_detectron_kept_them() -> None:
    address = "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/MSRA/R-50.pkl"
    assert cached_place(address, "/cache") == Path("/cache/ImageNetPretrained/MSRA/R-50.pkl")
    assert cached_place("http://x.org/a/../../b.pkl?v=1", "/cache") == Path("/cache/x.org/a/b.pkl")


def test_an_address_is_fetched_once(server: Server, tmp_path: Path) -> None:
    address, cache = f"{server.address}/models/R-50.pkl", str(tmp_path / "cache")
    place = local_weights(address, download_cache=cache)
    assert place.read_bytes() == BYTES and place.is_relative_to(cache)
    before = len(server.asked)
    assert local_weights(address, download_cache=cache) == place and len(server.asked) == before


@pytest.mark.parametrize("right", [True, False])
def test_the_servers_digest_must_agree(server: Server, tmp_path: Path, right: bool) -> None:
    digest = hashlib.md5(BYTES if right else b"other").hexdigest()
    (server.folder / "models" / "R-50.pkl.md5sum").write_text(f"{digest}  R-50.pkl\n")
    address, cache = f"{server.address}/models/R-50.pkl", tmp_path / "cache"
    if right:
        assert local_weights(address, download_cache=str(cache)).read_bytes() == BYTES
        return
    with pytest.raises(WeightsError, match=f"MD5 digest .* says {digest}"):
        local_weights(address, download_cache=str(cache))
    assert not [p for p in cache.rglob("*") if p.is_file()]


def test_what_cannot_be_fetched_says_where_to_put_it(server: Server, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(WeightsError, match=r"none\.pkl could not be downloaded .*cache.*none\.pkl"):
        local_weights(f"{server.address}/models/none.pkl", download_cache=str(cache))
    assert not [p for p in cache.rglob("*") if p.is_file()]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="DOWNLOAD_CACHE"):
        local_weights(f"{server.address}/models/R-50.pkl", download_cache=str(tmp_path / "file"))


def served_as(monkeypatch: pytest.MonkeyPatch, root: str, server: Server) -> str:
    """The public server `root` of the zoo is this machine; returns the address that has taken its place."""
    monkeypatch.setattr(f"detectune.weights.zoo.{root}", f"{server.address}/{root.lower()}/")
    return f"{server.address}/{root.lower()}/"


@pytest.mark.parametrize(
    ("root", "name", "kind"),
    [
        ("TORCHVISION", "torchvision/MaskRCNN_ResNet50_FPN_Weights.COCO_V1", "sha256"),
        ("DETECTRON2", "detectron2://COCO-Detection/faster_rcnn_R_50_FPN_3x", "md5"),
        ("DETECTRON", "detectron/35861858", "md5"),
    ],
)
@pytest.mark.parametrize("right", [True, False])
def test_public_names_are_fetched_and_checked(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    root: str,
    name: str,
    kind: str,
    right: bool,
) -> None:
    base = served_as(monkeypatch, root, server)
    known = find_known(name)
    assert known is not None and known.address.startswith(base)
    inside = unquote(known.address.removeprefix(server.address)).lstrip("/")
    digest = hashlib.new(kind, BYTES).hexdigest()
    (server.folder / inside).parent.mkdir(parents=True)
    if root == "DETECTRON":  # its digests lie beside the files
        (server.folder / inside).write_bytes(BYTES)
        (server.folder / f"{inside}.md5sum").write_text(digest if right else 32 * "0")
    else:  # the digest is part of the name, so that the file must have the right one
        digits = digest_in(known.address)
        assert digits is not None and digits[0] == kind
        (server.folder / inside).write_bytes(BYTES)
        if right:
            table = f"_{root}_{'FILES' if root == 'TORCHVISION' else 'RUNS'}"
            old = getattr(zoo, table)
            changed = (
                {key: value.replace(digits[1], digest[:8]) for key, value in old.items()}
                if isinstance(old, dict)
                else old.replace(digits[1], digest[:6])
            )
            monkeypatch.setattr(zoo, table, changed)
            moved = inside.replace(digits[1], digest[: len(digits[1])])
            (server.folder / inside).rename(server.folder / moved)
    cache = tmp_path / "cache"
    if right:
        place = local_weights(name, download_cache=str(cache))
        assert place.read_bytes() == BYTES
        asked = len(server.asked)
        assert local_weights(name, download_cache=str(cache)) == place and len(server.asked) == asked
    else:
        with pytest.raises(WeightsError, match="digest"):
            local_weights(name, download_cache=str(cache))
        assert not [p for p in cache.rglob("*") if p.is_file()]


def test_a_public_name_offline_says_where_to_put_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("detectune.weights.zoo.DETECTRON", "http://127.0.0.1:9/")
    with pytest.raises(WeightsError) as caught:
        local_weights("detectron/R-50", download_cache=str(tmp_path))
    told = str(caught.value)
    assert "http://127.0.0.1:9/ImageNetPretrained/MSRA/R-50.pkl" in told and f"into {tmp_path}" in told
    assert "\n" not in told


def test_every_public_name_has_an_address_of_its_own() -> None:
    known = {name: find_known(name) for name in known_names()}
    assert len({one.address for one in known.values() if one}) == len(known) > 140
    packaged = packaged_configs()
    assert all(one and (not one.config or one.config in packaged) for one in known.values())
    baselines = {one.config for one in known.values() if one and one.config}
    assert len(baselines) == 78 + 7
    for name, one in known.items():
        if name.startswith("torchvision/"):
            assert one and torchvision.models.get_weight(name.removeprefix("torchvision/")).url == one.address


def test_names_that_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="Did you mean detectron/35861858"):
        find_known("detectron/35861859")
    with pytest.raises(
        WeightsError, match="Did you mean detectron2://COCO-Detection/faster_rcnn_R_50_FPN_3x"
    ):
        find_known("detectron2://COCO-Detection/faster_rcnn_R50_FPN_3x")
    with pytest.raises(WeightsError, match=r"MaskRCNN_ResNet50_FPN_Weights\.COCO_V1"):
        find_known("torchvision/MaskRCNN_ResNet50_FPN_Weights.COCO_V9")
    assert find_known("runs/cells/model_final.safetensors") is None
    path = find_known("detectron2://ImageNetPretrained/MSRA/R-50.pkl")
    assert path and path.address.endswith("/detectron2/ImageNetPretrained/MSRA/R-50.pkl")
    monkeypatch.chdir(tmp_path)  # a file that is called like a name is a file
    (tmp_path / "detectron").mkdir()
    (tmp_path / "detectron" / "mine.pkl").touch()
    assert local_weights("detectron/mine.pkl", download_cache="/none") == Path("detectron/mine.pkl")


def test_a_public_model_brings_its_configuration() -> None:
    config = load_for_command("detectron/35861858", ["TEST.NMS=0.4"], options=())
    assert (
        config.MODEL.CONV_BODY == "FPN.add_fpn_ResNet101_conv5_body" and config.MODEL.GEOMETRY == "detectron"
    )
    assert config.TEST.WEIGHTS == "detectron/35861858" and config.TEST.NMS == 0.4
    name = "detectron2://COCO-Detection/faster_rcnn_R_50_FPN_3x"
    config = load_for_command(name, None, options=())
    assert name == config.TEST.WEIGHTS and config.MODEL.GEOMETRY == "detectron2"
