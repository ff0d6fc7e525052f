"""Cascade R-CNN: a box head in stages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat

from detectune.config.knob import Section, among, knob

Overlap = Annotated[float, Field(gt=0, lt=1)]
Factors = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]


class Cascade(Section):
    """The stages of the box head where MODEL.CASCADE_ON is True."""

    IOUS: tuple[Overlap, ...] = knob(
        (0.5, 0.6, 0.7),
        "Overlap with an object from which a region counts as one, for each stage; their number is the number of "
        "stages. Rising values make later stages precise; the first must equal TRAIN.FG_THRESH, which draws the "
        "regions.",
        kind="architecture",
        stage="architecture",
        unit="IoU",
        min_length=1,
        search=among((0.5, 0.6), (0.5, 0.6, 0.7), (0.5, 0.55, 0.6)),
        source="Cai & Vasconcelos 2018 (arXiv:1712.00726), section 4",
    )
    BBOX_REG_WEIGHTS: tuple[Factors, ...] = knob(
        ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),
        "What MODEL.BBOX_REG_WEIGHTS is to one head, for each stage in its place. Later stages have less left to "
        "correct, so their factors are larger.",
        kind="loss",
        stage="training",
        source="Cai & Vasconcelos 2018 (arXiv:1712.00726), section 4.1",
    )
