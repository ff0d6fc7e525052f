"""The verdict on the study's page: before everything else, each gate with its picture and command, noise everywhere."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import pytest
from made_study import write_study
from made_verdict import write_judged, write_rounds

from detectune.report.gate_pictures import curves, intervals, place, values
from detectune.report.study import SearchedKnob, read_study
from detectune.report.study_page import page_data, render_study, write_study_report
from detectune.report.verdict_view import TITLES, tie_band, verdict_view
from detectune.tuner.judgement import write_judgement


def test_the_verdict_comes_first_with_every_gate_its_picture_and_its_command(tmp_path: Path) -> None:
    folder = write_judged(tmp_path / "s")
    verdict = json.loads((folder / "verdict.json").read_text())
    text = write_study_report(folder).read_text()
    body = text.split("<main>")[1]
    assert body.index("Verdict") < body.index("Best single trial") < body.index("Each knob against")
    assert verdict["conclusion"].startswith("Change: trial") and verdict["conclusion"] in unescape(body)
    assert [gate["name"] for gate in verdict["gates"]] == list(TITLES)
    parts = body.split('<details class="gate')[1:]
    assert len(parts) == len(TITLES)
    for part, gate in zip(parts, verdict["gates"], strict=True):
        part = unescape(part.split("</details>")[0])
        assert gate["text"] in part and TITLES[gate["name"]] in part
        assert '<svg class="gate-picture"' in part and "aria-label" in part
        assert (" open " in part.split(">")[0] + " ") == (
            gate["level"] != "PASS" or gate["name"] == "question"
        )
        assert gate["command"] in part and bool(gate["command"]) == (gate["level"] != "PASS")
    warned = next(gate for gate in verdict["gates"] if gate["level"] != "PASS")
    assert verdict["next"]["command"] == warned["command"].strip()


def test_a_study_that_was_not_judged_has_no_verdict_and_one_without_noise_says_so(tmp_path: Path) -> None:
    assert 'id="verdict"' not in render_study(read_study(write_study(tmp_path / "a", trials=12)))
    folder = write_judged(tmp_path / "b", confirmed=False)
    study = read_study(folder)
    text = unescape(render_study(study))
    assert "perhaps the luckiest" in text and "was not measured" in text
    assert f"detectune tune {folder} --confirm 3 --seeds 3" in text
    assert tie_band(study) is None and page_data(study, [])["tieBand"] is None


def test_a_best_trial_that_came_after_the_confirmation_is_not_shown_as_settled(tmp_path: Path) -> None:
    folder = write_judged(tmp_path / "s")
    assert verdict_view(read_study(folder))["settled"]
    trials = json.loads((folder / "trials.json").read_text())
    first = next(row for row in trials["trials"] if row["state"] == "complete")
    params = {
        key: value * 1.001 if isinstance(value, float) else value for key, value in first["params"].items()
    }
    number = len(trials["trials"])
    trials["trials"].append(first | {"number": number, "params": params, "values": [0.99]})
    (folder / "trials.json").write_text(json.dumps(trials))
    write_judgement(folder)
    study = read_study(folder)
    view = verdict_view(study)
    assert view is not None and not view["settled"] and not view["change"] and view["winner"] is None
    text = unescape(render_study(study))
    assert f"Trial {number} is the best now. It came after the best were run again" in text
    assert f"detectune tune {folder} --confirm 3 --seeds 3" in text and "Best single trial" not in text


def test_a_tie_keeps_what_there_is(tmp_path: Path) -> None:
    text = unescape(render_study(read_study(write_judged(tmp_path / "s", tie=True))))
    assert "Keep what you have" in text and "A tie" in text
    assert 'class="winner"' not in text


def test_the_noise_is_drawn_on_every_comparison(tmp_path: Path) -> None:
    study = read_study(write_judged(tmp_path / "s"))
    noise = study.verdict["confirmed"]["noise"]
    best = study.best
    assert best is not None and best.values is not None
    band = page_data(study, [])["tieBand"]
    # The winner and one that ties with it, three seeds each: Student's t of 4 degrees of freedom.
    assert len(study.verdict["confirmed"]["ties"]) == 1
    assert band["high"] == best.values[0]
    assert band["high"] - band["low"] == pytest.approx(2.776 * 2**0.5 * noise, rel=0.001)
    assert f"the best vary by {noise:.2g}" in render_study(study)


def test_of_rounds_each_is_linked_and_the_last_is_pictured(tmp_path: Path) -> None:
    folder = write_rounds(tmp_path / "s")
    study = read_study(folder)
    text = render_study(study)
    assert text.count("Round 1</a>") == text.count("Round 2</a>") == 1
    assert "winner.yaml" in text and "becomes 0.001 to 1" in text and "<b>they</b>" not in text
    view = verdict_view(study)
    assert view is not None
    boundary = view["gates"][0]["picture"]
    late = [t for t in study.trials if t.number >= 20 and t.state in ("complete", "infeasible")]
    assert 0 < boundary.count("<circle") + boundary.count("<path") <= 4 * len(late)


def test_pictures_of_little_are_none_and_places_follow_the_scale() -> None:
    assert curves([], "nothing") is None and curves([[(1.0, 2.0)]], "a point") is None
    assert values([], maximize=True) is None
    assert intervals({"candidates": [{"name": "base", "values": [None]}], "winner": None}) is None
    rate = SearchedKnob("A", 1e-4, 1.0, "log", [], "scientific")
    assert place(rate, 0.01) == pytest.approx(0.5) and place(rate, 5.0) == 1
    momentum = SearchedKnob("B", 0.9, 0.999, "one_minus_log", [], "scientific")
    assert place(momentum, 0.99) == pytest.approx(0.5)


def test_intervals_show_means_and_deviations_where_they_are() -> None:
    rows = [
        {"name": "base", "values": [0.0, 1.0]},
        {"name": "trial 1", "values": [2.0, 3.0, None]},
    ]
    svg = str(intervals({"candidates": rows, "winner": "trial 1"}))
    assert svg.count("<circle") == 4 and svg.count('class="whisker"') == 2
    assert svg.count('class="mean winner"') == 1 and "1 without a value" in svg
