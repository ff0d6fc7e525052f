"""The page: everything is on it, for every kind of run; it loads nothing; it stays light."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from detectune.errors import OutputError, UserError
from detectune.report.page import loss_name, model_line, show_duration, show_value, write_report
from detectune.report.pictures import inline_pictures

VOID = {"meta", "link", "img", "br", "input", "line", "circle", "polyline"}


class Structure(HTMLParser):
    """Collects elements and checks that they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_a_whole_run_shows_everything(make_run) -> None:
    text = write_report(make_run()).read_text()
    page = Structure(text)
    expected = """Box AP 0.620, Mask AP 0.620 on shapes_val (100 images)
        shapes_train (400 images)
        Mask R-CNN, ResNet18 FPN, detectron2 geometry
        Imaginary CPU, 2 threads
        Parts of the loss
        Learning rate
        Images per second
        Box precision over recall
        Mask precision over recall"""
    for words in expected.splitlines():
        assert words.strip() in text, words
    pictures = [a for a in page.all("img") if a.get("src")]
    assert len(pictures) == 2 * (12 + 4) and all(a["alt"] and a["width"] for a in pictures)
    assert len([a for a in page.all("svg") if "data-chart" in a]) == 7 + 2
    assert all(a.get("aria-label") for a in page.all("svg"))
    for name in ("circle", "square", "triangle", "star"):
        assert re.search(rf'<th scope="row">{name}</th>', text)


def test_settings_show_what_differs_with_their_description(make_run) -> None:
    from detectune.config.catalogue import KNOBS

    text = write_report(make_run()).read_text()
    changed = text.split("What differs from the defaults")[1].split("All settings")[0]
    assert "SOLVER.BASE_LR" in changed and "OUTPUT_DIR" not in changed
    assert "MODEL.GEOMETRY" not in changed  # detectron2 is the default
    assert KNOBS["SOLVER.BASE_LR"].doc.split(".")[0] in changed
    assert "MODEL.GEOMETRY" in text.split("All settings")[1]


def test_everything_is_inside_the_file(make_run) -> None:
    page = Structure(write_report(make_run()).read_text())
    sources = [a.get(name) or "" for _, a in page.elements for name in ("src", "href", "data", "srcset")]
    remote = [s for s in sources if s and not s.startswith(("data:", "#")) and re.match(r"\w+:|//", s)]
    assert not remote
    assert not page.all("link")[1:] and all("src" not in a for a in page.all("script"))


def test_links_lead_to_files_that_exist(make_run) -> None:
    folder = make_run()
    page = Structure(write_report(folder).read_text())
    links = [a["href"] or "" for a in page.all("a") if not (a["href"] or "").startswith("#")]
    assert "metrics.jsonl" in links and all((folder / link).exists() for link in links)
    anchors = {a["id"] for _, a in page.elements if "id" in a}
    assert {(a["href"] or "")[1:] for a in page.all("a") if (a["href"] or "").startswith("#")} <= anchors


@pytest.mark.parametrize(
    "how, present, absent",
    [
        ({"masks": False}, "Box AP 0.620 on", "Mask AP"),
        ({"evaluated": False, "recorded": 300}, "not evaluated yet", "Average precision"),
        ({"recorded": 300}, "stopped or running: iteration 300 of", ">finished<"),
        ({"trained": False}, "Average precision", "Learning rate"),
        ({"recorded": 0, "evaluated": False}, "not started", "Average precision"),
    ],
)
def test_incomplete_runs_have_a_page_too(make_run, how: dict, present: str, absent: str) -> None:
    text = write_report(make_run(**how)).read_text()
    Structure(text)
    assert present in text and absent not in text


def test_many_classes_and_large_photographs_stay_below_five_megabytes(make_run) -> None:
    classes = tuple(f"class {i}" for i in range(80))
    page = write_report(make_run(size=(1333, 800), classes=classes))
    assert page.stat().st_size < 5_000_000
    assert "All 80 classes" in page.read_text()


