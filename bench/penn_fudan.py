"""Training on Penn-Fudan: ours against torchvision's Mask R-CNN, from the same weights, on the same batches.

    python bench/penn_fudan.py [--seeds 3] [--iterations 240] [--depth 18] [--min-size 256] [--batch 4]
        [--regions 128]

For each seed torchvision's model is initialised, its weights go to both, both see the same batches (our loader's:
order, flips and resize included) for the same number of steps of AdamW with the same rates and clipping, and both are
measured on the 50 validation images by the same evaluation, in fp32. (From fresh weights plain SGD at the usual rate
diverges on both sides within five steps: torchvision's initial mask predictor starts at a loss of 10.) Every run is a
process of its own; the two sides take turns.
AP is what to compare: mean and standard deviation over seeds; seconds per step and peak memory come along.
Our weights are measured once more in bf16, the fastest way to run them here: what speed costs in AP.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alternation import peak_memory_mib, write_result
from peers import our_config, penn_fudan_datasets, to_unit_float, torchvision_inputs, torchvision_mask_rcnn

NUM_CLASSES = 2
WEIGHT_DECAY = 0.01
CLIP_GRADIENT_NORM = 5.0


def config_for(arguments: dict[str, Any], seed: int, weights: str = "") -> Any:
    values = {
        "DATASETS": penn_fudan_datasets(),
        "RNG_SEED": seed,
        "DATA_LOADER.NUM_THREADS": 0,
        "TRAIN.DATASETS": ["train"],
        "TEST.DATASETS": ["val"],
        "TRAIN.IMS_PER_BATCH": arguments["batch"],
        "TRAIN.BATCH_SIZE_PER_IM": arguments["regions"],
        "TRAIN.RPN_POST_NMS_TOP_N": 1000,
        "TRAIN.FREEZE_AT": 0,
        "TRAIN.WEIGHTS": weights,
        "TRAIN.AUTO_RESUME": False,
        "SOLVER.OPTIMIZER": "adamw",
        "SOLVER.BASE_LR": arguments["learning_rate"],
        "SOLVER.LR_POLICY": "one_cycle",
        "SOLVER.WARM_UP_ITERS": 0,
        "SOLVER.MAX_ITER": arguments["iterations"],
        "SOLVER.WEIGHT_DECAY": WEIGHT_DECAY,
        "SOLVER.CLIP_GRADIENT_NORM": CLIP_GRADIENT_NORM,
        "SOLVER.LOG_LR_CHANGE_THRESHOLD": 1e9,
    }
    return our_config(
        arguments["depth"],
        num_classes=NUM_CLASSES,
        min_size=arguments["min_size"],
        max_size=2 * arguments["min_size"],
        norm="batch",
        **values,
    )


def initial_torchvision(arguments: dict[str, Any], seed: int) -> Any:
    torch.manual_seed(seed)
    return torchvision_mask_rcnn(
        arguments["depth"],
        num_classes=NUM_CLASSES,
        min_size=arguments["min_size"],
        max_size=2 * arguments["min_size"],
        norm="batch",
        trainable_stages=5,
        box_batch_size_per_image=arguments["regions"],
        rpn_post_nms_top_n_train=1000,
    )


def run_torchvision(arguments: dict[str, Any], seed: int) -> dict[str, float]:
    """torchvision's side: its reference recipe's loop, without what does not change the result."""
    from hotcoco import mask as rle

    from detectune.data.loader import build_loader
    from detectune.engine.schedule import lr_at
    from detectune.engine.solver import build_schedule
    from detectune.evaluation.coco import evaluate_coco

    config = config_for(arguments, seed)
    model = initial_torchvision(arguments, seed).train()
    # Detectron's rule, which our side follows too: biases learn twice as fast and do not decay.
    weights = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": biases, "weight_decay": 0.0}],
        betas=config.SOLVER.BETAS,
        eps=config.SOLVER.EPS,
    )
    seconds = []
    batches = build_loader(config, training=True)
    schedule = build_schedule(config, num_images=len(batches.records), log=print)
    for iteration, batch in zip(range(arguments["iterations"]), batches, strict=False):
        rate = lr_at(schedule, iteration)
        pictures, targets = torchvision_inputs(batch, "cpu")
        optimizer.param_groups[0]["lr"] = rate
        optimizer.param_groups[1]["lr"] = 2 * rate
        torch.manual_seed(seed * 100_003 + iteration)
        started = time.perf_counter()
        loss = sum(model(pictures, targets).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*weights, *biases], CLIP_GRADIENT_NORM)
        optimizer.step()
        seconds.append(time.perf_counter() - started)

    model.eval()
    loader = build_loader(config, training=False, dataset="val")
    rows, test_seconds = [], []
    for record in loader.records:
        picture = np.asarray(Image.open(record.file_name).convert("RGB"))
        started = time.perf_counter()
        with torch.no_grad():
            found = model([to_unit_float(picture)])[0]
        binary = (found["masks"][:, 0] > 0.5).to(torch.uint8).numpy()
        test_seconds.append(time.perf_counter() - started)
        for k in range(len(found["scores"])):
            x1, y1, x2, y2 = found["boxes"][k].tolist()
            encoded = rle.encode(np.asfortranarray(binary[k]))
            counts = encoded["counts"]
            encoded["counts"] = counts.decode() if isinstance(counts, bytes) else counts
            rows.append(
                {
                    "image_id": record.image_id,
                    "category_id": loader.class_info.category_ids[int(found["labels"][k]) - 1],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(found["scores"][k]),
                    "segmentation": encoded,
                }
            )
    metrics = evaluate_coco(loader.records, rows, class_info=loader.class_info).metrics
    return summary(metrics, seconds, test_seconds)


def run_detectune(arguments: dict[str, Any], seed: int) -> dict[str, float]:
    """Our side: an ordinary training run through `train`, then `test`."""
    from detectune.engine.testing import test
    from detectune.engine.trainer import train
    from detectune.weights.native import save_weights
    from detectune.weights.torchvision import from_torchvision

    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start.safetensors"
        save_weights(start, from_torchvision(initial_torchvision(arguments, seed).state_dict()), {})
        config = config_for(arguments, seed, weights=str(start))
        result = train(config, output_dir=Path(folder) / "run")
        rows = [
            json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        ]
        steps = [  # without waiting for images, as on the other side
            arguments["batch"] / row["images_per_second"] - row["data_seconds"]
            for row in rows
            if row["kind"] == "train"
        ]
        memory = peak_memory_mib()
        metrics = test(config, result.weights, output_dir=Path(folder) / "test")
        timed = json.loads((Path(folder) / "test" / "evaluation" / "val" / "metrics.json").read_text())
        fast = config.with_overrides({"TEST.PRECISION": "bf16"})
        fast_metrics = test(fast, result.weights, output_dir=Path(folder) / "fast")
    return summary(metrics, steps, [timed["seconds_per_image"]]) | {
        "peak_memory_mib": memory,
        "bf16_minus_fp32_bbox/AP": fast_metrics["bbox/AP"] - metrics["bbox/AP"],
        "bf16_minus_fp32_segm/AP": fast_metrics["segm/AP"] - metrics["segm/AP"],
    }


def summary(metrics: dict[str, Any], steps: list[float], images: list[float]) -> dict[str, float]:
    return {
        "bbox/AP": metrics["bbox/AP"],
        "segm/AP": metrics["segm/AP"],
        "bbox/AP50": metrics["bbox/AP50"],
        "segm/AP50": metrics["segm/AP50"],
        "seconds_per_step": statistics.median(steps),
        "seconds_per_test_image": statistics.median(images),
        "peak_memory_mib": peak_memory_mib(),
    }


def in_own_process(side: Any, arguments: dict[str, Any], seed: int) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result: dict[str, float] = pool.apply(side, (arguments, seed))
        return result


def mean_and_sd(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """{name: [mean, sample standard deviation]} over seeds."""
    return {
        key: [statistics.mean(r[key] for r in rows), statistics.stdev(r[key] for r in rows)]
        for key in rows[0]
    }


def cost_ratios(runs: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Ours over theirs, medians over seeds: a run that another program disturbed does not count."""
    return {
        key: statistics.median(r[key] for r in runs["detectune"])
        / statistics.median(r[key] for r in runs["torchvision"])
        for key in ("seconds_per_step", "seconds_per_test_image", "peak_memory_mib")
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=240)
    parser.add_argument("--depth", type=int, default=18, choices=(18, 50))
    parser.add_argument("--min-size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--regions", type=int, default=128, help="that train the heads, per image")
    parser.add_argument("--learning-rate", type=float, default=0.001)
    arguments = vars(parser.parse_args())
    runs: dict[str, list[dict[str, float]]] = {"torchvision": [], "detectune": []}
    first = arguments["first_seed"]
    for seed in range(first, first + arguments["seeds"]):
        for name, side in (("torchvision", run_torchvision), ("detectune", run_detectune)):
            runs[name].append(in_own_process(side, arguments, seed))
            shown = ", ".join(f"{k} {v:.3f}" for k, v in runs[name][-1].items())
            print(f"seed {seed} {name:12} {shown}", flush=True)
    means = {name: mean_and_sd(rows) for name, rows in runs.items()}
    result = {"arguments": arguments, "runs": runs, "mean_sd": means, "ratios": cost_ratios(runs)}
    write_result("penn_fudan", result)


if __name__ == "__main__":
    main()
