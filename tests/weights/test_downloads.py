"""Weights named by address: fetched once from a server on this machine, kept whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from detectune.errors import OutputError, WeightsError
from detectune.weights.downloads import cached_place, local_weights

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
