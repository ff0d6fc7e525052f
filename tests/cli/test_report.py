"""`detectune report` and the texts that training prints at its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detectune.cli.main import main
from detectune.cli.results import ap_table, describe_files, evaluation_table, next_steps
from detectune.report.run import Evaluation

METRICS = {
    f"{task}/{name}": 0.5
    for task in ("bbox", "segm")
    for name in ("AP", "AP50", "AP75", "APs", "APm", "AR100")
}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "evaluation" / "cells_val"
    folder.mkdir(parents=True)
    content = {
        "dataset": "cells_val", "num_images": 30, "num_detections": 9, "metrics": METRICS | {"bbox/APl": -1},
        "per_class": {"round": {"bbox/AP": 0.25, "segm/AP": 0.5, "num_objects": 7}, "long": {"bbox/AP": 0.75}},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(content))
    return tmp_path


def test_the_command_writes_the_page_and_says_where(run_dir: Path, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["report", str(run_dir)])
    assert not end.value.code
    assert capsys.readouterr().out.strip() == f"Report: {run_dir / 'report.html'}"
    assert "cells_val" in (run_dir / "report.html").read_text()


def test_of_a_study_it_writes_the_importances_and_the_page(tmp_path: Path) -> None:
    space = [
        {"key": key, "type": "float", "low": 0.0, "high": 1.0, "scale": "linear", "choices": None,
         "role": "scientific", "condition": None}
        for key in ("MATTERS", "INERT")
    ]  # fmt: skip
    trials = [
        {
            "number": n,
            "params": {"MATTERS": n / 20, "INERT": (7 * n % 20) / 20},
            "state": "complete",
            "values": [n / 20],
        }
        for n in range(20)
    ]
    content = {"format": 1, "name": "s", "objectives": [{"metric": "score", "direction": "maximize"}],
               "space": space, "base": {}, "trials": trials}  # fmt: skip
    (tmp_path / "trials.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path)])
    assert not end.value.code
    found = json.loads((tmp_path / "importance.json").read_text())["objectives"][0]["knobs"]
    assert [row["key"] for row in found] == ["MATTERS", "INERT"]
    assert "Which knob matters" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("name", ["", "absent"])
def test_a_folder_without_a_run_is_a_mistake(tmp_path: Path, capsys, name: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / name)])
    assert end.value.code == 2
    assert str(tmp_path / name) in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tables_show_undefined_as_dash_and_fit_sixty_columns(run_dir: Path) -> None:
    (table,) = ap_table(run_dir)
    box = next(line for line in table.splitlines() if line.startswith("box"))
    assert box.split() == ["box", "0.500", "0.500", "0.500", "0.500", "0.500", "-", "0.500"]
    assert [line.split()[0] for line in table.splitlines()[-2:]] == ["long", "round"]  # best first
    assert max(map(len, table.splitlines())) <= 60
    assert ap_table(run_dir, names=["another"]) == []


def test_many_classes_are_cut_to_best_and_worst() -> None:
    classes = {f"class number {i:03d} with a very long name": {"bbox/AP": i / 100} for i in range(80)}
    table = evaluation_table(Evaluation("many", 5, 5, {"bbox/AP": 0.4}, classes, None, {}, [], []))
    assert "the report has all 80" in table and len(table.splitlines()) == 3 + 2 + 20 + 1
    assert max(map(len, table.splitlines())) <= 60
    assert "0.790" in table and "0.000" in table and "0.450" not in table


def test_recall_of_classes_stands_beside_their_ap_where_it_was_measured() -> None:
    long_name = "a class with a very long name indeed"
    classes = {
        long_name: {"bbox/AP": 0.2, "bbox/AR": 0.3, "segm/AP": 0.4, "segm/AR": 0.5, "num_objects": 7},
        "b": {"bbox/AP": 0.1, "bbox/AR": None, "segm/AP": None, "segm/AR": None, "num_objects": 0},
    }
    metrics = {"bbox/AP": 0.4, "segm/AP": 0.3}
    lines = evaluation_table(Evaluation("few", 5, 5, metrics, classes, None, {}, [], [])).splitlines()
    assert lines[-3].split() == ["class", "box", "AP", "box", "AR", "mask", "AP", "mask", "AR", "objects"]
    assert lines[-2].split()[-5:] == ["0.200", "0.300", "0.400", "0.500", "7"]
    assert lines[-1].split() == ["b", "0.100", "-", "-", "-", "0"]
    assert max(map(len, lines)) <= 60


def test_the_end_of_a_run_names_what_exists_and_what_to_try(run_dir: Path) -> None:
    assert describe_files(run_dir).splitlines() == [f"Detections {run_dir / 'evaluation'}"]
    steps = next_steps(run_dir, config_name="cells.yaml")
    assert "detectune infer cells.yaml" in steps and "30 images" in steps
