"""The trials of a study in their storage: proposing, claiming, reporting, ending, and the history of all of it.

Optuna keeps parameters, intermediate values and states; what it has no word for (why a trial ended, where it ran,
that its worker still lives) is kept beside them as attributes. Every method may be called again after a failure or a
kill at any line: what was written is taken up, nothing is written twice.

A trial belongs to the session that claimed it. A session that lives changes the claim's beat now and then; a claim
whose beat has not changed for long, by the watch of whoever looks, is up for taking.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from detectune.tuner.distributions import suggest
from detectune.tuner.history import ENDS, History, State, Trial
from detectune.tuner.outcomes import Outcome
from detectune.tuner.samplers import make_sampler
from detectune.tuner.spec import Spec, as_document, from_document
from detectune.tuner.strategy import INFEASIBLE

TELL: dict[str, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "infeasible": TrialState.FAIL,
    "failed": TrialState.FAIL,
    "timed_out": TrialState.FAIL,
}


class Ledger:
    """One study in a storage, seen by one session.

    Args:
        owner: names the session in claims; no other has the same.
        base: values of the base configuration that conditions and the history need.
    """

    def __init__(
        self, study: optuna.Study, storage: BaseStorage, spec: Spec, base: Mapping[str, Any], *, owner: str
    ) -> None:
        self.study, self.storage, self.spec, self.base, self.owner = study, storage, spec, base, owner
        self._beats: dict[int, tuple[Any, float]] = {}  # number -> (claim, when it was first seen)
        self._beat = 0

    def propose(self) -> Trial | None:
        """A new trial with its values; None if the study already has all that it should."""
        if len(self._frozen()) >= self.spec.trials:
            return None
        trial = self.study.ask()
        if trial.number >= self.spec.trials:  # another session was faster
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        return self._settle(trial)

    def settle(self, number: int) -> Trial:
        """The values of a trial whose proposal a killed session may have left unfinished."""
        frozen = self._find(number)
        if "proposal" in frozen.user_attrs:
            return self._as_trial(frozen)
        return self._settle(optuna.trial.Trial(self.study, self._id(number)))

    def _settle(self, trial: optuna.Trial) -> Trial:
        values = suggest(trial, self.spec.space, self.base)
        seed = trial_seed(self.spec.seed, trial.number)
        trial.set_user_attr("proposal", {"knobs": values, "seed": seed})
        return self._as_trial(self._find(trial.number))

    def claim(self, number: int, *, worker: str, started: str) -> int:
        """Take a trial for this session; the number of the attempt that begins, from 1."""
        before = self._find(number).user_attrs.get("claim", {})
        attempts: int = before.get("attempts", 0) + 1
        self._beat += 1
        self._write(
            number,
            "claim",
            {
                "owner": self.owner,
                "beat": self._beat,
                "worker": worker,
                "started": started,
                "attempts": attempts,
                "seconds": before.get("seconds", 0.0),
            },
        )
        return attempts

    def is_mine(self, number: int) -> bool:
        """Whether the last claim of a trial is this session's."""
        claim = self._find(number).user_attrs.get("claim", {})
        return bool(claim.get("owner") == self.owner)

    def beat(self, number: int) -> None:
        """Say that this session still lives and works on a trial."""
        claim = self._find(number).user_attrs["claim"]
        self._beat += 1
        self._write(number, "claim", claim | {"beat": self._beat})

    def interrupted(self, number: int, *, seconds: float) -> None:
        """Note how long an attempt took that did not end the trial."""
        claim = self._find(number).user_attrs["claim"]
        self._write(number, "claim", claim | {"seconds": claim["seconds"] + seconds, "owner": None})

    def abandoned(self, *, after: float) -> list[int]:
        """Numbers of unfinished trials that nobody works on, lowest first.

        `after` is how many seconds a claim of another session may stand without a beat; 0 if there are no others.
        """
        now, numbers = time.monotonic(), []
        for frozen in self._frozen():
            claim = frozen.user_attrs.get("claim", {})
            if frozen.state.is_finished() or claim.get("owner") == self.owner:
                continue
            given_up = "owner" in claim and claim["owner"] is None
            seen = (claim.get("owner"), claim.get("beat"))
            if self._beats.get(frozen.number, (None, 0.0))[0] != seen:
                self._beats[frozen.number] = (seen, now)
            if given_up or now - self._beats[frozen.number][1] >= after:
                numbers.append(frozen.number)
        return numbers

    def report(self, number: int, step: int, value: float) -> None:
        """Keep the objective that a trial has reached at an iteration."""
        self.storage.set_trial_intermediate_value(self._id(number), step, value)

    def should_prune(self, number: int, pruner: BasePruner) -> bool:
        """Whether the pruner would end a trial now."""
        return bool(pruner.prune(self.study, self._find(number)))

    def finish(self, number: int, outcome: Outcome, *, ended: str, seconds: float) -> None:
        """End a trial. A trial that has ended stays as it was."""
        frozen = self._find(number)
        if frozen.state.is_finished():
            return
        if "outcome" not in frozen.user_attrs:
            spent = frozen.user_attrs.get("claim", {}).get("seconds", 0.0)
            record = outcome.as_json() | {"ended": ended, "seconds": spent + seconds}
            self._write(number, "outcome", record)
        else:
            outcome = outcome_of(frozen)
        if outcome.state == "infeasible":
            self._write(number, INFEASIBLE, True)
        state = TELL[outcome.state]
        values = list(outcome.values or ()) if state is TrialState.COMPLETE else None
        self.study.tell(number, values, state=state, skip_if_finished=True)

    def unfinished_ends(self) -> list[tuple[int, Outcome]]:
        """Trials whose end was written down, but not told to the sampler, when a session was killed."""
        return [
            (frozen.number, outcome_of(frozen))
            for frozen in self._frozen()
            if not frozen.state.is_finished() and "outcome" in frozen.user_attrs
        ]

    def count_unfinished(self) -> int:
        """How many of the study's trials have not ended, those still to be proposed among them."""
        ended = sum(frozen.state.is_finished() for frozen in self._frozen())
        return self.spec.trials - ended

    def history(self) -> History:
        """The study as it stands."""
        trials = tuple(self._as_trial(frozen) for frozen in self._frozen())
        keys = self.spec.space.keys
        return History(
            name=self.spec.name,
            objectives=self.spec.objectives,
            space=self.spec.space,
            base={key: self.base[key] for key in keys},
            trials=trials,
        )

    def _as_trial(self, frozen: FrozenTrial) -> Trial:
        proposal = frozen.user_attrs.get("proposal", {"knobs": {}, "seed": 0})
        claim = frozen.user_attrs.get("claim", {})
        state: State = "running" if claim.get("owner") is not None else "waiting"
        trial = Trial(
            number=frozen.number,
            params=proposal["knobs"],
            seed=proposal["seed"],
            state=state,
            worker=claim.get("worker"),
            started=claim.get("started"),
            attempts=claim.get("attempts", 0),
            run=run_folder(frozen.number),
            steps=frozen.last_step,
            seconds=claim.get("seconds") or None,
        )
        if "outcome" not in frozen.user_attrs:
            return trial
        record, outcome = frozen.user_attrs["outcome"], outcome_of(frozen)
        return replace(
            trial,
            state=outcome.state,
            reason=outcome.reason,
            values=outcome.values,
            steps=outcome.steps,
            peak_memory=outcome.peak_memory,
            ended=record["ended"],
            seconds=record["seconds"],
        )

    def _frozen(self) -> list[FrozenTrial]:
        """The study's trials by number; those that were one too many, because two sessions asked at once, are none."""
        trials = self.study.get_trials(deepcopy=False)
        return [
            trial for trial in trials if trial.number < self.spec.trials or "proposal" in trial.user_attrs
        ]

    def _find(self, number: int) -> FrozenTrial:
        return self.storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        study = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, number)

    def _write(self, number: int, key: str, value: Any) -> None:
        self.storage.set_trial_user_attr(self._id(number), key, value)


