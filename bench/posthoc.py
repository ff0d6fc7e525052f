"""Settings of the inference knobs on raw outputs beside `test` with the same settings: seconds for each, the same AP.

    python bench/posthoc.py --weights model_final.safetensors [--config getting_started/shapes] [--settings 12]
    python bench/posthoc.py --weights model_final.safetensors --everything --search 2000

The network runs once over TEST.DATASETS; then random settings of the default space (and, with --everything, of every
knob within reach) are measured in turn by replaying the raw outputs and by `test`, both on all images. `ratio` is the
time of `test` (reading images, network, suppression, evaluation, its files; no pictures are drawn) over that of the
replay. Both are processor seconds of this process: on a machine that others use, the wall clock flatters the shorter
one. Proposals and masks are made once for each of a few thresholds, so random settings pay for what a search pays once:
--search also runs one of so many settings (a study tries 2000), its judgement included; `ratio` there is the time of
`test` on as many images as choose, over that of one of its settings.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alternation import write_result
from detectune.cli.places import find_config
from detectune.config.load import Config, load_config
from detectune.engine import testing
from detectune.tuner.inference_space import inference_space, within_reach
from detectune.tuner.many_settings import setting_at
from detectune.tuner.posthoc import Question, replay_of, study
from detectune.tuner.space import Entry


def beside(
    config: Config, weights: Path, *, metric: str, settings: int, everything: bool, search: int
) -> dict[str, Any]:
    """Times and APs of both ways, setting by setting in turn."""
    task = metric.partition("/")[0]
    keys = [Entry(key, {}, "") for key in within_reach(config, task)] if everything else []
    space = inference_space(keys, config, task)
    question = Question("bench", space, metric, settings=search)
    rng, flat, rows = np.random.default_rng(0), config.flat(), []
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        replay, _, files = replay_of(question, config, weights, Path(folder) / "cache", log=lambda _: None)
        once = time.perf_counter() - started
        for _ in range(settings):
            values = setting_at(space, flat, rng.random(len(space)))
            changed = config.with_overrides(values)
            started = time.process_time()
            fast = replay.measure(changed, metric)
            between = time.process_time()
            slow = testing.test(changed, weights, output_dir=Path(folder) / "test", log=lambda _: None)[
                metric
            ]
            ended = time.process_time()
            rows.append(
                {"replay": between - started, "test": ended - between, "difference": abs(fast - slow)}
            )
            print(
                f"replay {rows[-1]['replay']:.3f} s  test {rows[-1]['test']:.2f} s  AP {fast:.4f}", flush=True
            )
        result: dict[str, Any] = {
            "knobs": list(space.keys),
            "images": len(replay),
            "seconds_of_the_network_once": once,
            "cache_bytes": files.size,
            "processor_seconds_per_setting": {
                way: statistics.mean(row[way] for row in rows) for way in ("replay", "test")
            },
            "ratio": sum(row["test"] for row in rows) / sum(row["replay"] for row in rows),
            "median_ratio": statistics.median(row["test"] / row["replay"] for row in rows),
            "smallest_ratio": min(row["test"] / row["replay"] for row in rows),
            "largest_difference_of_ap": max(row["difference"] for row in rows),
        }
        if search:
            started = time.process_time()
            verdict = study(question, config, replay, log=lambda _: None)
            each = (time.process_time() - started) / verdict["settings"]
            share = verdict["halves"]["tune"]["images"] / len(replay)
            result["search"] = {
                "settings": verdict["settings"], "seconds": verdict["seconds"], "sentence": verdict["sentence"],
                "processor_seconds_per_setting": each,
                "ratio": share * result["processor_seconds_per_setting"]["test"] / each,
            }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--config", default="getting_started/shapes")
    parser.add_argument("--settings", type=int, default=12)
    parser.add_argument("--search", type=int, default=0)
    parser.add_argument(
        "--everything", action="store_true", help="also every knob within reach, of boxes and of masks"
    )
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    testing.NUM_SAMPLES = testing.NUM_WORST = 0
    config = load_config(find_config(arguments.config))
    spaces = {"default": ("bbox/AP", False)}
    if arguments.everything:
        spaces |= {"everything": ("bbox/AP", True), "everything of masks": ("segm/AP", True)}
    result = {
        name: beside(
            config, arguments.weights, metric=metric, settings=arguments.settings, everything=everything,
            search=arguments.search,
        )
        for name, (metric, everything) in spaces.items()
    }  # fmt: skip
    write_result("posthoc", {"config": arguments.config, "threads": torch.get_num_threads(), **result})


if __name__ == "__main__":
    main()
