"""What happens around training steps: the protocol, and the hooks that every run has, in their order.

    MetricsHook     averages losses on the device, writes a row every LOG_ITERS  (first: others may read the
    row) ProgressHook    the bar, or plain lines the caller's    a tuner's verdict, say; they see the row,
    and what they decide is saved with this step EvaluationHook  test and validation loss every EVAL_ITERS;
    best weights; early stop  (before the checkpoint, so that what it found is in there) CheckpointHook
    every SNAPSHOT_ITERS, after evaluations, at the end FinalHook       model_final.safetensors, once
    everything is known and saved

A hook that draws its state only from `run` needs no `state_dict`. Hooks change no weights and draw no random
numbers, so a run with more of them ends with the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from detectune.engine.running import Run


@runtime_checkable
class HookLike(Protocol):
    """The five moments of a run, and what must survive a restart."""

    def before_train(self, run: Run) -> None: ...
    def before_step(self, run: Run) -> None: ...
    def after_step(self, run: Run) -> None: ...
    def after_evaluation(self, run: Run) -> None: ...
    def after_train(self, run: Run) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Hook:
    """A hook that does nothing; override what is needed."""

    def before_train(self, run: Run) -> None:
        """Once, after a checkpoint was loaded if there was one; `run.iteration` says where it goes on."""

    def before_step(self, run: Run) -> None:
        """Before update `run.iteration` (from 0)."""

    def after_step(self, run: Run) -> None:
        """After the update; `run.iteration` updates are finished. `run.request_stop(reason)` ends the run."""

    def after_evaluation(self, run: Run) -> None:
        """When `run.metrics` have been measured anew, before they are saved; for hooks given to `train`."""

    def after_train(self, run: Run) -> None:
        """Once, when the run ended by itself or a hook stopped it; not after an error or Ctrl-C."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return


def hook_states(hooks: Sequence[HookLike]) -> dict[str, dict[str, Any]]:
    """The states of hooks by class name, numbered where a class occurs twice."""
    return {name: hook.state_dict() for name, hook in _named(hooks)}


def restore_hook_states(hooks: Sequence[HookLike], states: dict[str, dict[str, Any]]) -> None:
    """Give every hook the state saved under its name; a hook that is new to the run starts fresh."""
    for name, hook in _named(hooks):
        if name in states:
            hook.load_state_dict(states[name])


def _named(hooks: Sequence[HookLike]) -> list[tuple[str, HookLike]]:
    counts: dict[str, int] = {}
    named: list[tuple[str, HookLike]] = []
    for hook in hooks:
        name = type(hook).__name__
        counts[name] = counts.get(name, 0) + 1
        named.append((name if counts[name] == 1 else f"{name}.{counts[name]}", hook))
    return named
