"""What suppression, voting and test-time augmentation change: AP of the same trained models, tested in different ways.

    python bench/test_time.py [--seeds 3] [--iterations 200] [--models FOLDER] [--weights FILE...] [--methods NAME...]

For each seed the demo's Mask R-CNN learns for a short time on generated shapes; then its 150 validation images are
tested with the plain rule and with one thing changed at a time. Differences of AP are paired by seed, so their spread
says how steady an effect is. `expected` is the sign that the method's own paper reports. Trained models and what was
measured of them are kept in --models and used again, so that a bench that was stopped goes on; --weights takes models
of the demo that are there already, one for each seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from alternation import write_result
from detectune.config.load import load_config
from detectune.engine.testing import test
from detectune.engine.trainer import train

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "getting_started" / "shapes.yaml"
METRICS = ("bbox/AP", "bbox/AP50", "bbox/AP75", "bbox/AR100", "segm/AP")

SOFT = {"TEST.SOFT_NMS.ENABLED": True}
VOTE = {"TEST.BBOX_VOTE.ENABLED": True}
BOXES = {"TEST.BBOX_AUG.ENABLED": True}
MASKS = {"TEST.MASK_AUG.ENABLED": True}
SCALES = [96, 160]  # the test scale is 128

METHODS: dict[str, dict[str, Any]] = {
    "soft_nms_linear": {
        "keys": SOFT,
        "expected": "+",
        "paper": "Bodla 2017, abstract: 1.1 points of AP more for Faster R-CNN on COCO",
    },
    "soft_nms_gaussian": {
        "keys": SOFT | {"TEST.SOFT_NMS.METHOD": "gaussian"},
        "expected": "+",
        "paper": "Bodla 2017, section 4: about as much as linear weights",
    },
    "box_voting": {"keys": VOTE, "expected": "+", "paper": "Gidaris 2015, 3.3: better placed boxes"},
    "box_voting_iou_avg": {
        "keys": VOTE | {"TEST.BBOX_VOTE.SCORING_METHOD": "IOU_AVG"},
        "expected": "?",
        "paper": "Detectron's scoring methods; no number is published",
    },
    "flip": {
        "keys": BOXES | {"TEST.BBOX_AUG.H_FLIP": True},
        "expected": "+",
        "paper": "Detectron's test_time_aug configurations: higher AP",
    },
    "scales": {
        "keys": BOXES | {"TEST.BBOX_AUG.SCALES": SCALES},
        "expected": "+",
        "paper": "He 2016, appendix B: higher AP, for models trained at several scales (this one saw a single scale)",
    },
    "flip_scales_voting_masks": {
        "keys": BOXES
        | MASKS
        | VOTE
        | {f"TEST.{part}_AUG.{key}": value for part in ("BBOX", "MASK")
           for key, value in (("H_FLIP", True), ("SCALES", SCALES), ("SCALE_H_FLIP", True))},
        "expected": "+",
        "paper": "Detectron's test_time_aug configurations: all of it together",
    },
    "mask_flip": {
        "keys": MASKS | {"TEST.MASK_AUG.H_FLIP": True},
        "expected": "+ (segm)",
        "paper": "Detectron's test_time_aug configurations: higher mask AP",
    },
}  # fmt: skip


def trained(folder: Path, *, seed: int, iterations: int) -> Path:
    """The weights of a seed's model; trains them if they are not there."""
    run = folder / f"shapes_{iterations}_{seed}"
    weights = run / "model_final.safetensors"
    if not weights.exists():
        overrides = {
            "RNG_SEED": seed,
            "SOLVER.MAX_ITER": iterations,
            "TRAIN.EVAL_ITERS": 0,
            "TRAIN.SNAPSHOT_ITERS": 50,
            "TEST.DATASETS": [],
            "DATA_LOADER.NUM_THREADS": 0,
        }
        train(load_config(CONFIG, overrides), output_dir=run)
    return weights


