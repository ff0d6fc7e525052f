"""Train, go on, test, infer and report through the command line, on a few generated images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_from_a_file_to_drawn_images(tiny: Path, call, capsys) -> None:
    assert call("train", "tiny.yaml", "SOLVER.MOMENTUM", "0.8") == 0
    shown = capsys.readouterr().out
    run = Path("runs/tiny")
    for name in ("model_final.safetensors", "report.html", "metrics.jsonl", "evaluation"):
        assert (run / name).exists() and str(run / name) in shown
    assert "tiny, 6 images" in shown and "What to try next" in shown
    assert "MOMENTUM: 0.8" in (run / "config.yaml").read_text()
    assert "data:image/jpeg" in (run / "report.html").read_text()

    before = (run / "model_final.safetensors").read_bytes()
    assert call("train", "tiny.yaml", "SOLVER.MOMENTUM=0.8") == 0  # finished already: nothing is done again
    assert (run / "model_final.safetensors").read_bytes() == before

    capsys.readouterr()
    assert call("test", "tiny.yaml", "TEST.NMS=0.6", "--output", "tested") == 0
    shown = capsys.readouterr().out
    assert str(run / "model_final.safetensors") in shown and "tiny, 6 images" in shown
    assert Path("tested/evaluation/tiny/metrics.json").exists() and Path("tested/report.html").exists()
    assert Path("tested/evaluation/tiny/detections.json").exists()

    reached = ("test", "tiny.yaml", "--output", "strict", "TEST.COMPETITION_MODE=False")
    assert call(*reached, "EXPECTED_RESULTS=[[tiny, box, AP, 0.0]]", "EXPECTED_RESULTS_ATOL=1") == 0
    assert "1 of 1 expected results were reached" in capsys.readouterr().out
    assert call(*reached, "EXPECTED_RESULTS=[[tiny, box, AP, 0.99], [tiny, mask, AP, 0.9, 0.01]]") == 1
    assert "0 of 2 expected results were reached" in capsys.readouterr().out
    files = [file.name for file in Path("strict/evaluation/tiny").glob("detections*")]
    assert len(files) == 2 and "detections.json" not in files, "a test never overwrites another's detections"

    Path("data/images/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    weights = run / "model_final.safetensors"
    assert call("infer", "tiny.yaml", "data/images", "--weights", weights, "--output", "drawn") == 2
    shown = capsys.readouterr()
    assert "broken.jpg" in shown.err and "1 of 7 images" in shown.err
    rows = json.loads(Path("drawn/detections.json").read_text())
    assert len(list(Path("drawn").glob("*.jpg"))) == 6
    assert rows and {row["file_name"] for row in rows} <= {
        file.name for file in Path("data/images").iterdir()
    }
    assert set(rows[0]) >= {
        "file_name",
        "image_id",
        "label",
        "category_id",
        "category_name",
        "bbox",
        "score",
        "segmentation",
    }

    least = sorted(row["score"] for row in rows)[len(rows) // 2]
    assert (
        call("infer", "tiny.yaml", "data/images", "--weights", weights, "--output", "d2", "--thresh", least)
        == 2
    )
    assert all(row["score"] >= least for row in json.loads(Path("d2/detections.json").read_text()))


def test_the_demo_at_a_reduced_budget_says_that_the_bar_does_not_apply(
    tiny: Path, call, capsys, monkeypatch
) -> None:
    from detectune.cli import demo

    monkeypatch.setattr(demo, "CONFIG", str(tiny))
    assert call("demo", "--output", "out", "SOLVER.MAX_ITER=1") == 0
    shown = capsys.readouterr().out
    assert "does not apply" in shown and "SOLVER.MAX_ITER" in shown and "Total time" in shown
    assert Path("out/report.html").exists()


def test_a_demo_below_the_bar_fails(tiny: Path, call, capsys, monkeypatch) -> None:
    from detectune.cli import demo

    monkeypatch.setattr(demo, "CONFIG", str(tiny))
    assert call("demo", "--output", "out") == 1
    assert "BELOW THE BAR" in capsys.readouterr().out


@pytest.mark.parametrize(
    "harm, words, named",
    [
        (lambda: Path("data/annotations.json").unlink(), (), "annotations.json"),
        (lambda: Path("data/annotations.json").write_text('{"images": ['), (), "annotations.json"),
        (lambda: next(Path("data/images").iterdir()).unlink(), (), "missing"),
        (lambda: None, ("MODEL.NUM_CLASSES=3",), "MODEL.NUM_CLASSES"),
        (lambda: None, ("TRAIN.DATASETS=[tinny]",), "tinny"),
        (
            lambda: Path("w.safetensors").write_bytes(b"nothing"),
            ("TRAIN.WEIGHTS=w.safetensors",),
            "w.safetensors",
        ),
        (lambda: None, ("--output", "data/annotations.json"), "data/annotations.json"),
    ],
)
def test_what_a_user_can_mend_ends_with_two(
    tiny: Path, call, capsys, harm, words: tuple[str, ...], named: str
) -> None:
    harm()
    assert call("train", "tiny.yaml", *words) == 2
    shown = capsys.readouterr()
    assert named in shown.err and "Traceback" not in shown.err


def test_weights_of_another_model_do_not_fit(tiny: Path, call, capsys) -> None:
    assert call("train", "tiny.yaml", "SOLVER.MAX_ITER=1") == 0
    capsys.readouterr()
    assert call("test", "tiny.yaml", "FAST_RCNN.MLP_HEAD_DIM=48", "--output", "other") == 2
    assert "box_head" in capsys.readouterr().err
    assert Path("runs/tiny/model_final.safetensors").exists()
