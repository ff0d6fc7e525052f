"""A run from start to end on the tiny detector: what it leaves, what it does not depend on, how it fails."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_engine import CLASSES, Tiny, TinyDetector, install, tiny_config
from torch import Tensor, nn

from detectune.config.catalogue import KNOBS
from detectune.config.tree import Config
from detectune.engine.finite import NonFiniteLossError
from detectune.engine.hooks import Hook
from detectune.engine.interrupt import TrainingInterruptedError
from detectune.engine.run_directory import RunDirectory
from detectune.engine.running import Run
from detectune.engine.trainer import TrainResult, train
from detectune.errors import DataError, OutputError, UserError
from detectune.structures import Batch, ClassInfo
from detectune.weights.native import load_weights


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Tiny:
    return install(monkeypatch)


def quiet(_: str) -> None:
    return


def final_bytes(run_dir: Path) -> bytes:
    return (run_dir / "model_final.safetensors").read_bytes()


def rows_of(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in RunDirectory(run_dir).read_metrics() if row["kind"] == kind]


class At(Hook):
    """Calls `action(run)` after update number `iteration`."""

    def __init__(self, iteration: int, action: Callable[[Run], object]) -> None:
        self.iteration = iteration
        self.action = action

    def after_step(self, run: Run) -> None:
        if run.iteration == self.iteration:
            self.action(run)


class CrashError(Exception):
    """Stands for the power cut."""


def crash(_: Run) -> None:
    raise CrashError


def test_what_every_evaluation_tells_is_said_once(tiny: Tiny, tmp_path: Path) -> None:
    tiny.notice = "Notice: this key has no effect."
    said: list[str] = []
    train(tiny_config(TRAIN__EVAL_ITERS=4), output_dir=tmp_path, log=said.append)
    assert len(tiny.evaluations) == 3 and said.count(tiny.notice) == 1


def test_a_run_leaves_what_it_promises(tiny: Tiny, tmp_path: Path) -> None:
    reported: list[Path] = []
    config = tiny_config()
    result = train(config, output_dir=tmp_path / "run", log=quiet, report=reported.append)
    assert isinstance(result, TrainResult) and result.iterations == 12 and result.stopped is None
    assert result.metrics["bbox/AP"] == 0.5 and reported == [result.run_dir]
    assert sorted(p.name for p in (result.run_dir / "checkpoints").iterdir()) == [
        "best.safetensors", "iter_0000008.pt", "iter_0000012.pt",
    ]  # fmt: skip
    state, metadata = load_weights(result.weights)
    assert set(state) == set(TinyDetector().state_dict())
    assert json.loads(metadata["classes"])["names"] == list(CLASSES.names)
    assert json.loads(metadata["classes"])["category_ids"] == [7, 11]
    assert metadata["iteration"] == "12" and metadata["geometry"] == config.MODEL.GEOMETRY
    environment = json.loads((result.run_dir / "environment.json").read_text())
    assert environment["precision"] == "fp32" and environment["libraries"]["torch"] == torch.__version__
    assert "BASE_LR: 0.05" in (result.run_dir / "diff.yaml").read_text()
    assert any((result.run_dir / "tensorboard").iterdir())


def test_rows_hold_means_since_the_last_row(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny_config(TRAIN__LOG_ITERS=1), output_dir=tmp_path / "each", log=quiet)
    train(tiny_config(TRAIN__LOG_ITERS=3), output_dir=tmp_path / "thirds", log=quiet)
    each, thirds = rows_of(tmp_path / "each", "train"), rows_of(tmp_path / "thirds", "train")
    assert [row["iteration"] for row in thirds] == [3, 6, 9, 12]
    for name in ("loss", "loss_rpn_cls", "loss_cls", "stat_rpn_num_fg", "gradient_norm"):
        assert thirds[1][name] == pytest.approx(sum(row[name] for row in each[3:6]) / 3, rel=1e-5)
    row = thirds[-1]
    assert row["loss"] == pytest.approx(row["loss_rpn_cls"] + row["loss_cls"], rel=1e-5)
    assert row["epoch"] == pytest.approx(12 * 2 / 10) and row["eta_seconds"] == 0
    assert row["lr"] == pytest.approx(0.05) and row["images_per_second"] > 0 and row["memory_mb"] > 1
    evaluation = rows_of(tmp_path / "each", "evaluation")
    assert len(evaluation) == 1 and evaluation[0]["dataset"] == "tiny_val"
    expected = evaluation[0]["val/loss_rpn_cls"] + evaluation[0]["val/loss_cls"]
    assert evaluation[0]["val/loss"] == pytest.approx(expected) and expected > 0


def test_the_loss_falls(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny_config(SOLVER__MAX_ITER=60, TRAIN__LOG_ITERS=10), output_dir=tmp_path, log=quiet)
    losses = [row["loss"] for row in rows_of(tmp_path, "train")]
    assert losses[-1] < 0.5 * losses[0]


def test_equal_runs_write_equal_files_and_another_seed_another(tiny: Tiny, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(len(name) + seed)  # what was drawn before a run must not matter
        train(tiny_config(RNG_SEED=seed), output_dir=tmp_path / name, log=quiet)
    assert final_bytes(tmp_path / "a") == final_bytes(tmp_path / "b") != final_bytes(tmp_path / "c")


ALL_OPTIMIZERS = list(KNOBS["SOLVER.OPTIMIZER"].choices or ())


@pytest.mark.parametrize("name", ALL_OPTIMIZERS)
def test_a_continued_run_ends_with_the_same_bits(tiny: Tiny, tmp_path: Path, name: str) -> None:
    changes: dict[str, Any] = {
        "SOLVER__OPTIMIZER": name, "SOLVER__EMA_DECAY": 0.9, "SOLVER__ACCUMULATE": 2, "TRAIN__EVAL_ITERS": 5,
    }  # fmt: skip
    config = tiny_config(**changes)
    train(config, output_dir=tmp_path / "whole", log=quiet)
    for moment in (2, 7, 11):  # before the first checkpoint, and between two
        with pytest.raises(CrashError):
            train(config, output_dir=tmp_path / "cut", log=quiet, hooks=[At(moment, crash)])
    train(config, output_dir=tmp_path / "cut", log=quiet)
    assert final_bytes(tmp_path / "cut") == final_bytes(tmp_path / "whole")
    clock = ("images_per_second", "data_seconds", "memory_mb", "eta_seconds")
    strip = [
        [
            {k: v for k, v in row.items() if k not in clock}
            for row in RunDirectory(tmp_path / d).read_metrics()
        ]
        for d in ("whole", "cut")
    ]
    assert strip[0] == strip[1]


def test_a_finished_run_is_not_trained_again(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny_config(), output_dir=tmp_path, log=quiet)
    before, evaluated = final_bytes(tmp_path), len(tiny.evaluations)
    result = train(tiny_config(), output_dir=tmp_path, log=quiet, hooks=[At(12, crash)])
    assert result.metrics["bbox/AP"] == 0.5 and len(tiny.evaluations) == evaluated
    assert final_bytes(tmp_path) == before


def test_a_finished_run_can_be_made_longer(tiny: Tiny, tmp_path: Path) -> None:
    said: list[str] = []
    train(tiny_config(), output_dir=tmp_path / "cut", log=quiet)
    train(tiny_config(SOLVER__MAX_ITER=16), output_dir=tmp_path / "cut", log=said.append)
    train(tiny_config(SOLVER__MAX_ITER=16), output_dir=tmp_path / "whole", log=quiet)
    weights = [load_weights(tmp_path / d / "model_final.safetensors")[0] for d in ("cut", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any("SOLVER.MAX_ITER 12 -> 16" in line for line in said)


def test_accumulating_two_batches_averages_their_gradients(tiny: Tiny, tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []
    one = tiny_config(
        SOLVER__ACCUMULATE=2, SOLVER__MAX_ITER=1, SOLVER__MOMENTUM=0.0, SOLVER__WEIGHT_DECAY=0.0
    )
    train(
        one, output_dir=tmp_path / "a", log=quiet, hooks=[At(1, lambda run: seen.append(dict(run.outputs)))]
    )
    model = tiny.build_detector(one)
    batches = iter(tiny.build_loader(one, training=True))
    from detectune.engine.running import step_generator

    losses = []
    for part in range(2):
        out = model(next(batches), step_generator(one.RNG_SEED, 0, part, torch.device("cpu")))
        loss = out["loss_rpn_cls"] + out["loss_cls"]
        (loss / 2).backward()
        losses.append(loss.item())
    assert seen[0]["loss"].item() == pytest.approx(sum(losses) / 2)
    rate = 0.05 / 3  # warm-up starts at a third
    state, _ = load_weights(tmp_path / "a" / "model_final.safetensors")
    for name, p in model.named_parameters():
        assert p.grad is not None
        expected = p.detach() - rate * (2 if name.endswith("bias") else 1) * p.grad
        torch.testing.assert_close(state[name], expected)


def test_evaluated_and_final_weights_are_the_moving_average(tiny: Tiny, tmp_path: Path) -> None:
    average = None
    live: list[Tensor] = []

    def follow(run: Run) -> None:
        nonlocal average
        weight = run.model.get_parameter("head.weight").detach()
        t = run.iteration - 1
        start = tiny.build_detector(run.config).get_parameter("head.weight").detach()
        previous = start if average is None else average
        decay = min(0.6, (1 + t) / (10 + t))
        average = decay * previous + (1 - decay) * weight
        live.append(weight.clone())

    hooks = [At(i, follow) for i in range(1, 13)]
    train(tiny_config(SOLVER__EMA_DECAY=0.6), output_dir=tmp_path, log=quiet, hooks=hooks)
    state, _ = load_weights(tmp_path / "model_final.safetensors")
    assert average is not None
    torch.testing.assert_close(state["head.weight"], average)
    assert not torch.equal(state["head.weight"], live[-1])


class Poisoned(TinyDetector):
    """Its classification loss becomes infinite at the seventh batch."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        out = super().forward(batch, generator)
        self.calls += 1
        if self.calls == 7:
            out["loss_cls"] = out["loss_cls"] / 0.0
        return out