def measured(weights: Path, name: str, keys: dict[str, Any], *, kept: bool) -> dict[str, float]:
    """Metrics and seconds of one way to test; what is `kept` beside the weights is not measured again."""
    file = weights.parent / "measured.json"
    known: dict[str, Any] = json.loads(file.read_text()) if kept and file.exists() else {}
    if name not in known:
        known[name] = measure(weights, keys)
        if kept:
            file.write_text(json.dumps(known, indent=1))
    found: dict[str, float] = known[name]
    return found


def measure(weights: Path, keys: dict[str, Any]) -> dict[str, float]:
    """Metrics and seconds of one way to test."""
    config = load_config(CONFIG, {"DATA_LOADER.NUM_THREADS": 0, **keys})
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        metrics = test(config, weights, output_dir=folder, log=lambda _: None)
        seconds = time.perf_counter() - started
    return {name: metrics[name] for name in METRICS} | {"seconds": seconds}


def compare(plain: list[dict[str, float]], changed: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and spread of the paired differences, in points."""
    out: dict[str, Any] = {}
    for name in METRICS:
        steps = [100 * (b[name] - a[name]) for a, b in zip(plain, changed, strict=True)]
        out[name] = {
            "mean": round(statistics.fmean(steps), 3),
            "sd": round(statistics.stdev(steps), 3) if len(steps) > 1 else None,
        }
    times = [b["seconds"] / a["seconds"] for a, b in zip(plain, changed, strict=True)]
    return {"points": out, "times_as_slow": round(statistics.fmean(times), 2)}


def verdict(expected: str, points: dict[str, Any]) -> str:
    """Whether the sign is the paper's; a mean within one standard deviation of zero says nothing."""
    if expected == "?":
        return "nothing published to compare with"
    step = points["segm/AP" if "segm" in expected else "bbox/AP"]
    if step["sd"] is None:
        return f"{step['mean']:+.2f} points of one model: no spread to judge it by"
    noise = step["sd"]
    if abs(step["mean"]) <= noise or step["mean"] == 0:
        return "within the noise of seeds"
    return "as published" if step["mean"] > 0 else "against what is published"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--models", type=Path, default=Path("runs/bench_test_time"))
    parser.add_argument("--weights", type=Path, nargs="*", default=[])
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    arguments = parser.parse_args()
    seeds = len(arguments.weights) or arguments.seeds
    plain: list[dict[str, float]] = []
    changed: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.methods}
    for seed in range(1, seeds + 1):
        if arguments.weights:
            weights = arguments.weights[seed - 1]
        else:
            weights = trained(arguments.models, seed=seed, iterations=arguments.iterations)
        kept = not arguments.weights
        plain.append(measured(weights, "hard_nms", {}, kept=kept))
        print(
            f"seed {seed}: hard NMS  " + "  ".join(f"{k} {v:.4f}" for k, v in plain[-1].items()), flush=True
        )
        for name in arguments.methods:
            changed[name].append(measured(weights, name, METHODS[name]["keys"], kept=kept))
            row = compare([plain[-1]], [changed[name][-1]])
            points = "  ".join(f"{k} {v['mean']:+.2f}" for k, v in row["points"].items())
            print(f"seed {seed}: {name}  {points}  x{row['times_as_slow']}", flush=True)
    result: dict[str, Any] = {"seeds": seeds, "hard_nms": plain, "methods": {}}
    if not arguments.weights:
        result["iterations"] = arguments.iterations
    for name in arguments.methods:
        method = METHODS[name]
        row = compare(plain, changed[name])
        said = verdict(method["expected"], row["points"])
        result["methods"][name] = {**method, **row, "verdict": said}
        step = row["points"]["bbox/AP"]
        print(f"{name:<26} bbox/AP {step['mean']:+.2f} points (sd {step['sd']})  {said}")
    write_result("test_time", result)


if __name__ == "__main__":
    main()
