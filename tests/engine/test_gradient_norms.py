"""Single gradient norms in metrics.jsonl: every one of few steps, evenly spaced ones of many, also after a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detectune.config.load import load_config
from detectune.engine.hooks import Hook
from detectune.engine.running import Run
from detectune.engine.trainer import train

SETTINGS = {
    "MODEL.TYPE": "classifier", "MODEL.DEVICE": "cpu", "CLASSIFIER.LAYERS": ["dense 8", "relu", "softmax 10"],
    "SOLVER.BASE_LR": 0.05, "SOLVER.WARM_UP_ITERS": 0, "SOLVER.CLIP_GRADIENT_NORM": 0.5,
    "TRAIN.DATASETS": ["digits_train"], "TRAIN.IMS_PER_BATCH": 10, "TRAIN.EVAL_ITERS": 0, "TEST.DATASETS": [],
}  # fmt: skip


class Norms(Hook):
    """What the steps returned."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def after_step(self, run: Run) -> None:
        self.seen[run.iteration] = float(run.outputs["gradient_norm"])


def trained(folder: Path, **settings: Any) -> tuple[list[dict[str, Any]], dict[int, float]]:
    """(training rows, norm of every step) of a run in `folder`; keys as SOLVER__MAX_ITER."""
    hook = Norms()
    config = load_config(None, SETTINGS | {key.replace("__", "."): value for key, value in settings.items()})
    train(config, output_dir=folder, hooks=[hook], log=lambda _: None)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "train"], hook.seen


@pytest.mark.parametrize(("every", "stride"), [(20, 1), (100, 1), (150, 2)])
def test_a_row_holds_the_norms_of_its_steps_before_clipping(tmp_path: Path, every: int, stride: int) -> None:
    rows, seen = trained(tmp_path, SOLVER__MAX_ITER=2 * every, TRAIN__LOG_ITERS=every)
    assert len(rows) == 2
    for row in rows:
        steps = [i for i in range(row["iteration"] - every + 1, row["iteration"] + 1) if i % stride == 0]
        assert row["gradient_norms"] == pytest.approx([seen[i] for i in steps], rel=1e-3)
        assert len(row["gradient_norms"]) <= 100 and max(row["gradient_norms"]) > 0.5


def test_they_survive_a_restart_in_the_middle_of_a_row(tmp_path: Path) -> None:
    short = {"TRAIN__LOG_ITERS": 20, "TRAIN__SNAPSHOT_ITERS": 10}
    whole, _ = trained(tmp_path / "whole", SOLVER__MAX_ITER=40, **short)

    class StopAt(Hook):
        def after_step(self, run: Run) -> None:
            if run.iteration == 30:
                raise KeyboardInterrupt

    config = load_config(
        None, SETTINGS | {"SOLVER.MAX_ITER": 40, "TRAIN.LOG_ITERS": 20, "TRAIN.SNAPSHOT_ITERS": 10}
    )
    with pytest.raises(KeyboardInterrupt):
        train(config, output_dir=tmp_path / "parts", hooks=[StopAt()], log=lambda _: None)
    parts, _ = trained(tmp_path / "parts", SOLVER__MAX_ITER=40, TRAIN__AUTO_RESUME=True, **short)
    assert [row["gradient_norms"] for row in parts] == [row["gradient_norms"] for row in whole]
    assert [len(row["gradient_norms"]) for row in parts] == [20, 20]
