"""A least score for each class: which detections stay, what is drawn, and a name that no class has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from detectune.config.tree import Config
from detectune.engine.class_thresholds import class_thresholds, reaching
from detectune.engine.inference import Predictor
from detectune.errors import UserError
from detectune.structures import ClassInfo, Detections

CLASSES = ClassInfo(("circle", "square", "traffic light"), (7, 8, 9))
SCORES = torch.tensor([0.9, 0.6, 0.6, 0.4, 0.3])
LABELS = torch.tensor([1, 1, 2, 2, 3])


class Says(nn.Module):
    """A detector that finds the same everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))  # whose device is asked for

    def predict(self, images: Any) -> list[Detections]:
        count = len(SCORES)
        masks = torch.arange(count).float().reshape(count, 1, 1).expand(count, 2, 2)
        return [Detections(torch.ones(count, 4), SCORES, LABELS, masks=masks)]


def predictor(named: dict[str, float], **overrides: Any) -> Predictor:
    config = Config().with_overrides(
        {"TEST.SCORE_THRESH_PER_CLASS": named, "MODEL.DEVICE": "cpu", **overrides}
    )
    return Predictor(config, model=Says(), class_info=CLASSES)


class Images:
    """What `Says` does not look at."""

    def to(self, *_: Any, **__: Any) -> Images:
        return self


def test_a_class_keeps_what_reaches_its_score() -> None:
    (found,) = predictor({"circle": 0.7, "square": 0.6}).predict_network(Images())  # type: ignore[arg-type]
    assert found.scores.tolist() == SCORES[[0, 2, 4]].tolist() and found.labels.tolist() == [1, 2, 3]
    assert found.masks is not None and found.masks[:, 0, 0].tolist() == [0, 2, 4]
    (whole,) = predictor({}).predict_network(Images())  # type: ignore[arg-type]
    assert len(whole) == len(SCORES)


def test_scores_are_compared_as_numbers_of_64_bits() -> None:
    """A threshold between two neighbouring scores of 32 bits tells them apart."""
    low = np.float32(0.7)
    high = np.nextafter(low, np.float32(1))
    least = class_thresholds({"circle": (float(low) + float(high)) / 2}, CLASSES)
    assert least is not None
    assert reaching(np.array([low, high]), np.array([1, 1]), least).tolist() == [False, True]


def test_a_class_with_its_own_score_is_drawn_whole() -> None:
    seen = predictor({"square": 0.5})
    (found,) = seen.predict_network(Images())  # type: ignore[arg-type]
    assert found.scores[seen.shown(found, 0.8)].tolist() == SCORES[[0, 2]].tolist()
    assert predictor({}).shown(found, 0.8).tolist() == [True, False, False, False]


def test_a_name_that_no_class_has() -> None:
    message = r"names 'circel', which is none of the classes; did you mean circle\? They are circle, square, traffic"
    with pytest.raises(UserError, match=message):
        predictor({"square": 0.5, "circel": 0.5})
    with pytest.raises(UserError, match="'zzz', which is none of the classes; they are circle"):
        class_thresholds({"zzz": 0.5}, CLASSES)
    proposals = predictor(
        {"circel": 0.5}, **{"MODEL.RPN_ONLY": True, "MODEL.FASTER_RCNN": False, "RPN.RPN_ON": True}
    )
    assert proposals.least_scores is None  # every proposal is of the one class that is none