def open_ledger(
    storage: BaseStorage, spec: Spec, base_yaml: str, base: Mapping[str, Any], *, owner: str
) -> Ledger:
    """The study of `spec` in `storage`, begun if it is not there."""
    sampler = make_sampler(spec.sampler, spec.space, seed=spec.seed, trials=spec.trials)
    study = optuna.create_study(
        storage=storage,
        study_name=spec.name,
        directions=[objective.direction for objective in spec.objectives],
        sampler=sampler,
        load_if_exists=True,
    )
    if "spec" not in study.user_attrs:
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            study.set_metric_names([objective.metric for objective in spec.objectives])
        study.set_user_attr("base", base_yaml)
        study.set_user_attr("spec", json.dumps(as_document(spec)))
    return Ledger(study, storage, spec, base, owner=owner)


def stored_spec(storage: BaseStorage, name: str) -> tuple[Spec, str] | None:
    """(spec, base configuration as YAML) of the study of that name, if it is there."""
    try:
        attributes = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
    except KeyError:
        return None
    if "spec" not in attributes:
        return None
    return from_document(json.loads(attributes["spec"])), attributes["base"]


def outcome_of(frozen: FrozenTrial) -> Outcome:
    """The end that a stored trial has."""
    record = {k: v for k, v in frozen.user_attrs["outcome"].items() if k not in ("ended", "seconds")}
    return Outcome.from_json(record)


def trial_seed(study_seed: int, number: int) -> int:
    """RNG_SEED of a trial."""
    return int(np.random.SeedSequence([study_seed, number]).generate_state(1)[0] >> 1)


def run_folder(number: int) -> str:
    """Where a trial's run directory lies in the study's."""
    return f"trials/{number:04d}"


def has_ended(trial: Trial) -> bool:
    """Whether a trial stays as it is."""
    return trial.state in ENDS
