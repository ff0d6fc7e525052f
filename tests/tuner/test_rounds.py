"""Rounds from the command line: a bad rate is found and mended, the same command goes on, what is asked stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detectune.cli.main import main
from detectune.config.load import load_config
from detectune.tuner.history import from_json
from detectune.tuner.narrowing import next_space
from detectune.tuner.rounds import Plan

Command = Callable[..., str]
ROUNDS = ("--knobs", "SOLVER.BASE_LR", "--rounds", 2, "--trials", 9, "--short", 0.5, "--confirm", 1, "--seeds", 3,
          "--output", "study", "SOLVER.BASE_LR=0.0005")  # fmt: skip


@pytest.mark.parametrize(
    ("rounds", "counts"), [(1, [60]), (2, [24, 36]), (3, [24, 18, 18]), (4, [24, 12, 12, 12])]
)
def test_the_trials_are_shared_among_the_rounds(rounds: int, counts: list[int]) -> None:
    assert Plan(rounds=rounds).trials_of(60) == counts
    assert sum(Plan(rounds=rounds).trials_of(61)) == 61


def test_a_bad_rate_is_mended_and_the_same_command_trains_nothing_twice(
    digits: Path, command: Command
) -> None:
    said = command("tune", digits, *ROUNDS)
    folder = digits.parent / "study"
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["winner"] is not None and "Verdict: Change: trial" in said
    winner = load_config(folder / "winner.yaml")
    assert winner.SOLVER.BASE_LR == verdict["winner"]["params"]["SOLVER.BASE_LR"] > 0.005
    assert winner.SOLVER.MAX_ITER == 60, "the winner is for a full run"
    text = (folder / "winner.yaml").read_text()
    assert "\u00b1" in text and "SOLVER.BASE_LR: 0.0005 ->" in text
    assert [part["trials"] for part in verdict["rounds"]] == [4, 5]
    trials = json.loads((folder / "trials.json").read_text())["trials"]
    assert [trial["number"] for trial in trials] == list(range(9))
    for trial in trials:
        short = load_config(folder / trial["run"] / "config.yaml")
        assert short.SOLVER.MAX_ITER == 30 and trial["params"]["SOLVER.BASE_LR"] == short.SOLVER.BASE_LR
    first, second = (from_json(json.loads((folder / f"round_{n}/trials.json").read_text())) for n in (1, 2))
    expected, changes = next_space(first)
    assert second.space == expected
    assert [row["text"] for row in verdict["rounds"][0]["changes"]] == [str(change) for change in changes]
    final = json.loads((folder / "final" / "confirm.json").read_text())
    assert final["change"] and len(final["candidates"]) == 2 and len(final["seeds"]) == 3
    assert set(final["seeds"]).isdisjoint(trial["seed"] for trial in trials)
    assert (
        load_config(folder / "final/confirm/base" / str(final["seeds"][0]) / "config.yaml").SOLVER.MAX_ITER
        == 60
    )
    names = [gate["name"] for gate in verdict["gates"]]
    assert names[0] == "boundary" and names[-1] == "question" and verdict["gates"][-1]["level"] == "PASS"
    page = (folder / "report.html").read_text()
    assert 'href="round_1/report.html"' in page and (folder / "round_1" / "report.html").is_file()
    files = [*folder.glob("**/model_final.safetensors")]
    stamps = {file: file.stat().st_mtime_ns for file in files}
    again = command("tune", "study")
    assert {file: file.stat().st_mtime_ns for file in folder.glob("**/model_final.safetensors")} == stamps
    assert json.loads((folder / "verdict.json").read_text()) == verdict and "Verdict: Change" in again
    other = [*ROUNDS]
    other[other.index("--short") + 1] = 0.25
    assert "rounds that ask something else" in command("tune", digits, *other, code=2)


def test_a_search_is_confirmed_afterwards_and_goes_on_by_its_folder(digits: Path, command: Command) -> None:
    command("tune", digits, "--knobs", "SOLVER.BASE_LR=0.01:0.3:log", "--trials", 4, "--output", "study",
            "SOLVER.MAX_ITER=30")  # fmt: skip
    verdict = json.loads(Path("study/verdict.json").read_text())
    question = verdict["gates"][-1]
    assert question["level"] == "WARN" and question["command"] == "detectune tune study --confirm 3 --seeds 3"
    said = command(*question["command"].split()[1:-4], "--confirm", 1, "--seeds", 2, "--instability")
    confirmed = json.loads(Path("study/confirm.json").read_text())
    assert confirmed["candidates"][0]["name"] == "base" and len(confirmed["candidates"]) == 2
    assert [run["factor"] for run in confirmed["above"]] == [2, 5, 10]
    assert confirmed["conclusion"] in said and "instability" in said
    assert json.loads(Path("study/verdict.json").read_text())["conclusion"] == confirmed["conclusion"]
    said = command("tune", "study", "--trials", 5, "--confirm", 2, "--seeds", 3, "--minutes", 0.001)
    unfinished = json.loads(Path("study/confirm.json").read_text())["unfinished"]
    assert unfinished["total"] == 9 and 3 <= unfinished["missing"] <= 5, (
        "what had ended is read, nothing begins"
    )
    assert f"{unfinished['missing']} of the 9 runs with new seeds are missing" in said
    assert unfinished["command"] in said and "--trials 4 --confirm 2 --seeds 3" in unfinished["command"]
    said = command("tune", "study", "--trials", 5, "--minutes", 0.001)
    going_on = "1 of its 5 trials are missing. It goes on with: detectune "
    assert going_on in said
    command(*said.split(going_on)[1].splitlines()[0].split())
    assert len(json.loads(Path("study/trials.json").read_text())["trials"]) == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seeds", 3), "--seeds needs --rounds or --confirm"),
        (("--rounds", 3, "--trials", 8), "8 trials are too few for 3 rounds"),
        (("--rounds", 2, "--short", 2), "--short must be above 0"),
        (("--confirm", 2, "--seeds", 1), "at least 2"),
        (("--rounds", 2, "--ray", "local"), "leave out --join and --ray"),
    ],
)
def test_what_cannot_be_is_said(digits: Path, capsys, words: tuple[object, ...], said: str) -> None:
    assert said in refused(capsys, digits, "--knobs", "SOLVER.BASE_LR", "--output", "study", *words)


@pytest.mark.parametrize("ends", ["1", "a:b", "0.1:0.01", "1:2:cube"])
def test_a_range_that_is_none_is_refused(digits: Path, capsys, ends: str) -> None:
    assert "SOLVER.BASE_LR" in refused(capsys, digits, "--knobs", f"SOLVER.BASE_LR={ends}")


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What `detectune tune`, run in this process, says about its mistake."""
    with pytest.raises(SystemExit) as end:
        main(["tune", *map(str, words)])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_rounds_that_the_minutes_cut_short_go_on_with_more(digits: Path, command: Command) -> None:
    said = command("tune", digits, *ROUNDS[:-1], "--minutes", 0.001, ROUNDS[-1])
    folder = digits.parent / "study"
    verdict = json.loads((folder / "verdict.json").read_text())
    cut = verdict["confirmed"]
    assert cut["unfinished"]["missing"] in (8, 9), "one trial may have begun"
    assert "round 1 of 2" in cut["conclusion"] and verdict["winner"] is None
    assert cut["unfinished"]["command"] in said and not (folder / "round_2").exists()
    assert verdict["gates"][-1]["command"] == cut["unfinished"]["command"]
    assert "Not finished" in (folder / "report.html").read_text()
    command(*cut["unfinished"]["command"].split()[1:-1], 30)
    verdict = json.loads((folder / "verdict.json").read_text())
    assert [part["trials"] for part in verdict["rounds"]] == [4, 5] and sum(verdict["ends"].values()) == 9
    assert "unfinished" not in verdict["confirmed"]
