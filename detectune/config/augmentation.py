"""Test-time augmentation: the same image at several sizes and mirrored, results merged."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from detectune.config.knob import Section, among, knob, log


class BoxAugmentation(Section):
    """Augmented boxes."""

    ENABLED: bool = knob(
        False,
        "Detects boxes on several versions of each image and merges them. Usually better by a few "
        "points of AP, and as many times slower as there are versions.",
        kind="inference",
        stage="inference",
    )
    SCORE_HEUR: Literal["ID", "AVG", "UNION"] = knob(
        "UNION",
        "How scores of the versions become one: the original's (ID), their mean (AVG), or all "
        "detections side by side before suppression (UNION). Networks with their own proposals need "
        "UNION.",
        kind="inference",
        stage="inference",
        search=among("ID", "AVG", "UNION"),
    )
    COORD_HEUR: Literal["ID", "AVG", "UNION"] = knob(
        "UNION",
        "How boxes of the versions become one, in the same three ways. UNION only together with "
        "SCORE_HEUR UNION.",
        kind="inference",
        stage="inference",
        search=among("ID", "AVG", "UNION"),
    )
    H_FLIP: bool = knob(
        False,
        "Adds the mirrored image at the test scale. The cheapest version and usually worth most.",
        kind="inference",
        stage="inference",
        search=among(False, True),
    )
    SCALES: tuple[PositiveInt, ...] = knob(
        (),
        "Further lengths of the shorter side. Small ones help large objects, large ones small objects.",
        kind="inference",
        stage="inference",
        unit="pixels",
        search=among((), (400, 800, 1200), (400, 500, 600, 700, 900, 1000, 1100, 1200)),
    )
    MAX_SIZE: int = knob(
        4000,
        "Limit of the longer side at those scales. Lower saves memory and loses small objects.",
        kind="inference",
        stage="inference",
        unit="pixels",
        ge=1,
    )
    SCALE_H_FLIP: bool = knob(
        False,
        "Also mirrors the image at each of SCALES. Doubles their cost.",
        kind="inference",
        stage="inference",
        search=among(False, True),
    )
    SCALE_SIZE_DEP: bool = knob(
        False,
        "At scales above the test scale keeps only boxes smaller than AREA_TH_LO, at those below it "
        "only boxes larger than AREA_TH_HI.",
        kind="inference",
        stage="inference",
    )
    AREA_TH_LO: int = knob(
        2500,
        "Boxes below this area are taken from enlarged versions when SCALE_SIZE_DEP is on. Raising it "
        "takes more of them.",
        kind="inference",
        stage="inference",
        unit="pixels^2",
        ge=0,
    )
    AREA_TH_HI: int = knob(
        32400,
        "Boxes above this area are taken from reduced versions when SCALE_SIZE_DEP is on. Lowering it "
        "takes more of them.",
        kind="inference",
        stage="inference",
        unit="pixels^2",
        ge=0,
    )
    ASPECT_RATIOS: tuple[PositiveFloat, ...] = knob(
        (),
        "Further versions with the width stretched by these factors. Rarely helps.",
        kind="inference",
        stage="inference",
        unit="width / original width",
    )
    ASPECT_RATIO_H_FLIP: bool = knob(
        False,
        "Also mirrors the stretched versions.",
        kind="inference",
        stage="inference",
    )


class MaskAugmentation(Section):
    """Augmented masks."""

    ENABLED: bool = knob(
        False,
        "Predicts the masks of the found boxes on several versions of the image and merges them. "
        "About a point of mask AP for several times the time.",
        kind="inference",
        stage="inference",
    )
    HEUR: Literal["SOFT_AVG", "SOFT_MAX", "LOGIT_AVG"] = knob(
        "SOFT_AVG",
        "How masks are merged: mean or maximum of the probabilities, or mean of the logits. SOFT_MAX "
        "gives the largest masks.",
        kind="inference",
        stage="inference",
        search=among("SOFT_AVG", "SOFT_MAX", "LOGIT_AVG"),
    )
    H_FLIP: bool = knob(
        False,
        "Adds the mirrored image at the test scale.",
        kind="inference",
        stage="inference",
        search=among(False, True),
    )
    SCALES: tuple[PositiveInt, ...] = knob(
        (),
        "Further lengths of the shorter side for masks.",
        kind="inference",
        stage="inference",
        unit="pixels",
        search=among((), (400, 800, 1200), (400, 500, 600, 700, 900, 1000, 1100, 1200)),
    )
    MAX_SIZE: int = knob(
        4000,
        "Limit of the longer side at those scales. Lower saves memory and loses detail.",
        kind="inference",
        stage="inference",
        unit="pixels",
        ge=1,
    )
    SCALE_H_FLIP: bool = knob(
        False,
        "Also mirrors the image at each of SCALES. Doubles their cost.",
        kind="inference",
        stage="inference",
        search=among(False, True),
    )
    SCALE_SIZE_DEP: bool = knob(
        False,
        "At the larger scales uses small objects' masks only, at the smaller scales large ones', "
        "divided at AREA_TH.",
        kind="inference",
        stage="inference",
        search=among(False, True),
    )
    AREA_TH: int = knob(
        32400,
        "Area that divides small from large objects for SCALE_SIZE_DEP. Raising it treats more "
        "objects as small.",
        kind="inference",
        stage="inference",
        unit="pixels^2",
        ge=0,
        search=log(1024, 102400),
    )
    ASPECT_RATIOS: tuple[PositiveFloat, ...] = knob(
        (),
        "Further versions with the width stretched by these factors.",
        kind="inference",
        stage="inference",
        unit="width / original width",
    )
    ASPECT_RATIO_H_FLIP: bool = knob(
        False,
        "Also mirrors the stretched versions.",
        kind="inference",
        stage="inference",
    )


class KeypointAugmentation(Section):
    """Augmented keypoints."""

    ENABLED: bool = knob(
        False,
        "Predicts the keypoints of the found boxes on several versions of the image and merges the "
        "heat maps. About a point of keypoint AP for several times the time.",
        kind="inference",
        stage="inference",
    )
    HEUR: Literal["HM_AVG", "HM_MAX"] = knob(
        "HM_AVG",
        "How heat maps are merged: mean or maximum. The mean is steadier, the maximum keeps what only "
        "one version saw.",
        kind="inference",
        stage="inference",
        search=among("HM_AVG", "HM_MAX"),
    )
    H_FLIP: bool = knob(
        False,
        "Adds the mirrored image at the test scale; left and right keypoints are exchanged back.",
        kind="inference",
        stage="inference",
        search=among(False, True),
    )
    SCALES: tuple[PositiveInt, ...] = knob(
        (),
        "Further lengths of the shorter side for keypoints.",
        kind="inference",
        stage="inference",
        unit="pixels",
        search=among((), (400, 800, 1200), (400, 500, 600, 700, 900, 1000, 1100, 1200)),
    )
    MAX_SIZE: int = knob(
        4000,
        "Limit of the longer side at those scales. Lower saves memory and loses detail.",
        kind="inference",
        stage="inference",
        unit="pixels",
        ge=1,
    )
    SCALE_H_FLIP: bool = knob(
        False,
        "Also mirrors the image at each of SCALES. Doubles their cost.",
        kind="inference",
        stage="inference",
        search=among(False, True),
    )
    SCALE_SIZE_DEP: bool = knob(
        False,
        "At the larger scales uses small objects' keypoints only, at the smaller scales large ones', "
        "divided at AREA_TH.",
        kind="inference",
        stage="inference",
        search=among(False, True),
    )
    AREA_TH: int = knob(
        32400,
        "Area that divides small from large objects for SCALE_SIZE_DEP. Raising it treats more "
        "objects as small.",
        kind="inference",
        stage="inference",
        unit="pixels^2",
        ge=0,
        search=log(1024, 102400),
    )
    ASPECT_RATIOS: tuple[PositiveFloat, ...] = knob(
        (),
        "Further versions with the width stretched by these factors.",
        kind="inference",
        stage="inference",
        unit="width / original width",
    )
    ASPECT_RATIO_H_FLIP: bool = knob(
        False,
        "Also mirrors the stretched versions.",
        kind="inference",
        stage="inference",
    )
