"""A least score for each class (TEST.SCORE_THRESH_PER_CLASS): the point at which a detector works, not how it is
measured. `detectune tune --stage inference --operating-point` chooses the numbers.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import numpy as np

from detectune.errors import UserError
from detectune.structures import ClassInfo

KEY = "TEST.SCORE_THRESH_PER_CLASS"


def class_thresholds(named: Mapping[str, float], classes: ClassInfo) -> np.ndarray | None:
    """The least score by label, float64 [C + 1], 0 for classes that are not named (and for 0, which is no class).

    None where no class is named.

    Raises:
        UserError: for a name that no class has, with the nearest that one has.
    """
    if not named:
        return None
    for name in named:
        if name not in classes.names:
            near = difflib.get_close_matches(name, classes.names, n=1, cutoff=0.5)
            meant = f"did you mean {near[0]}? They are" if near else "they are"
            listed = ", ".join(classes.names[:20]) + (", ..." if len(classes.names) > 20 else "")
            raise UserError(f"{KEY} names {name!r}, which is none of the classes; {meant} {listed}.")
    return np.array([0.0, *(named.get(name, 0.0) for name in classes.names)])


def reaching(scores: np.ndarray, labels: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Which detections (float [N] with labels int64 [N]) have at least the score that their class needs, bool [N]."""
    return np.asarray(scores.astype(np.float64) >= least[labels])
