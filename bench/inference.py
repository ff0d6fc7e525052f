"""Inference of an R-50-FPN Mask R-CNN at 800 px against torchvision's, in alternation.

    python bench/inference.py [--rounds 5] [--images 4] [--min-size 800]

Same photographs (COCO val), same weights: the seeded recipe of the goldens, whose detections are many and stable. Time
is from a decoded picture to boxes, scores and full-size masks. Detections of both are matched one to one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.ops import box_iou

from alternation import Contender, alternate, write_result
from peers import (
    ALLOCATOR,
    COCO_CLASSES,
    SEEDED_STD_RGB,
    our_config,
    seeded_state,
    shared_folder,
    torchvision_mask_rcnn,
)


def photographs(count: int) -> list[np.ndarray]:
    folder = shared_folder() / "data" / "coco_mini" / "val2017"
    return [np.asarray(Image.open(p).convert("RGB")) for p in sorted(folder.glob("*.jpg"))[:count]]


def bench_config(min_size: int, **more: Any) -> Any:
    return our_config(
        50,
        num_classes=COCO_CLASSES,
        min_size=min_size,
        max_size=round(min_size * 1333 / 800),
        std=SEEDED_STD_RGB,
        **more,
    )


def setup_torchvision(pictures: list[np.ndarray], min_size: int) -> Callable[[], Any]:
    from detectune.weights.torchvision import to_torchvision
    from peers import to_unit_float

    model = torchvision_mask_rcnn(
        50,
        num_classes=COCO_CLASSES,
        min_size=min_size,
        max_size=round(min_size * 1333 / 800),
        std=SEEDED_STD_RGB,
    )
    model.load_state_dict(to_torchvision(seeded_state()))
    model.eval()

    def step() -> list[Any]:
        with torch.no_grad():
            return [model([to_unit_float(p)])[0] for p in pictures]

    return step


def setup_detectune(
    pictures: list[np.ndarray], min_size: int, precision: str, compiled: bool
) -> Callable[[], Any]:
    from detectune.engine.inference import Predictor
    from detectune.models.build import build_detector

    config = bench_config(min_size, **{"TEST.PRECISION": precision, "TEST.COMPILE": compiled})
    model = build_detector(config, num_classes=COCO_CLASSES)
    model.load_state_dict(seeded_state())
    predictor = Predictor(config, model=model)
    return lambda: [predictor(p) for p in pictures]


def agreement(pictures: list[np.ndarray], min_size: int) -> dict[str, Any]:
    """How many of torchvision's detections ours has too (IoU >= 0.99, score within 1e-3, same class)."""
    theirs = setup_torchvision(pictures, min_size)()
    ours = setup_detectune(pictures, min_size, "fp32", False)()
    matched = total = surplus = 0
    for a, b in zip(theirs, ours, strict=True):
        same = box_iou(a["boxes"], b.boxes) >= 0.99
        same &= a["labels"][:, None] == b.labels[None]
        same &= (a["scores"][:, None] - b.scores[None]).abs() <= 1e-3
        total += len(a["boxes"])
        matched += int(same.any(1).sum())
        surplus += int((~same.any(0)).sum())
    return {"torchvision_detections": total, "matched": matched, "surplus": surplus}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--min-size", type=int, default=800)
    arguments = parser.parse_args()
    pictures = photographs(arguments.images)
    given = (pictures, arguments.min_size)

    equal = agreement(*given)
    print(f"agreement in fp32: {equal}", flush=True)
    contenders = [
        Contender("torchvision fp32", setup_torchvision, given),
        Contender("torchvision fp32, allocator tuned", setup_torchvision, given, ALLOCATOR),
        Contender("detectune fp32", setup_detectune, (*given, "fp32", False), ALLOCATOR),
        Contender("detectune fp32 compiled", setup_detectune, (*given, "fp32", True), ALLOCATOR),
        Contender("detectune bf16", setup_detectune, (*given, "bf16", False), ALLOCATOR),
        Contender("detectune bf16 compiled", setup_detectune, (*given, "bf16", True), ALLOCATOR),
    ]
    timings = alternate(contenders, rounds=arguments.rounds)
    base = timings["torchvision fp32"].median
    rows = {
        name: {
            "median_seconds_per_image": round(t.median / len(pictures), 4),
            "spread_seconds_per_image": round(t.spread / len(pictures), 4),
            "speed_against_torchvision": round(base / t.median, 3),
            "peak_memory_mib": round(t.peak_memory_mib),
            "setup_seconds": round(t.setup_seconds, 1),
        }
        for name, t in timings.items()
    }
    for name, row in rows.items():
        print(f"{name:36} {row['median_seconds_per_image']:8.3f} s  {row['speed_against_torchvision']:6.2f}x")
    device = "gpu" if torch.cuda.is_available() else "cpu"
    result = {"arguments": vars(arguments), "agreement_fp32": equal, "results": rows}
    write_result(f"inference_{device}", result)


if __name__ == "__main__":
    main()
