"""The classes of COCO's 2014 and 2017 files, for weights that do not tell theirs.

Category ids run from 1 to 90 with gaps; label k of a model is the k-th of them.
"""

from __future__ import annotations

from detectune.data.classes import flip_permutation
from detectune.structures import ClassInfo

_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,
backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball
bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife,
spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair,
couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone,
microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush
"""
_KEYPOINTS = """
nose, left_eye, right_eye, left_ear, right_ear, left_shoulder, right_shoulder, left_elbow,
right_elbow, left_wrist, right_wrist, left_hip, right_hip, left_knee, right_knee, left_ankle,
right_ankle
"""
_ABSENT_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_BONES = (
    (15, 13),
    (13, 11),
    (16, 14),
    (14, 12),
    (11, 12),
    (5, 11),
    (6, 12),
    (5, 6),
    (5, 7),
    (6, 8),
    (7, 9),
    (8, 10),
    (1, 2),
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
    (3, 5),
    (4, 6),
)


def _split(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.replace("\n", " ").split(","))


COCO_CLASSES = ClassInfo(_split(_NAMES), tuple(i for i in range(1, 91) if i not in _ABSENT_IDS))
COCO_IDS = ClassInfo(
    tuple(
        dict(zip(COCO_CLASSES.category_ids, COCO_CLASSES.names, strict=True)).get(i, f"unused {i}")
        for i in range(1, 91)
    ),
    tuple(range(1, 91)),
)
"""The classes of torchvision's detectors, which have one for every id."""

COCO_PERSON = ClassInfo(
    ("person",),
    (1,),
    keypoint_names=_split(_KEYPOINTS),
    keypoint_flip=flip_permutation(_split(_KEYPOINTS)),
    keypoint_skeleton=_BONES,
    keypoint_labels=(1,),
)
