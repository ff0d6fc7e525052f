"""One training step of an R-50-FPN Mask R-CNN at 800 px against torchvision's, in alternation.

    python bench/training_step.py [--rounds 5] [--min-size 800] [--images 2]

Same photographs (COCO), same weights (the seeded recipe of the goldens, whose proposals are many and sensible), same
sampling sizes, two frozen stages, SGD with momentum. torchvision runs in eager fp32 as it comes, and once more with the
allocator settings that our command line gives itself, so that what is ours and what is the allocator's can be told
apart. A step is forward, backward and update, without data loading; ours is the trainer's own `train_step`.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from alternation import Contender, alternate, write_result
from peers import (
    ALLOCATOR,
    COCO_CLASSES,
    SEEDED_STD_RGB,
    coco_datasets,
    our_config,
    seeded_state,
    torchvision_inputs,
    torchvision_mask_rcnn,
)


def config_for(min_size: int, images: int, precision: str, weights: str = "") -> Any:
    values: dict[str, Any] = {
        "DATASETS": coco_datasets(),
        "TRAIN.DATASETS": ["train"],
        "TRAIN.IMS_PER_BATCH": images,
        "TRAIN.USE_FLIPPED": False,
        "DATA_LOADER.NUM_THREADS": 0,
        "SOLVER.PRECISION": precision,
        "SOLVER.BASE_LR": 1e-4,
        "MODEL.DEVICE": "auto",
        "TRAIN.WEIGHTS": weights,
    }
    return our_config(
        50,
        num_classes=COCO_CLASSES,
        min_size=min_size,
        max_size=round(min_size * 1333 / 800),
        std=SEEDED_STD_RGB,
        **values,
    )


def first_batch(config: Any) -> Any:
    from detectune.data.loader import build_loader

    return next(iter(build_loader(config, training=True)))


def setup_torchvision(min_size: int, images: int) -> Callable[[], Any]:
    from detectune.weights.torchvision import to_torchvision

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torchvision_mask_rcnn(
        50,
        num_classes=COCO_CLASSES,
        min_size=min_size,
        max_size=round(min_size * 1333 / 800),
        std=SEEDED_STD_RGB,
    )
    model.load_state_dict(to_torchvision(seeded_state()))
    model = model.to(device).train()
    pictures, targets = torchvision_inputs(first_batch(config_for(min_size, images, "fp32")), device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        loss = sum(model(pictures, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def setup_detectune(min_size: int, images: int, precision: str) -> Callable[[], Any]:
    from detectune.engine.run_directory import RunDirectory
    from detectune.engine.starting import start_run
    from detectune.engine.trainer import train_step
    from detectune.weights.native import save_weights

    folder = tempfile.TemporaryDirectory()
    weights = Path(folder.name) / "start.safetensors"
    save_weights(weights, seeded_state(), {})
    config = config_for(min_size, images, precision, str(weights))
    run = start_run(config, RunDirectory(Path(folder.name)), log=lambda _: None, found=None)
    run.model.train()
    batches = itertools.repeat(first_batch(config))

    def step(folder: Any = folder) -> None:  # the folder lives as long as the run that writes there
        train_step(run, batches)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--min-size", type=int, default=800)
    parser.add_argument("--images", type=int, default=2)
    arguments = parser.parse_args()
    sizes = (arguments.min_size, arguments.images)

    contenders = [
        Contender("torchvision fp32", setup_torchvision, sizes),
        Contender("torchvision fp32, allocator tuned", setup_torchvision, sizes, ALLOCATOR),
        Contender("detectune fp32", setup_detectune, (*sizes, "fp32"), ALLOCATOR),
        Contender("detectune bf16", setup_detectune, (*sizes, "bf16"), ALLOCATOR),
    ]
    timings = alternate(contenders, rounds=arguments.rounds)
    base = timings["torchvision fp32"].median
    rows = {
        name: {
            "median_seconds": round(t.median, 4),
            "spread_seconds": round(t.spread, 4),
            "seconds_per_image": round(t.median / arguments.images, 4),
            "speed_against_torchvision": round(base / t.median, 3),
            "peak_memory_mib": round(t.peak_memory_mib),
        }
        for name, t in timings.items()
    }
    for name, row in rows.items():
        print(f"{name:36} {row['median_seconds']:8.3f} s  {row['speed_against_torchvision']:6.2f}x")
    device = "gpu" if torch.cuda.is_available() else "cpu"
    write_result(f"training_step_{device}", {"arguments": vars(arguments), "results": rows})


if __name__ == "__main__":
    main()
