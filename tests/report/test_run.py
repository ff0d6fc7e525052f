"""Reading run directories: whole, interrupted, damaged, evaluation only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detectune.errors import UserError
from detectune.report.run import number, read_run, score


def test_a_whole_run_is_read(make_run) -> None:
    run = read_run(make_run())
    assert run.finished and run.iterations == run.planned_iterations == 600
    assert len(run.train_rows) == 30 and len(run.evaluation_rows) == 3
    assert run.config["SOLVER.BASE_LR"] == 0.02 and run.batch == 4 and run.num_train_images == 400
    assert list(run.config["DATASETS"]) == ["shapes_val"]  # one key, not a section
    evaluation = run.evaluations[0]
    assert evaluation.dataset == "shapes_val" and evaluation.tasks == ["bbox", "segm"]
    assert evaluation.metrics["bbox/AP"] == 0.62 and evaluation.metrics["bbox/APl"] is None
    assert sum(sample.worst for sample in evaluation.samples) == 4
    assert all(sample.truth and sample.truth.is_file() for sample in evaluation.samples)


def test_training_time_adds_up_steps_and_not_pauses(make_run) -> None:
    folder = make_run()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    expected = sum(20 * 4 / row["images_per_second"] for row in rows if row["kind"] == "train")
    assert read_run(folder).training_seconds == pytest.approx(expected)


def test_an_interrupted_run_knows_how_far_it_came(make_run) -> None:
    run = read_run(make_run(recorded=300))
    assert not run.finished and run.iterations == 300
    assert run.planned_iterations == pytest.approx(
        600, abs=40
    )  # from the time left, as epochs may have decided


def test_damage_is_named_and_the_rest_is_shown(make_run) -> None:
    folder = make_run()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "itera')
    (folder / "config.yaml").write_text("MODEL: [unclosed")
    (folder / "evaluation/shapes_val/curves.json").write_text("{")
    (folder / "evaluation/shapes_val/samples/03_truth.jpg").unlink()
    run = read_run(folder)
    assert len(run.train_rows) == 30 and run.evaluations[0].curves == {} and run.config == {}
    assert [problem.split(" ")[0].rstrip(":") for problem in run.problems] == [
        "metrics.jsonl",
        "config.yaml",
        "curves.json",
    ]
    assert run.evaluations[0].samples[3].truth is None


def test_a_folder_of_one_evaluation_is_a_run_too(make_run) -> None:
    folder = make_run(trained=False)
    assert read_run(folder).evaluations[0].dataset == "shapes_val"
    assert read_run(folder / "evaluation/shapes_val").evaluations[0].num_images == 100


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_what_is_no_run_is_said(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "place"
    if kind == "empty":
        path.mkdir()
    elif kind == "file":
        path.write_text("x")
    with pytest.raises(UserError, match=str(path)):
        read_run(path)


def test_undefined_numbers_become_none() -> None:
    assert [number(x) for x in (1, 0.5, None, float("nan"), float("inf"), True, "3")] == [
        1.0,
        0.5,
        None,
        None,
        None,
        None,
        None,
    ]
    assert score(-1.0) is None and score(0.0) == 0.0
