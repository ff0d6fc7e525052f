"""Evaluation inside a run: AP and validation loss every TRAIN.EVAL_ITERS and at the end, best weights,
early stop.

All of it is done with the weights that would be published: the moving average if SOLVER.EMA_DECAY keeps
one. Where TEST.DATASETS names several, the first one decides what is best; all are recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from detectune.data.labelled_loader import build_labelled_loader
from detectune.data.loader import Loader, build_loader
from detectune.engine.class_thresholds import class_thresholds
from detectune.engine.hooks import Hook, HookLike
from detectune.engine.publishing import save_published
from detectune.engine.running import Run
from detectune.engine.testing import test
from detectune.errors import DataError

VALIDATION_IMAGES = 200  # how many images the validation loss looks at, the first of each data set

Evaluate = Callable[[Run, str], dict[str, float]]
"""Metrics of the run's model on the named data set."""


class EvaluationHook(Hook):
    """Evaluates, records, remembers the best, and asks to stop when it no longer improves."""

    def __init__(
        self,
        *,
        eval_iters: int,
        best_metric: str,
        keep_best: bool,
        patience: int,
        evaluate: Evaluate | None = None,
        others: Sequence[HookLike] = (),
    ) -> None:
        self.eval_iters = eval_iters
        self.best_metric = best_metric
        self.keep_best = keep_best
        self.patience = patience
        self.evaluate = evaluate or evaluate_with_validation_loss
        self.others = others  # hooks that are told of every evaluation
        self.state: dict[str, Any] = {
            "last": -1,
            "best": None,
            "best_iteration": -1,
            "since_best": 0,
            "metrics": {},
        }

    def before_train(self, run: Run) -> None:
        run.metrics = dict(self.state["metrics"])
        if not run.config.TEST.DATASETS:
            run.log("TEST.DATASETS is empty: the run is not evaluated, only trained.")
        if run.iteration > 0 and run.stop_reason is None:
            self.after_step(run)  # the checkpoint may be from before an evaluation that failed

    def after_step(self, run: Run) -> None:
        due = self.eval_iters > 0 and run.iteration % self.eval_iters == 0
        if due and run.iteration < run.max_iter and self.state["last"] != run.iteration:
            self._evaluate_and_judge(run)

    def after_train(self, run: Run) -> None:
        if self.state["last"] != run.iteration:
            self._evaluate_and_judge(run)

    def _evaluate_and_judge(self, run: Run) -> None:
        self._evaluate(run)
        self._judge(run)
        for hook in self.others:
            hook.after_evaluation(run)

    def _evaluate(self, run: Run) -> None:
        run.finite.settle()
        run.team.copy_from_first(buffer for buffer in run.model.buffers() if buffer.is_floating_point())
        names = tuple(run.config.TEST.DATASETS)
        with run.evaluated_weights():
            for name in names:
                metrics = self.evaluate(run, name)
                run.record({"kind": "evaluation", "iteration": run.iteration, "dataset": name, **metrics})
                if name == names[0]:
                    run.metrics = metrics
        run.model.train()
        self.state |= {"last": run.iteration, "metrics": dict(run.metrics)}

    def _judge(self, run: Run) -> None:
        if not run.metrics:
            return
        value = run.metrics.get(self.best_metric)
        if value is None:
            run.log(
                f"TRAIN.BEST_METRIC={self.best_metric} is not among what was measured "
                f"({', '.join(sorted(run.metrics))}): no best weights are kept."
            )
            return
        if is_better(self.best_metric, value, self.state["best"]):
            self.state |= {"best": value, "best_iteration": run.iteration, "since_best": 0}
            if self.keep_best:
                save_published(run, run.directory.best_weights)
            return
        self.state["since_best"] += 1
        if 0 < self.patience <= self.state["since_best"] and run.iteration < run.max_iter:
            run.request_stop(
                f"{self.best_metric} has not improved in {self.state['since_best']} evaluations "
                f"(best {self.state['best'] or math.nan:.4f} at iteration {self.state['best_iteration']})"
            )

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = dict(state)


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Whether `value` beats `best`: losses fall, everything else rises; a value that is not a number never
    does.
    """
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return value < best if metric.startswith("val/") else value > best


def evaluate_with_validation_loss(run: Run, dataset: str) -> dict[str, float]:
    """AP by `test`, which also writes evaluation/<dataset>/, and the losses on the same images."""
    metrics = dict(
        test(
            run.config,
            output_dir=run.directory.path,
            model=run.model,
            dataset=dataset,
            team=run.team,
            log=run.log_once,
            used=run.note_test,
        )
    )
    if run.team.first:
        loader = build_loader(run.config, training=False, dataset=dataset)
        metrics |= validation_loss(run, loader, num_images=VALIDATION_IMAGES)
    return run.team.from_first(metrics)


def check_test_data(run: Run) -> None:
    """Read every test set now rather than after hours of training; its classes must be the training set's, and those
    that TEST.SCORE_THRESH_PER_CLASS names among them.
    """
    build = build_labelled_loader if run.config.MODEL.TYPE == "classifier" else build_loader
    for name in run.config.TEST.DATASETS:
        info = build(run.config, training=False, dataset=name).class_info
        if info.names != run.class_info.names:
            raise DataError(
                f"TEST.DATASETS: {name} has the classes {', '.join(info.names)}, the training data has "
                f"{', '.join(run.class_info.names)}; both must list the same categories."
            )
    class_thresholds(run.config.TEST.SCORE_THRESH_PER_CLASS, run.class_info)


@torch.no_grad()
def validation_loss(run: Run, loader: Loader, *, num_images: int) -> dict[str, float]:
    """The model's losses on the first `num_images` images, as val/loss_*; val/loss is their sum.

    Evaluation mode, no generator (the first candidates are taken), so the number repeats exactly.
    """
    sums: dict[str, torch.Tensor] = {}
    seen = 0
    run.model.eval()
    for batch in loader:
        if batch.targets is None or seen >= num_images:
            break
        batch = batch.to(run.compute.device, non_blocking=True)
        with run.compute.autocast():
            outputs = run.model(batch, None)
        for name, value in outputs.items():
            if name.startswith("loss_"):
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.float() * len(batch)
        seen += len(batch)
    run.model.train()
    if seen == 0:
        return {}
    means = {f"val/{name}": float(value) / seen for name, value in sums.items()}
    return {"val/loss": sum(means.values())} | means
