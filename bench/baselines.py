"""Every original baseline, at small scale: it builds, learns one step on two made-up images and tests one.

    python bench/baselines.py

The configurations are the files in configs/ as they are, with narrow layers, few proposals and small images on top.
Nothing is timed: the result lists the losses of the step, and how many gradients and detections there were.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alternation import write_result
from detectune.config.load import load_config
from detectune.models.build import build_detector
from detectune.structures import Batch, ImageBatch, ImageInfo, Targets

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FOLDERS = ("12_2017_baselines", "04_2018_gn_baselines", "test_time_aug", "getting_started")
SMALL = {
    "MODEL.GEOMETRY": "detectron",
    "RESNETS.WIDTH_MULTIPLIER": 0.125,
    "FPN.DIM": 32,
    "FAST_RCNN.MLP_HEAD_DIM": 32,
    "FAST_RCNN.CONV_HEAD_DIM": 32,
    "MRCNN.DIM_REDUCED": 32,
    "KRCNN.CONV_HEAD_DIM": 32,
    "TRAIN.BATCH_SIZE_PER_IM": 16,
    "TRAIN.RPN_PRE_NMS_TOP_N": 100,
    "TRAIN.RPN_POST_NMS_TOP_N": 40,
    "TEST.RPN_PRE_NMS_TOP_N": 100,
    "TEST.RPN_POST_NMS_TOP_N": 40,
    "TEST.SCORE_THRESH": 0.0,
    "TEST.DETECTIONS_PER_IM": 10,
}
HEIGHT, WIDTH, OBJECTS, POINTS = 128, 128, 3, 17


def made_up_batch(seed: int = 0) -> Batch:
    """Two images of chance with boxes, outlines, keypoints and given proposals, in the network frame."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (2, 3, HEIGHT, WIDTH), generator=draw, dtype=torch.uint8)
    low = torch.rand(2, OBJECTS, 2, generator=draw) * 60
    boxes = torch.cat((low, low + 24 + torch.rand(2, OBJECTS, 2, generator=draw) * 36), -1)
    x1, y1, x2, y2 = boxes.double().unbind(-1)
    corners = torch.stack((x1, y1, x2, y1, x2, y2, x1, y2), -1).view(2, OBJECTS, 4, 2)
    edges = torch.cat((corners, corners.roll(-1, 2)), -1)  # [B, G, 4, 4]
    inside = torch.rand(2, OBJECTS, POINTS, 2, generator=draw)
    places = boxes[..., None, :2] + inside * (boxes[..., None, 2:] - boxes[..., None, :2])
    keypoints = torch.cat((places, torch.full((2, OBJECTS, POINTS, 1), 2.0)), -1)
    shaken = boxes.repeat(1, 8, 1) + torch.randn(2, 8 * OBJECTS, 4, generator=draw) * 2
    images = ImageBatch(
        pixels,
        torch.tensor([[HEIGHT, WIDTH]] * 2),
        tuple(ImageInfo(i + 1, f"{i}.jpg", HEIGHT, WIDTH) for i in range(2)),
        proposals=shaken.clamp(0, WIDTH - 1),
        proposals_valid=torch.ones(2, 8 * OBJECTS, dtype=torch.bool),
    )
    everywhere = torch.ones(2, OBJECTS, dtype=torch.bool)
    targets = Targets(
        boxes, everywhere.long(), ~everywhere, everywhere, edges=edges,
        edge_polygon=torch.zeros(2, OBJECTS, 4, dtype=torch.int64), keypoints=keypoints,
    )  # fmt: skip
    return Batch(images, targets)


def try_baseline(file: Path, batch: Batch) -> dict[str, Any]:
    """One step and one test of a configuration; raises if anything is not finite or has no gradient."""
    config = load_config(file, SMALL)
    torch.manual_seed(0)
    model = build_detector(config).train()
    out = model(batch, torch.Generator().manual_seed(0))
    losses = {name: value for name, value in out.items() if name.startswith("loss_")}
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    trained = [p for p in model.parameters() if p.requires_grad]
    without = sum(p.grad is None or not bool(torch.isfinite(p.grad).all()) for p in trained)
    found = model.eval().predict(batch.images)
    finite = all(bool(torch.isfinite(value)) for value in losses.values())
    finite = finite and all(bool(torch.isfinite(one.boxes).all()) for one in found)
    if without or not finite or not trained:
        raise RuntimeError(
            f"{file}: {without} of {len(trained)} gradients missing or not finite; losses {losses}"
        )
    return {
        "losses": {name: round(float(value.detach()), 4) for name, value in losses.items()},
        "gradients": len(trained),
        "detections": sum(len(one) for one in found),
        "masks": found[0].masks is not None,
        "keypoints": found[0].keypoints is not None,
    }


def main() -> None:
    files = sorted(f for folder in FOLDERS for f in (CONFIGS / folder).rglob("*.yaml"))
    batch = made_up_batch()
    rows = {}
    for file in files:
        name = str(file.relative_to(CONFIGS).with_suffix(""))
        if name.startswith("getting_started/") and "tutorial" not in name:
            continue  # ours, not one of the 87
        rows[name] = try_baseline(file, batch)
        print(f"{len(rows):3} {name}: {rows[name]['losses']}", flush=True)
    write_result("baselines", {"baselines": len(rows), "results": rows})


if __name__ == "__main__":
    main()