class PoisonedGradient(TinyDetector):
    """Finite losses, but at the seventh batch a gradient that is not: sqrt at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        out = super().forward(batch, generator)
        self.calls += 1
        if self.calls == 7:
            out["loss_cls"] = out["loss_cls"] + (self.head.weight * 0.0).sum().sqrt()
        return out


@pytest.mark.parametrize(("model", "named"), [(Poisoned, "loss_cls=inf"), (PoisonedGradient, "norm=nan")])
def test_what_is_not_finite_stops_before_the_weights_change(
    tiny: Tiny, tmp_path: Path, model: type[nn.Module], named: str
) -> None:
    tiny.model = model
    kept: dict[str, Tensor] = {}
    runs: list[Run] = []

    def keep(run: Run) -> None:
        runs.append(run)
        kept.update({name: p.detach().clone() for name, p in run.model.named_parameters()})

    with pytest.raises(NonFiniteLossError) as caught:
        train(tiny_config(), output_dir=tmp_path, log=quiet, hooks=[At(6, keep)])
    message = str(caught.value)
    assert named in message and "iteration 7" in message and "learning rate 0.05" in message
    if model is Poisoned:
        assert "photo_6_0.jpg (id 60), photo_6_1.jpg (id 61)" in message and "loss_rpn_cls=" in message
    for name, p in runs[0].model.named_parameters():
        assert torch.equal(p, kept[name]), name
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["iter_0000004.pt"]


def test_a_hook_can_stop_the_run_with_a_reason(tiny: Tiny, tmp_path: Path) -> None:
    stop = At(5, lambda run: run.request_stop("worse than the median"))
    result = train(tiny_config(), output_dir=tmp_path, log=quiet, hooks=[stop])
    assert result.stopped == "worse than the median" and result.iterations == 5
    assert result.weights.exists() and result.metrics["bbox/AP"] == 0.5
    again = train(tiny_config(), output_dir=tmp_path, log=quiet, hooks=[At(6, crash)])
    assert again.stopped == "worse than the median" and again.iterations == 5


def test_hooks_are_called_in_the_order_of_a_run(tiny: Tiny, tmp_path: Path) -> None:
    calls: list[str] = []

    class Spy(Hook):
        def before_train(self, run: Run) -> None:
            calls.append(f"before_train {run.iteration}")

        def before_step(self, run: Run) -> None:
            calls.append(f"before_step {run.iteration}")

        def after_step(self, run: Run) -> None:
            calls.append(f"after_step {run.iteration} {run.row is not None}")

        def after_train(self, run: Run) -> None:
            calls.append(f"after_train {run.iteration}")

    train(tiny_config(SOLVER__MAX_ITER=2, TRAIN__LOG_ITERS=2), output_dir=tmp_path, log=quiet, hooks=[Spy()])
    assert calls == [
        "before_train 0", "before_step 0", "after_step 1 False", "before_step 1", "after_step 2 True",
        "after_train 2",
    ]  # fmt: skip


def test_the_state_of_a_hook_survives(tiny: Tiny, tmp_path: Path) -> None:
    class Counting(Hook):
        def __init__(self) -> None:
            self.steps = 0

        def after_step(self, run: Run) -> None:
            self.steps += 1

        def state_dict(self) -> dict[str, Any]:
            return {"steps": self.steps}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.steps = state["steps"]

    with pytest.raises(CrashError):
        train(tiny_config(), output_dir=tmp_path, log=quiet, hooks=[Counting(), Counting(), At(6, crash)])
    hooks = [Counting(), Counting()]
    train(tiny_config(), output_dir=tmp_path, log=quiet, hooks=hooks)
    assert [hook.steps for hook in hooks] == [12, 12]


def test_early_stopping_keeps_the_best_weights(tiny: Tiny, tmp_path: Path) -> None:
    tiny.scores = [0.3, 0.6, 0.5, 0.4, 0.9]
    config = tiny_config(TRAIN__EVAL_ITERS=2, TRAIN__EARLY_STOP_PATIENCE=2)
    result = train(config, output_dir=tmp_path, log=quiet)
    assert result.iterations == 8 and result.stopped is not None
    assert "bbox/AP has not improved in 2 evaluations (best 0.6000 at iteration 4)" in result.stopped
    _, metadata = load_weights(tmp_path / "checkpoints" / "best.safetensors")
    assert metadata["iteration"] == "4"
    assert [row["iteration"] for row in rows_of(tmp_path, "evaluation")] == [2, 4, 6, 8]


def test_the_best_metric_may_be_a_loss_which_falls(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny_config(TRAIN__EVAL_ITERS=4, TRAIN__BEST_METRIC="val/loss", SOLVER__MAX_ITER=40)
    train(config, output_dir=tmp_path, log=quiet)
    losses = {row["iteration"]: row["val/loss"] for row in rows_of(tmp_path, "evaluation")}
    _, metadata = load_weights(tmp_path / "checkpoints" / "best.safetensors")
    assert int(metadata["iteration"]) == min(losses, key=lambda i: losses[i])


def test_no_best_weights_unless_asked(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny_config(TRAIN__KEEP_BEST=False), output_dir=tmp_path, log=quiet)
    assert not (tmp_path / "checkpoints" / "best.safetensors").exists()


def test_without_test_data_a_run_only_trains(tiny: Tiny, tmp_path: Path) -> None:
    said: list[str] = []
    result = train(tiny_config(TEST__DATASETS=()), output_dir=tmp_path, log=said.append)
    assert result.metrics == {} and result.weights.exists() and tiny.evaluations == []
    assert any("TEST.DATASETS is empty" in line for line in said)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"SOLVER__BASE_LR": 0.2}, "SOLVER.BASE_LR was 0.05, is 0.2"),
        ({"SOLVER__MAX_ITER": 5}, "beyond SOLVER.MAX_ITER=5"),
    ],
)
def test_another_configuration_does_not_go_on_with_the_run(
    tiny: Tiny, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    train(tiny_config(), output_dir=tmp_path, log=quiet)
    before = final_bytes(tmp_path)
    with pytest.raises(UserError) as caught:
        train(tiny_config(**changes), output_dir=tmp_path, log=quiet)
    assert named in str(caught.value) and "TRAIN.AUTO_RESUME=False" in str(caught.value)
    assert final_bytes(tmp_path) == before


def test_other_data_does_not_go_on_with_the_run(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny_config(), output_dir=tmp_path, log=quiet)
    tiny.num_images = 9
    with pytest.raises(UserError, match=r"10 images, 10 objects, 2 classes .* then, 9 images"):
        train(tiny_config(), output_dir=tmp_path, log=quiet)


def test_keys_that_do_not_decide_training_may_change(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(CrashError):
        train(tiny_config(), output_dir=tmp_path, log=quiet, hooks=[At(6, crash)])
    train(tiny_config(TRAIN__LOG_ITERS=1, TRAIN__KEEP_LAST=5), output_dir=tmp_path, log=quiet)
    assert len(list((tmp_path / "checkpoints").glob("iter_*.pt"))) == 3


def test_without_auto_resume_the_earlier_run_is_set_aside(tiny: Tiny, tmp_path: Path) -> None:
    said: list[str] = []
    train(tiny_config(), output_dir=tmp_path, log=quiet)
    before = final_bytes(tmp_path)
    train(tiny_config(TRAIN__AUTO_RESUME=False, SOLVER__MAX_ITER=6), output_dir=tmp_path, log=said.append)
    assert final_bytes(tmp_path / "earlier_001") == before != final_bytes(tmp_path)
    assert any("earlier_001" in line for line in said)
    assert [row["iteration"] for row in rows_of(tmp_path, "train")] == [3, 6]


def test_a_damaged_checkpoint_is_passed_over(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny_config(), output_dir=tmp_path / "whole", log=quiet)
    with pytest.raises(CrashError):
        train(tiny_config(), output_dir=tmp_path / "cut", log=quiet, hooks=[At(10, crash)])
    newest = tmp_path / "cut" / "checkpoints" / "iter_0000008.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    said: list[str] = []
    train(tiny_config(), output_dir=tmp_path / "cut", log=said.append)
    assert any("iter_0000008.pt is damaged (it is cut short)" in line for line in said)
    assert any("Going on from" in line and "iteration 4 of 12" in line for line in said)
    assert final_bytes(tmp_path / "cut") == final_bytes(tmp_path / "whole")


def test_a_broken_image_ends_the_run_with_its_work_saved(tiny: Tiny, tmp_path: Path) -> None:
    tiny.broken_at = 6
    with pytest.raises(DataError, match=r"photo_6_0\.jpg is truncated"):
        train(tiny_config(), output_dir=tmp_path, log=quiet)
    assert (tmp_path / "checkpoints" / "iter_0000006.pt").exists()
    tiny.broken_at = -1
    train(tiny_config(), output_dir=tmp_path, log=quiet)
    train(tiny_config(), output_dir=tmp_path.parent / "whole", log=quiet)
    assert final_bytes(tmp_path) == final_bytes(tmp_path.parent / "whole")


def test_an_evaluation_that_failed_is_made_up_for(tiny: Tiny, tmp_path: Path) -> None:
    tiny.broken_at = 2  # of the test batches too
    config = tiny_config(TRAIN__EVAL_ITERS=1)
    with pytest.raises(DataError):
        train(config, output_dir=tmp_path / "cut", log=quiet)
    tiny.broken_at = -1
    train(config, output_dir=tmp_path / "cut", log=quiet)
    assert [row["iteration"] for row in rows_of(tmp_path / "cut", "evaluation")] == list(range(1, 13))
    train(config, output_dir=tmp_path / "whole", log=quiet)
    assert final_bytes(tmp_path / "cut") == final_bytes(tmp_path / "whole")


def test_ctrl_c_in_the_last_evaluation_loses_nothing(tiny: Tiny, tmp_path: Path) -> None:
    class During(Hook):
        def after_train(self, run: Run) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterruptedError, match="after iteration 12"):
        train(tiny_config(), output_dir=tmp_path, log=quiet, hooks=[During()])
    assert not (tmp_path / "model_final.safetensors").exists()
    result = train(tiny_config(), output_dir=tmp_path, log=quiet, hooks=[At(12, crash)])
    assert result.weights.exists() and result.metrics["bbox/AP"] == 0.5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_and_saves(tiny: Tiny, tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(TrainingInterruptedError) as caught:
        train(
            tiny_config(),
            output_dir=tmp_path,
            log=quiet,
            hooks=[At(7, lambda run: os.kill(os.getpid(), number))],
        )
    assert caught.value.exit_code == 128 + number and "same command again" in str(caught.value)
    assert caught.value.checkpoint == tmp_path / "checkpoints" / "iter_0000007.pt"
    assert signal.getsignal(number) == before
    train(tiny_config(), output_dir=tmp_path, log=quiet)
    train(tiny_config(), output_dir=tmp_path.parent / "whole", log=quiet)
    assert final_bytes(tmp_path) == final_bytes(tmp_path.parent / "whole")


def test_a_second_process_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with (
        RunDirectory(tmp_path).held(),
        pytest.raises(OutputError, match=f"in use by .* \\(pid {os.getpid()}\\)"),
    ):
        train(tiny_config(), output_dir=tmp_path, log=quiet)
    train(tiny_config(), output_dir=tmp_path, log=quiet)  # free again


@pytest.mark.parametrize("num_classes", [2, 4, 81])
def test_the_number_of_classes_must_be_the_datas(tiny: Tiny, tmp_path: Path, num_classes: int) -> None:
    with pytest.raises(
        UserError, match=rf"MODEL\.NUM_CLASSES={num_classes}, but .*circle, square.* must be 3"
    ):
        train(tiny_config(MODEL__NUM_CLASSES=num_classes), output_dir=tmp_path, log=quiet)
    train(tiny_config(MODEL__NUM_CLASSES=3, SOLVER__MAX_ITER=1), output_dir=tmp_path, log=quiet)


def test_test_data_with_other_classes_is_found_at_the_start(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detectune.engine import evaluating

    other = install(pytest.MonkeyPatch())
    monkeypatch.undo()
    install(monkeypatch)
    other.class_info = ClassInfo(("circle", "star"), (1, 2))
    monkeypatch.setattr(evaluating, "build_loader", other.build_loader)
    with pytest.raises(DataError, match="tiny_val has the classes circle, star"):
        train(tiny_config(), output_dir=tmp_path, log=quiet)


@pytest.mark.parametrize("metric", ["AP", "segm/AP", "box/AP"])
def test_a_best_metric_that_is_never_measured_is_refused(tiny: Tiny, tmp_path: Path, metric: str) -> None:
    with pytest.raises(UserError, match=r"TRAIN\.BEST_METRIC"):
        train(tiny_config(TRAIN__BEST_METRIC=metric), output_dir=tmp_path, log=quiet)


def test_bf16_trains_and_keeps_weights_in_fp32(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny_config(SOLVER__PRECISION="bf16", SOLVER__MAX_ITER=40, TRAIN__LOG_ITERS=10)
    train(config, output_dir=tmp_path / "bf16", log=quiet)
    train(config.with_overrides({"SOLVER.PRECISION": "fp32"}), output_dir=tmp_path / "fp32", log=quiet)
    state, _ = load_weights(tmp_path / "bf16" / "model_final.safetensors")
    assert all(value.dtype == torch.float32 for value in state.values())
    losses = [rows_of(tmp_path / name, "train")[-1]["loss"] for name in ("bf16", "fp32")]
    assert losses[0] == pytest.approx(losses[1], rel=0.1) and losses[0] != losses[1]


def test_the_same_seed_draws_the_same_whatever_ran_before(tiny: Tiny, tmp_path: Path) -> None:
    class Draws(Hook):
        def after_step(self, run: Run) -> None:
            torch.rand(3)

    train(tiny_config(), output_dir=tmp_path / "a", log=quiet)
    train(tiny_config(), output_dir=tmp_path / "b", log=quiet, hooks=[Draws()])
    assert final_bytes(tmp_path / "a") == final_bytes(tmp_path / "b")


def test_a_jump_of_the_rate_is_said(tiny: Tiny, tmp_path: Path) -> None:
    said: list[str] = []
    config: Config = tiny_config(SOLVER__STEP_SIZE=6, SOLVER__WARM_UP_ITERS=0)
    train(config, output_dir=tmp_path, log=said.append)
    assert any("Learning rate 0.05 -> 0.005 at iteration 7" in line for line in said)
    said.clear()
    quiet_config = config.with_overrides({"SOLVER.LOG_LR_CHANGE_THRESHOLD": 100.0})
    train(quiet_config, output_dir=tmp_path / "b", log=said.append)
    assert not any("Learning rate" in line for line in said)
