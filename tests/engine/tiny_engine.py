"""A detector of two layers and a loader over a list: the protocols of the trainer, without images or files.

`install` puts them in the place of the real builders, so that what is tested is the engine alone. The model
draws noise from its generator, so a run that is continued with other random numbers ends with other
weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detectune.config.tree import Config
from detectune.engine import evaluating, starting
from detectune.engine.distributed import Team
from detectune.errors import DataError
from detectune.ops.draws import draw_for_images
from detectune.structures import Batch, ClassInfo, ImageBatch, ImageInfo, Record, Targets

CLASSES = ClassInfo(("circle", "square"), (7, 11))


class TinyDetector(nn.Module):
    """8x8 images -> one regression; loss_rpn_cls and loss_cls as a detector would name them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        images = batch.images.tensor.float() / 255
        features = self.norm(self.conv(images)).relu().mean((2, 3))
        if generator is not None:

            def draw(num_images: int) -> Tensor:
                return torch.randn((num_images, 4), generator=generator)

            features = features + 0.01 * draw_for_images(generator, len(batch), draw)
        assert batch.targets is not None
        target = batch.targets.boxes[:, 0, :1].to(features.dtype)
        error = self.head(features) - target
        return {
            "loss_rpn_cls": error.square().mean(),
            "loss_cls": 0.1 * error.abs().mean(),
            "stat_rpn_num_fg": target.detach().sum(),
        }


def tiny_batch(seed: int, step: int, size: int = 2, *, part: int = 0, parts: int = 1) -> Batch:
    """`size` images of the `parts * size` of batch number `step`."""
    rng = np.random.default_rng([seed, step])
    own = slice(part * size, (part + 1) * size)
    pixels = torch.from_numpy(rng.integers(0, 256, (parts * size, 3, 8, 8), dtype=np.uint8)[own])
    boxes = torch.from_numpy(rng.random((parts * size, 1, 4), dtype=np.float32)[own])
    infos = tuple(ImageInfo(10 * step + i, f"photo_{step}_{i}.jpg", 8, 8) for i in range(own.start, own.stop))
    ones = torch.ones(size, 1, dtype=torch.int64)
    targets = Targets(boxes, ones, torch.zeros(size, 1, dtype=torch.bool), ones.bool())
    return Batch(ImageBatch(pixels, torch.full((size, 2), 8), infos), targets)


def tiny_record(image_id: int) -> Record:
    return Record(
        image_id, f"/data/photo_{image_id}.jpg", 8, 8, np.zeros((1, 4), np.float32), np.ones(1, np.int64),
        np.zeros(1, bool), np.ones(1, np.float32), [None], None, np.array([image_id]),
    )  # fmt: skip


@dataclass
class TinyLoader:
    """Endless in training from `position`, three batches otherwise."""

    seed: int
    training: bool
    position: int = 0
    size: int = 2
    broken_at: int = -1
    class_info: ClassInfo = CLASSES
    left_out: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=lambda: [tiny_record(i) for i in range(10)])
    part: int = 0
    parts: int = 1

    @property
    def num_images(self) -> int:
        return len(self.records)

    @property
    def skipped(self) -> int:
        return len(self.left_out)

    def __iter__(self) -> Iterator[Batch]:
        step = self.position
        while self.training or step < 3:
            if step == self.broken_at:
                raise DataError(f"photo_{step}_0.jpg is truncated")
            yield tiny_batch(self.seed, step, self.size, part=self.part, parts=self.parts)
            step += 1


class Tiny:
    """What `install` set up: settings that tests turn, and a record of what the engine asked for."""

    def __init__(self) -> None:
        self.broken_at = -1
        self.model: type[nn.Module] = TinyDetector
        self.class_info = CLASSES
        self.num_images = 10
        self.evaluations: list[int] = []
        self.notice = ""  # what every evaluation tells
        self.scores: list[float] = []  # bbox/AP of successive evaluations; the last one repeats

    def build_loader(
        self,
        config: Config,
        *,
        training: bool,
        dataset: str | None = None,
        position: int = 0,
        part: int = 0,
        parts: int = 1,
    ) -> TinyLoader:
        records = [tiny_record(i) for i in range(self.num_images)]
        size = config.TRAIN.IMS_PER_BATCH
        return TinyLoader(
            config.RNG_SEED, training, position, size, self.broken_at, self.class_info, records=records,
            part=part, parts=parts,
        )  # fmt: skip

    def build_detector(
        self, config: Config, *, num_classes: int | None = None, num_keypoints: int | None = None
    ) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.RNG_SEED)
            return self.model()

    def test(
        self,
        config: Config,
        weights: Path | None = None,
        *,
        output_dir: Path,
        model: nn.Module,
        dataset: str,
        team: Team,
        log: Callable[[str], None] = print,
        used: Callable[[Any], object] = lambda _: None,
    ) -> dict[str, float]:
        if self.notice:
            log(self.notice)
        score = self.scores[min(len(self.evaluations), len(self.scores) - 1)] if self.scores else 0.5
        self.evaluations.append(len(self.evaluations))
        model.eval()
        return {"bbox/AP": score, "bbox/AP50": score}


def install(monkeypatch: Any) -> Tiny:
    """Replace the builders that the engine calls. `monkeypatch` needs only a `setattr(module, name,
    value)`.
    """
    tiny = Tiny()
    monkeypatch.setattr(starting, "build_loader", tiny.build_loader)
    monkeypatch.setattr(starting, "build_detector", tiny.build_detector)
    monkeypatch.setattr(evaluating, "build_loader", tiny.build_loader)
    monkeypatch.setattr(evaluating, "test", tiny.test)
    return tiny


def tiny_config(**changes: Any) -> Config:
    """12 iterations of two images at a constant rate; keys as `SOLVER__BASE_LR=...`."""
    keys = {
        "SOLVER.MAX_ITER": 12,
        "SOLVER.BASE_LR": 0.05,
        "SOLVER.WARM_UP_ITERS": 4,
        "TRAIN.DATASETS": ("tiny_train",),
        "TEST.DATASETS": ("tiny_val",),
        "TRAIN.SNAPSHOT_ITERS": 4,
        "TRAIN.LOG_ITERS": 3,
        "MODEL.DEVICE": "cpu",
    }
    return Config().with_overrides(keys | {key.replace("__", "."): value for key, value in changes.items()})
