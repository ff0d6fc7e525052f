"""Run directories made up for the report's tests: numbers and pictures with known properties, no training."""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent))  # the tests beside it import made_study

CLASSES = ("circle", "square", "triangle", "star")
Make = Callable[..., Path]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install '.[browser]'"
    )
    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()


def train_rows(iterations: int, *, masks: bool, step: int = 20) -> list[dict[str, Any]]:
    noise = random.Random(0)
    rows = []
    for i in range(step, iterations + 1, step):
        part = {
            f"loss_{name}": scale * (0.15 + math.exp(-3 * i / iterations)) * noise.uniform(0.85, 1.15)
            for name, scale in [("rpn_cls", 0.7), ("rpn_bbox", 0.2), ("cls", 1.3), ("bbox", 0.4)]
        } | ({"loss_mask": 0.2 + 0.6 * math.exp(-3 * i / iterations)} if masks else {})
        rows.append(
            {
                "kind": "train", "iteration": i, "epoch": i * 4 / 400, "lr": 0.02 * min(1, i / 100),
                "loss": sum(part.values()), **part, "stat_box_accuracy": 0.7 + 0.25 * i / iterations,
                "gradient_norm": noise.uniform(1, 4), "images_per_second": noise.uniform(20, 24),
                "data_seconds": 0.01, "memory_mb": 900.0, "eta_seconds": (iterations - i) * 4 / 22,
            }
        )  # fmt: skip
    return rows


def metrics_of(level: float, masks: bool) -> dict[str, float]:
    tasks = ("bbox", "segm") if masks else ("bbox",)
    factors = {
        "AP": 1,
        "AP50": 1.35,
        "AP75": 1.1,
        "APs": 0.4,
        "APm": 1.0,
        "APl": -1,
        "AR1": 0.7,
        "AR10": 1.1,
        "AR100": 1.12,
    }
    return {
        f"{task}/{name}": factor if factor < 0 else level * factor
        for task in tasks
        for name, factor in factors.items()
    }


def draw_sample(path: Path, seed: int, size: tuple[int, int]) -> None:
    random_ = random.Random(seed)
    image = Image.effect_noise(size, 40).convert("RGB")
    pen = ImageDraw.Draw(image)
    for _ in range(5):
        x, y, s = random_.randrange(size[0]), random_.randrange(size[1]), random_.randrange(15, 60)
        colour = tuple(random_.randrange(60, 255) for _ in range(3))
        pen.ellipse((x, y, x + s, y + s), fill=colour)
        pen.rectangle((x, y, x + s, y + s), outline=(255, 255, 255))
    image.save(path, quality=92)


def write_evaluation(folder: Path, *, masks: bool, classes: tuple[str, ...], size: tuple[int, int]) -> None:
    tasks = ("bbox", "segm") if masks else ("bbox",)
    (folder / "samples").mkdir(parents=True)
    per_class = {
        name: {"num_objects": 40 + 7 * i, "num_detections": 120 + i}
        | {f"{t}/AP": -1.0 if i == 3 else 0.72 - 0.15 * i for t in tasks}
        | {f"{t}/AP50": -1.0 if i == 3 else 0.92 - 0.1 * i for t in tasks}
        for i, name in enumerate(classes)
    }
    content = {
        "dataset": folder.name, "num_images": 100, "num_detections": 523, "metrics": metrics_of(0.62, masks),
        "per_class": per_class, "seconds_per_image": 0.031,
    }  # fmt: skip
    recall = [i / 100 for i in range(101)]
    falling = [max(0.0, 1 - r**4 * 1.05) for r in recall]
    curve = {
        "recall": recall,
        "precision_50": falling,
        "precision_75": [0.9 * y for y in falling],
        "precision_mean": [0.8 * y for y in falling],
        "per_class_50": {name: [None] * 101 if i == 3 else falling for i, name in enumerate(classes)},
    }
    images = [
        {"image_id": i, "file_name": f"{i:04d}.jpg", "num_objects": 5, "num_detections": 6, "true_positives": 4,
         "false_positives": 2, "missed": 1, "f1": 0.73}
        for i in range(100)
    ]  # fmt: skip
    samples = []
    for i in range(16):
        worst = i >= 12
        stem = f"worst_{i - 12:02d}" if worst else f"{i:02d}"
        for side in ("truth", "detections"):
            draw_sample(folder / "samples" / f"{stem}_{side}.jpg", i, size)
        samples.append(
            {"image_id": i, "file_name": f"{i:04d}.jpg", "truth": f"samples/{stem}_truth.jpg",
             "detections": f"samples/{stem}_detections.jpg", "worst": worst,
             "caption": "5 objects: 3 found, 2 missed, 1 false" if worst else "5 objects, 5 found"}
        )  # fmt: skip
    for name, value in [
        ("metrics", content),
        ("curves", dict.fromkeys(tasks, curve)),
        ("images", images),
        ("samples", samples),
    ]:
        (folder / f"{name}.json").write_text(json.dumps(value))


CONFIG = """\
MODEL:
  TYPE: generalized_rcnn
  CONV_BODY: FPN.add_fpn_ResNet18_conv5_body
  GEOMETRY: detectron2
  MASK_ON: true
SOLVER:
  BASE_LR: 0.02
  MAX_ITER: 600
  STEPS: [0, 400]
TRAIN:
  DATASETS: [shapes_train]
  IMS_PER_BATCH: 4
TEST:
  DATASETS: [shapes_val]
  NMS: 0.5
DATASETS:
  shapes_val: {images: /data/shapes, annotations: /data/shapes.json}
OUTPUT_DIR: somewhere
"""


@pytest.fixture
def make_run(tmp_path: Path) -> Make:
    """make_run(name=, iterations=, recorded=, masks=, evaluated=, trained=, size=) -> run directory."""

    def make(
        name: str = "shapes", *, iterations: int = 600, recorded: int | None = None, masks: bool = True,
        evaluated: bool = True, trained: bool = True, classes: tuple[str, ...] = CLASSES,
        size: tuple[int, int] = (160, 120),
    ) -> Path:  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        done = iterations if recorded is None else recorded
        if trained:
            rows = [row for row in train_rows(iterations, masks=masks) if row["iteration"] <= done]
            if evaluated:
                rows += [
                    {"kind": "evaluation", "iteration": i, "dataset": "shapes_val",
                     **metrics_of(0.62 * i / iterations, masks), "val/loss": 0.6 + 0.2 * (1 - i / iterations)}
                    for i in range(200, done + 1, 200)
                ]  # fmt: skip
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (folder / "config.yaml").write_text(CONFIG)
            (folder / "diff.yaml").write_text("SOLVER:\n  BASE_LR: 0.02  # default 0.001\n")
            (folder / "environment.json").write_text(
                json.dumps({"processor": "Imaginary CPU", "threads": 2, "precision": "fp32", "device": "cpu",
                            "libraries": {"torch": "2.15.0"}, "command": ["detectune", "train", "<b>x.yaml"]})
            )  # fmt: skip
            if done == iterations:
                (folder / "model_final.safetensors").write_bytes(b"weights")
        if evaluated:
            write_evaluation(folder / "evaluation" / "shapes_val", masks=masks, classes=classes, size=size)
        return folder

    return make
