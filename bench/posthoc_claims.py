"""Are the gains real that a study of inference knobs reports? Many studies of one network, each with its own halves.

    detectune demo --output DEMO
    python bench/posthoc_claims.py --name shapes --weights DEMO/model_final.safetensors \\
        --config getting_started/shapes --fresh-shapes 300
    python bench/posthoc_claims.py --name coco_mini --weights RUN/model_final.safetensors --config RUN/config.yaml

Every study searches on one half of the images of the first of TEST.DATASETS and reports on the other. A gain is
reported only where the interval of the reporting half is above 0. With --fresh-shapes each adopted change is measured
on images that no study has seen: `kept` is what is left of the gain there. Results of several data sets stand side by
side in bench/results/posthoc_claims.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from alternation import RESULTS, write_result
from detectune.cli.places import find_config
from detectune.config.load import Config, load_config
from detectune.data.shapes import SEED, make_shapes
from detectune.tuner.inference_space import inference_space
from detectune.tuner.posthoc import Question, replay_of, study
from detectune.tuner.replay import Replay

METRIC = "bbox/AP"
FILE = "posthoc_claims"


def claim(
    question: Question, config: Config, replay: Replay, fresh: tuple[Config, Replay, float] | None
) -> dict[str, Any]:
    """What one study says, and what a change that it adopts adds to the AP that the fresh images have without it."""
    verdict = study(question, config, replay, log=lambda _: None)
    report = verdict["halves"]["report"]
    row = {
        "seed": question.seed,
        "decision": verdict["decision"],
        "gain_of_tuning_half": verdict["halves"]["tune"]["after"] - verdict["halves"]["tune"]["before"],
        "gain_of_reporting_half": report["after"] - report["before"],
        "interval": [report["low"], report["high"]],
        "changes": {key: after for key, (_, after) in verdict["changes"].items()},
    }
    if fresh is not None and verdict["decision"] == "adopt":
        base, images, before = fresh
        row["kept"] = images.measure(base.with_overrides(row["changes"]), METRIC) - before
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over the studies. `unconfirmed` must be 0."""
    adopted = [row for row in rows if row["decision"] == "adopt"]
    measured = [row["kept"] for row in adopted if "kept" in row]
    return {
        "studies": len(rows),
        "adopted": len(adopted),
        "unconfirmed": sum(row["interval"][0] <= 0 for row in adopted),
        "mean_gain_of_tuning_half": fmean(row["gain_of_tuning_half"] for row in rows),
        "mean_gain_of_reporting_half": fmean(row["gain_of_reporting_half"] for row in rows),
        "fresh_gains": len(measured),
        "fresh_losses": sum(value <= 0 for value in measured),
        "mean_kept": fmean(measured) if measured else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", required=True, help="under which the result is kept")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--settings", type=int, default=300, help="of each study")
    parser.add_argument("--fresh-shapes", type=int, default=0, help="so many new images of shapes")
    given = parser.parse_args()
    config = load_config(find_config(given.config))
    space = inference_space([], config, "bbox")

    def question(seed: int) -> Question:
        return Question(given.name, space, METRIC, settings=given.settings, seed=seed)

    with tempfile.TemporaryDirectory() as folder:
        replay, records, _ = replay_of(question(0), config, given.weights, Path(folder) / "cache")
        fresh = None
        if given.fresh_shapes:
            paths = make_shapes(Path(folder), split="val", num_images=given.fresh_shapes, seed=SEED + 1)
            named = {"fresh": {"images": str(paths.images), "annotations": str(paths.annotations)}}
            other = config.with_overrides({"DATASETS": named, "TEST.DATASETS": ("fresh",)})
            unseen, _, _ = replay_of(question(0), other, given.weights, Path(folder) / "fresh")
            fresh = other, unseen, unseen.measure(other, METRIC)
        rows = []
        for seed in range(1, given.studies + 1):
            rows.append(claim(question(seed), config, replay, fresh))
            print(json.dumps(rows[-1]), flush=True)
    file = RESULTS / f"{FILE}.json"
    known = json.loads(file.read_text())["data"] if file.exists() else {}
    result = {
        "images": len(records), "AP": replay.measure(config, METRIC), "settings": given.settings,
        **summary(rows), "rows": rows,
    }  # fmt: skip
    print({key: value for key, value in result.items() if key != "rows"})
    write_result(FILE, {"data": known | {given.name: result}})


if __name__ == "__main__":
    main()
