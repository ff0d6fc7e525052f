"""What a study's page says first: the verdict, and each gate with its picture and its command. From verdict.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from detectune.report.gate_pictures import picture
from detectune.report.study import SearchedKnob, StudyRecord, StudyTrial, read_knob

TITLES = {
    "boundary": "Is the space wide enough?",
    "enough points": "Are there enough good points?",
    "infeasible": "How much of it cannot work?",
    "optimisation": "Does training go steadily?",
    "instability": "How close is the best rate to breaking down?",
    "length": "Are the runs of the right length?",
    "overfitting": "Do the best get worse again?",
    "saturation": "Do runs go on after they have levelled off?",
    "question": "Is there something better than what you have?",
}


def verdict_view(study: StudyRecord) -> dict[str, Any] | None:
    """What the template shows; None before the study was judged."""
    verdict = study.verdict
    if not verdict.get("gates"):
        return None
    maximize, confirmed = study.objectives[0].maximize, verdict.get("confirmed")
    trials, knobs = judged(study, verdict)
    gates = [_gate(row, trials, knobs, maximize=maximize, confirmed=confirmed) for row in verdict["gates"]]
    return {
        "conclusion": verdict.get("conclusion") or "The study goes on.",
        "change": _is_settled(confirmed) and bool(confirmed and confirmed["change"]),
        "settled": _is_settled(confirmed),
        "next": verdict.get("next"),
        "gates": gates,
        "passed": sum(gate["level"] == "PASS" for gate in gates),
        "winner": _winner(study, verdict),
        "rounds": [_round(row, study) for row in verdict.get("rounds", ())],
        "noise": noise_text(confirmed, study.objectives[0].metric),
        "stale": len(study.trials) > (verdict.get("judged") or {}).get("total", len(study.trials)),
    }


def judged(
    study: StudyRecord, verdict: Mapping[str, Any]
) -> tuple[Sequence[StudyTrial], Sequence[SearchedKnob]]:
    """The trials that the gates looked at, of a study in rounds those of the last one, and their space."""
    about = verdict.get("judged") or {}
    first, count = about.get("first", 0), about.get("count", len(study.trials))
    space = [read_knob(row) for row in about.get("space", ())]
    return [t for t in study.trials if first <= t.number < first + count], space or study.knobs


def tie_band(study: StudyRecord) -> dict[str, float] | None:
    """{"low", "high"}: between them a single run cannot be told from the best; None if the noise was not measured."""
    confirmed, best = study.verdict.get("confirmed"), study.best
    measured = (confirmed or {}).get("short", confirmed)  # of runs as long as the trials
    if not measured or not measured.get("reach") or best is None or not best.values:
        return None
    reach, value = measured["reach"], best.values[0]
    low, high = (value - reach, value) if study.objectives[0].maximize else (value, value + reach)
    return {"low": low, "high": high}


def noise_text(confirmed: Mapping[str, Any] | None, metric: str) -> str:
    """What the noise is, in a sentence."""
    if not confirmed or confirmed.get("noise") is None:
        return (
            f"The noise of {metric} was not measured: differences between trials may be luck. "
            "The option --confirm 3 runs the best again."
        )
    measured = confirmed.get("short", confirmed)  # of runs as long as the trials that the charts show
    if measured.get("noise") is None:
        measured = confirmed
    length = " at the length of a trial" if "short" in confirmed else ""
    return (
        f"Noise: the best vary by {measured['noise']:.2g} in {metric} (standard deviation between seeds{length}). "
        "The shaded bands below hold what cannot be told from the best."
    )


def _is_settled(confirmed: Mapping[str, Any] | None) -> bool:
    """Whether the best as they are now were run again, with every seed."""
    return confirmed is not None and not confirmed.get("newer") and not confirmed.get("unfinished")


def _gate(
    row: Mapping[str, Any], trials: Sequence[StudyTrial], knobs: Sequence[SearchedKnob], *, maximize: bool,
    confirmed: Mapping[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "name": row["name"],
        "title": TITLES.get(row["name"], row["name"]),
        "level": row["level"],
        "text": row["text"],
        "advice": row["advice"],
        "command": row["command"],
        "picture": picture(row, trials, knobs, maximize=maximize, confirmed=confirmed) or Markup(""),
    }


def _winner(study: StudyRecord, verdict: Mapping[str, Any]) -> dict[str, Any] | None:
    confirmed = verdict.get("confirmed")
    if not confirmed or not _is_settled(confirmed) or not confirmed["change"]:
        return None
    row = next(c for c in confirmed["candidates"] if c["name"] == confirmed["winner"])
    changes = [
        {"key": key, "value": value, "base": study.base.get(key)}
        for key, value in row["params"].items()
        if study.base.get(key) != value
    ]
    sd = "" if row["sd"] is None else f" ± {row['sd']:.2g}"
    return {
        "name": row["name"],
        "changes": changes,
        "result": f"{confirmed['metric']} {row['mean']:.4g}{sd} over {len(row['values'])} seeds",
        "file": (verdict.get("winner") or {}).get("file"),
    }


def _round(row: Mapping[str, Any], study: StudyRecord) -> dict[str, Any]:
    page = f"{row['folder']}/report.html"
    return {
        "number": row["round"],
        "page": page if (study.path / page).is_file() else f"{row['folder']}/",
        "trials": row["trials"],
        "length": row["length"],
        "levels": [(gate["name"], gate["level"]) for gate in row["gates"]],
        "changes": [change["text"] for change in row["changes"]],
    }