def test_names_from_files_are_escaped(make_run) -> None:
    folder = make_run(classes=("<script>alert(1)</script>",))
    samples = folder / "evaluation/shapes_val/samples.json"
    rows = json.loads(samples.read_text())
    rows[0]["caption"] = rows[0]["file_name"] = '"><img src=x onerror=alert(1)>'
    samples.write_text(json.dumps(rows))
    text = write_report(folder).read_text()
    page = Structure(text)
    assert "<script>alert" not in text and len(page.all("script")) == 1
    assert not [a for a in page.all("img") if "onerror" in a]


def test_a_missing_picture_is_said_and_a_damaged_run_has_a_page(make_run) -> None:
    folder = make_run()
    (folder / "evaluation/shapes_val/samples/00_truth.jpg").write_bytes(b"not an image")
    (folder / "evaluation/shapes_val/curves.json").unlink()
    (folder / "environment.json").write_text("{")
    text = write_report(folder).read_text()
    assert text.count("This picture is missing") == 1 and "environment.json cannot be read" in text


def test_a_folder_that_cannot_be_written_or_holds_nothing_is_a_mistake(make_run, tmp_path: Path) -> None:
    folder = make_run()
    (folder / "report.html").mkdir()
    with pytest.raises(OutputError, match=r"report\.html"):
        write_report(folder)
    with pytest.raises(UserError, match="does not exist"):
        write_report(tmp_path / "absent")


def test_writing_again_replaces_the_page(make_run) -> None:
    folder = make_run(recorded=300)
    assert "stopped or running" in write_report(folder).read_text()
    (folder / "model_final.safetensors").write_bytes(b"")
    assert "stopped or running" not in write_report(folder).read_text()
    assert not list(folder.glob("*.part")) and not list(folder.glob(".*.part"))


def test_pictures_shrink_until_they_fit(make_run) -> None:
    paths = sorted((make_run(size=(900, 700)) / "evaluation/shapes_val/samples").glob("*.jpg"))
    large, small = inline_pictures(paths, budget=10**9), inline_pictures(paths, budget=600_000)
    assert max(p.width for p in large.values()) == 900
    assert max(p.width for p in small.values()) < 900
    assert sum(len(p.uri) for p in small.values()) < sum(len(p.uri) for p in large.values())
    assert all(p.width / p.height == pytest.approx(900 / 700, rel=0.01) for p in small.values())


@pytest.mark.parametrize(
    "seconds, text", [(0.5, "0.5 s"), (12.34, "12.3 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@pytest.mark.parametrize(
    "value, text", [((0.1, True), "[0.1, True]"), ({"a": [1]}, "{a: [1]}"), ("", "''"), (1e-5, "1e-05")]
)
def test_settings_look_like_yaml(value: object, text: str) -> None:
    assert show_value(value) == text


@pytest.mark.parametrize(
    "config, text",
    [
        (
            {"MODEL.CONV_BODY": "FPN.add_fpn_ResNet50_conv5_body", "MODEL.MASK_ON": True},
            "Mask R-CNN, ResNet50 FPN",
        ),
        (
            {"MODEL.CONV_BODY": "FPN.add_fpn_ResNet18_conv5_body", "RETINANET.RETINANET_ON": True},
            "RetinaNet, ResNet18 FPN",
        ),
        ({"MODEL.CONV_BODY": "ResNet.add_ResNet50_conv4_body"}, "Faster R-CNN, ResNet50_conv4"),
        ({}, "Faster R-CNN, unknown body"),
    ],
)
def test_the_models_name(config: dict, text: str) -> None:
    assert model_line(config) == text


@pytest.mark.parametrize(
    "name, text",
    [("loss_rpn_cls", "RPN class"), ("loss_retnet_bbox", "RetinaNet box"), ("loss_mask", "mask")],
)
def test_the_losses_names(name: str, text: str) -> None:
    assert loss_name(name) == text
