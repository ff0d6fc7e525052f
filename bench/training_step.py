"""One training step of an R-50-FPN Mask R-CNN at 800 px against torchvision's, in alternation.

    python bench/training_step.py [--rounds 5] [--min-size 800] [--images 2]

Same photographs (Penn-Fudan), same weights, same sampling sizes, two frozen stages, plain SGD. torchvision runs in
eager fp32 as it comes, and once more with the allocator settings that our command line gives itself, so that what is
ours and what is the allocator's can be told apart. A step is forward, backward and optimiser, without data loading.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from alternation import Contender, alternate, write_result
from peers import ALLOCATOR, our_config, penn_fudan_datasets, torchvision_inputs, torchvision_mask_rcnn

NUM_CLASSES = 91


def config_for(min_size: int, images: int, precision: str) -> Any:
    return our_config(
        50,
        num_classes=NUM_CLASSES,
        min_size=min_size,
        max_size=round(min_size * 1333 / 800),
        **{
            "DATASETS": penn_fudan_datasets(),
            "TRAIN.DATASETS": ["train"],
            "TRAIN.IMS_PER_BATCH": images,
            "TRAIN.USE_FLIPPED": False,
            "DATA_LOADER.NUM_THREADS": 0,
            "SOLVER.PRECISION": precision,
            "SOLVER.BASE_LR": 1e-4,
            "MODEL.DEVICE": "auto",
        },
    )


def first_batch(config: Any) -> Any:
    from detectune.data.loader import build_loader

    return next(iter(build_loader(config, training=True)))


def seeded_torchvision(min_size: int) -> Any:
    torch.manual_seed(0)
    return torchvision_mask_rcnn(
        50, num_classes=NUM_CLASSES, min_size=min_size, max_size=round(min_size * 1333 / 800)
    )


def setup_torchvision(min_size: int, images: int) -> Callable[[], Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = seeded_torchvision(min_size).to(device).train()
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
    from detectune.engine.trainer import prepare_step
    from detectune.weights.torchvision import from_torchvision

    config = config_for(min_size, images, precision)
    state = from_torchvision(seeded_torchvision(min_size).state_dict())
    step = prepare_step(config, num_classes=NUM_CLASSES, state=state)
    batch = first_batch(config)
    return lambda: step(batch)


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
