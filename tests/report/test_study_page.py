"""The study's page as text: the best configuration first, everything accounted for, nothing fetched, little space."""

from __future__ import annotations

import json
import os
from html import unescape
from pathlib import Path

import pytest
from made_study import write_study
from ruamel.yaml import YAML

from detectune.report.study import read_study
from detectune.report.study_page import as_yaml, page_data, render_study, write_study_report


def test_the_best_configuration_comes_first_as_a_diff_and_as_yaml(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", trials=24)
    best = read_study(folder).best
    text = write_study_report(folder).read_text()
    assert best is not None
    rate = best.params["SOLVER.BASE_LR"]
    assert f"+ SOLVER.BASE_LR: {rate:g}" in text and "- SOLVER.BASE_LR: 0.001" in text
    assert text.index("Best configuration") < text.index("Each knob against")
    yaml = unescape(text.split('data-text="')[1].split('"')[0])
    assert YAML(typ="safe").load(yaml)["SOLVER"]["BASE_LR"] == rate


def test_yaml_keeps_types_and_nests() -> None:
    values = {"A.B": 1e-05, "A.C": "adamw", "D": [1, 2], "A.E.F": True}
    assert YAML(typ="safe").load(as_yaml(values)) == {
        "A": {"B": 1e-05, "C": "adamw", "E": {"F": True}},
        "D": [1, 2],
    }


def test_every_trial_stands_in_the_table_with_its_reason_and_its_run(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", trials=60)
    (folder / "trials" / "0004" / "report.html").write_text("page")
    (folder / "trials" / "0005" / "metrics.jsonl").unlink()
    text = write_study_report(folder).read_text()
    study = read_study(folder)
    assert text.count("<tr data-trial=") == 60
    assert 'href="trials/0004/report.html"' in text and 'href="trials/0005/"' in text
    assert "2 attempts" in text
    for trial in study.trials:
        if trial.reason:
            assert trial.reason.split("<")[0] in unescape(text)
    assert "&lt;0011&gt;" in text and "<0011>" not in text  # also inside the data


def test_every_run_that_has_ended_gets_its_own_page_once(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", trials=5, running=True)
    states = {trial.number: trial.state for trial in read_study(folder).trials}
    ended = [number for number, state in states.items() if state not in ("running", "waiting")]
    (folder / "trials" / f"{ended[0]:04d}" / "config.yaml").unlink()  # a page all the same
    text = write_study_report(folder).read_text()
    pages = {number: folder / "trials" / f"{number:04d}" / "report.html" for number in states}
    assert [number for number, page in pages.items() if page.exists()] == ended and 0 < len(ended) < 5
    assert all(f'href="trials/{number:04d}/report.html"' in text for number in ended)
    assert "bbox/AP" in pages[ended[-1]].read_text() or "Loss" in pages[ended[-1]].read_text()
    before = {number: pages[number].stat().st_mtime_ns for number in ended}
    numbers = pages[ended[0]].with_name("metrics.jsonl")
    os.utime(numbers, ns=(before[ended[0]] + 10**9,) * 2)  # it went on
    write_study_report(folder)
    after = {number: pages[number].stat().st_mtime_ns for number in ended}
    assert [number for number in ended if after[number] != before[number]] == ended[:1]


def test_it_asks_the_network_for_nothing(tmp_path: Path) -> None:
    text = write_study_report(write_study(tmp_path / "s", trials=3)).read_text()
    assert "default-src 'none'" in text and "connect-src" not in text.split("<style>")[0]
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text


def test_three_hundred_trials_stay_below_a_megabyte(tmp_path: Path) -> None:
    assert len(render_study(read_study(write_study(tmp_path / "s", trials=300))).encode()) < 1_000_000


@pytest.mark.parametrize("latency", [False, True])
def test_the_data_of_the_charts_are_the_study(tmp_path: Path, latency: bool) -> None:
    study = read_study(write_study(tmp_path / "s", trials=40, latency=latency))
    text = render_study(study)
    data = json.loads(text.split('data-part="data">')[1].split("</script>")[0])
    assert [t["number"] for t in data["trials"]] == list(range(40))
    assert all(t["params"] == study.trials[t["number"]].params for t in data["trials"])
    assert bool(data["front"]) == latency and len(data["objectives"]) == 1 + latency
    assert ("Pareto front" in text) == latency
    ended = [t for t in data["trials"] if t["end"] is not None]
    assert len(ended) == 40 and min(t["start"] for t in ended) == 0
    assert len(data["bestOfN"]) == 40


@pytest.mark.parametrize("trials", [0, 1, 2])
def test_a_study_that_has_just_begun_has_a_page(tmp_path: Path, trials: int) -> None:
    study = read_study(write_study(tmp_path / "s", trials=trials, running=True))
    text = render_study(study)
    assert "No trial has been trained to the end yet" in text
    assert page_data(study, [])["bestOfN"] == []


def test_importance_is_shown_with_its_uncertainty_or_says_why_not(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", trials=24)
    assert "Computed when the study ends" in write_study_report(folder).read_text()
    knobs = [{"key": "SOLVER.BASE_LR", "importance": 0.7, "low": 0.55, "high": 0.8}]
    content = {
        "format": 1,
        "method": "PED-ANOVA",
        "note": "",
        "objectives": [{"metric": "bbox/AP", "knobs": knobs}],
    }
    (folder / "importance.json").write_text(json.dumps(content))
    text = write_study_report(folder).read_text()
    assert "70 % <small>55" in text and "left:55.0%;width:25.0%" in text
    (folder / "importance.json").write_text(json.dumps({"note": "Too few trials.", "objectives": []}))
    assert "Too few trials." in write_study_report(folder).read_text()


def test_text_of_a_study_cannot_become_markup(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", trials=2)
    content = json.loads((folder / "trials.json").read_text())
    evil = "</script><img src=x onerror=alert(1)>"
    content["name"] = content["trials"][0]["reason"] = content["trials"][0]["worker"] = evil
    (folder / "trials.json").write_text(json.dumps(content))
    assert "<img" not in write_study_report(folder).read_text()
