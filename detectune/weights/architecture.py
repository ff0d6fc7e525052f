"""What network the names and shapes of weights describe: body, pyramid, heads, classes. Nothing here needs torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from detectune.weights.recognise import System

Shapes = Mapping[str, tuple[int, ...]]

# stage, block, convolution 1..3, of a residual network in each program's words
_CONV = {
    "detectron": re.compile(r"res(\d)_(\d+)_branch2([abc])_w"),
    "detectron2": re.compile(r"(?:.*\.)?res(\d)\.(\d+)\.conv(\d)\.weight"),
    "torchvision": re.compile(r"(?:backbone\.body\.)?layer(\d)\.(\d+)\.conv(\d)\.weight"),
    "detectune": re.compile(r"(?:backbone|box_head)\.res(\d)\.(\d+)\.conv(\d)\.weight"),
}
_DEPTHS = {
    (2, (2, 2, 2, 2)): 18, (2, (3, 4, 6, 3)): 34, (3, (3, 4, 6, 3)): 50, (3, (3, 4, 23, 3)): 101,
    (3, (3, 8, 36, 3)): 152,
}  # fmt: skip
"""(convolutions of a block, blocks of res2..res5) -> layers"""

# what a part of a detector is called anywhere
_PARTS = {
    "feature pyramid": re.compile(r"fpn_inner_|backbone\.fpn|fpn_lateral"),
    "RPN": re.compile(r"conv_rpn|proposal_generator\.|rpn\."),
    "RetinaNet head": re.compile(r"retnet_|head\.(?:cls|bbox|classification|regression)_"),
    "R-FCN score maps": re.compile(r"conv_cls_[wb]|box_pooler\.cls_score"),
    "box head": re.compile(r"cls_score_[wb]|(?:roi_heads\.)?box_(?:head|predictor)\.(?:.*\.)?cls_score\."),
    "mask head": re.compile(r"mask_fcn_logits|(?:roi_heads\.)?mask_(?:head|predictor)\."),
    "keypoint head": re.compile(r"kps_score|(?:roi_heads\.)?keypoint_(?:head|predictor)\."),
}
_CASCADE = re.compile(r"(?:box_head\.stages|roi_heads\.box_predictor)\.(\d+)\.cls_score\.bias")
_GROUP_NORM = re.compile(r".*_gn_s")
_NORM_WEIGHT = re.compile(r"(.*(?:norm|bn\d|downsample\.1))\.weight")

# class scores: name -> how many rows stand for no class
_SCORES: dict[System, tuple[tuple[str, int], ...]] = {
    "detectron": (("cls_score_b", 1),),
    "detectron2": (
        ("roi_heads.box_predictor.cls_score.bias", 1),
        ("roi_heads.box_predictor.0.cls_score.bias", 1),
    ),
    "torchvision": (("roi_heads.box_predictor.cls_score.bias", 1),),
    "detectune": (("box_head.cls_score.bias", 1), ("box_head.stages.0.cls_score.bias", 1)),
}
# RetinaNet: (scores, boxes, rows of a background)
_DENSE_SCORES: dict[System, tuple[str, str, int]] = {
    "detectron": ("retnet_cls_pred_fpn3_b", "retnet_bbox_pred_fpn3_b", 0),
    "detectron2": ("head.cls_score.bias", "head.bbox_pred.bias", 0),
    "torchvision": (
        "head.classification_head.cls_logits.bias", "head.regression_head.bbox_reg.bias", 1,
    ),
    "detectune": ("head.cls_score.bias", "head.bbox_pred.bias", 0),
}  # fmt: skip
_CLASSIFIERS = ("fc1000_b", "fc.bias", "fc8_b", "pred_b", "classifier.6.bias", "linear.bias")


@dataclass(frozen=True)
class Architecture:
    """A network as far as its weights tell. `num_classes` leaves the background out; 0 where nothing counts them."""

    body: str
    parts: tuple[str, ...]
    norm: str
    num_classes: int
    num_keypoints: int

    def __str__(self) -> str:
        text = " + ".join((self.body, *self.parts)) + (f", {self.norm}" if self.norm else "")
        counts = [f"{self.num_classes} classes"] if self.num_classes else []
        counts += [f"{self.num_keypoints} keypoints"] if self.num_keypoints else []
        return f"{text}; {', '.join(counts)}" if counts else text


def guess_architecture(shapes: Shapes, system: System) -> Architecture:
    """The network that these weights, in the names of `system`, belong to."""
    stages = {match[1] for name in shapes if (match := _CASCADE.fullmatch(name))}
    parts = [part for part, names in _PARTS.items() if any(names.match(name) for name in shapes)]
    if len(stages) > 1:
        parts = [f"cascade of {len(stages)} box heads" if part == "box head" else part for part in parts]
    if not parts and any(name in shapes for name in _CLASSIFIERS):
        parts = ["classifier"]
    return Architecture(
        body=_body(shapes, system),
        parts=tuple(parts),
        norm=_norm(shapes),
        num_classes=_num_classes(shapes, system),
        num_keypoints=_num_keypoints(shapes),
    )


def _body(shapes: Shapes, system: System) -> str:
    pattern = _CONV.get(system)
    found: dict[tuple[int, int, int], tuple[int, ...]] = {}
    for name, shape in shapes.items():
        match = pattern.fullmatch(name) if pattern else None
        if match is not None:
            stage = int(match[1]) + (system == "torchvision")
            conv = "abc".index(match[3]) + 1 if match[3] in "abc" else int(match[3])
            found[stage, int(match[2]), conv] = shape
    if not found:
        return _plain_body(shapes)
    blocks = tuple(1 + max((b for s, b, _ in found if s == stage), default=-1) for stage in range(2, 6))
    num_convs = max(conv for _, _, conv in found)
    fitting = {d for (convs, counts), d in _DEPTHS.items() if convs == num_convs and _fits(blocks, counts)}
    depth = min(fitting) if fitting else 0
    last = max(stage for stage, _, _ in found)
    second = found.get((2, 0, 2), (1, 1))
    groups, width = _groups(found) if num_convs == 3 else (1, 0)
    kind = "R" if groups == 1 else "X"
    name = f"{kind}-{depth}" if depth else f"residual network of {'-'.join(map(str, blocks))} blocks"
    if groups > 1:
        name += f"-{groups}x{width}d"
    elif num_convs == 3 and second[0] != 64:
        name += f" of width {second[0]}"
    return name + (f" up to stage {last}" if last < 5 else "")


def _fits(blocks: tuple[int, ...], counts: tuple[int, ...]) -> bool:
    """A body that ends earlier has no blocks in its last stages."""
    return all(have in (want, 0) for have, want in zip(blocks, counts, strict=True)) and blocks[0] > 0


def _groups(found: Mapping[tuple[int, int, int], tuple[int, ...]]) -> tuple[int, int]:
    """Groups of the 3x3 convolutions of stage 2 and the width of each: outputs over inputs per group."""
    shape = found.get((2, 0, 2), ())
    if len(shape) < 2 or shape[1] == 0:
        return 1, 0
    return shape[0] // shape[1], shape[1]


def _plain_body(shapes: Shapes) -> str:
    names = set(shapes)
    if names & {"conv5_3_w", "backbone.conv5_3.weight", "features.28.weight"}:
        return "VGG16"
    if names & {"conv5_w", "backbone.conv5.weight"}:
        return "VGG_CNN_M_1024"
    if any(name.startswith("backbone.features.") for name in names):
        return "a body of timm"
    return "no body known here"


def _norm(shapes: Shapes) -> str:
    if any(_GROUP_NORM.fullmatch(name) for name in shapes):
        return "group norm"
    norms = [match[1] for name in shapes if (match := _NORM_WEIGHT.fullmatch(name))]
    if norms and not any(f"{norm}.running_var" in shapes for norm in norms):
        return "group norm"
    if any(name.endswith("num_batches_tracked") for name in shapes):
        return "batch norm"
    return ""


def _num_classes(shapes: Shapes, system: System) -> int:
    for name, background in _SCORES.get(system, ()):
        if name in shapes:
            return shapes[name][0] - background
    maps = shapes.get("conv_cls_b") or shapes.get("box_pooler.cls_score.bias")
    if maps:  # a square grid of score maps for each class and the background
        return next((maps[0] // (g * g) - 1 for g in (7, 3, 9, 5, 1) if maps[0] % (g * g) == 0), 0)
    scores, deltas, background = _DENSE_SCORES.get(system, ("", "", 0))
    if scores in shapes and deltas in shapes and shapes[deltas][0] >= 4:
        return shapes[scores][0] // (shapes[deltas][0] // 4) - background
    return next((shapes[name][0] for name in _CLASSIFIERS if name in shapes), 0)


def _num_keypoints(shapes: Shapes) -> int:
    for name in (
        "kps_score_lowres_b", "kps_score_b", "roi_heads.keypoint_head.score_lowres.bias",
        "roi_heads.keypoint_predictor.kps_score_lowres.bias", "keypoint_head.predictor.bias",
    ):  # fmt: skip
        if name in shapes:
            return shapes[name][0]
    return 0
