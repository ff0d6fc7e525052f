"""detectron2's keys that become something else here: names of bodies, lists of features, schedules."""

from __future__ import annotations

from typing import Any

from detectune.config.detectron2_heads import (
    BODY_NORMS,
    FPN_BODIES,
    box_losses,
    heads,
    note_statistics,
    part_norm,
)
from detectune.config.detectron2_keys import RETINANET_RENAMED, Part, Translation, same

DEPTHS = (18, 34, 50, 101, 152)
ARCHITECTURES = ("GeneralizedRCNN", "ProposalNetwork", "RetinaNet")
STAGE_FEATURES = {"res4": "conv4", "res5": "conv5"}


def family(said: Translation) -> None:
    """MODEL.META_ARCHITECTURE, and who proposes."""
    name = said["MODEL.META_ARCHITECTURE"]
    if name in ("PanopticFPN", "SemanticSegmentor"):
        said.refuse("MODEL.META_ARCHITECTURE", "semantic segmentation")
    elif name not in ARCHITECTURES:
        said.refuse("MODEL.META_ARCHITECTURE", f"a family of its own ({', '.join(ARCHITECTURES)} are here)")
    key = "MODEL.META_ARCHITECTURE"
    retinanet, proposals_only = name == "RetinaNet", name == "ProposalNetwork"
    said.put("MODEL.TYPE", "retinanet" if retinanet else "generalized_rcnn", key)
    said.put("RETINANET.RETINANET_ON", retinanet, key)
    said.put("MODEL.RPN_ONLY", proposals_only, key)
    proposer = said["MODEL.PROPOSAL_GENERATOR.NAME"]
    if proposer not in ("RPN", "PrecomputedProposals"):
        said.refuse("MODEL.PROPOSAL_GENERATOR.NAME", "another way to propose regions")
    proposes = proposer == "RPN" and not said["MODEL.LOAD_PROPOSALS"]
    heads = name == "GeneralizedRCNN"
    said.put(
        "MODEL.FASTER_RCNN", proposes and heads, "MODEL.PROPOSAL_GENERATOR.NAME", "MODEL.LOAD_PROPOSALS", key
    )
    classes = "MODEL.RETINANET.NUM_CLASSES" if retinanet else "MODEL.ROI_HEADS.NUM_CLASSES"
    said.put("MODEL.NUM_CLASSES", 2 if proposals_only else said[classes] + 1, classes)
    if not heads:
        for theirs, ours in (("MASK_ON", "MASK_ON"), ("KEYPOINT_ON", "KEYPOINTS_ON")):
            said.put(f"MODEL.{ours}", False, f"MODEL.{theirs}")
    if not retinanet:
        said.put("TEST.NMS", said["MODEL.ROI_HEADS.NMS_THRESH_TEST"], "MODEL.ROI_HEADS.NMS_THRESH_TEST")
    _colours(said)


def _colours(said: Translation) -> None:
    """Means and deviations come in the order that the first layer reads, and are kept as blue, green, red here."""
    order, key = said["INPUT.FORMAT"], "INPUT.FORMAT"
    if order not in ("BGR", "RGB"):
        said.refuse(key, "images in other colours than BGR or RGB")
        return
    step = 1 if order == "BGR" else -1
    said.put("PIXEL_MEANS", [[list(said["MODEL.PIXEL_MEAN"])[::step]]], "MODEL.PIXEL_MEAN")
    said.put("INPUT.PIXEL_STDS", list(said["MODEL.PIXEL_STD"])[::step], "MODEL.PIXEL_STD")
    if order == "RGB":
        said.put("INPUT.WEIGHTS_COLOURS", "RGB", key)


def body(said: Translation) -> None:
    """MODEL.BACKBONE, RESNETS and FPN."""
    name, depth = said["MODEL.BACKBONE.NAME"], said["MODEL.RESNETS.DEPTH"]
    if name != "build_resnet_backbone" and name not in FPN_BODIES:
        said.refuse("MODEL.BACKBONE.NAME", f"a body other than a ResNet ({', '.join(FPN_BODIES)} are here)")
        return
    if depth not in DEPTHS:
        said.refuse("MODEL.RESNETS.DEPTH", f"a ResNet of another depth than {', '.join(map(str, DEPTHS))}")
    pyramid = name in FPN_BODIES
    said.put("FPN.FPN_ON", pyramid, "MODEL.BACKBONE.NAME")
    if pyramid:
        said.put(
            "MODEL.CONV_BODY",
            f"FPN.add_fpn_ResNet{depth}_conv5_body",
            "MODEL.RESNETS.DEPTH",
            "MODEL.BACKBONE.NAME",
        )
        _pyramid(said)
    else:
        last = said["MODEL.RESNETS.OUT_FEATURES"][-1]
        if last not in STAGE_FEATURES:
            said.refuse("MODEL.RESNETS.OUT_FEATURES", "features of another stage than res4 or res5")
            return
        conv_body = f"ResNet.add_ResNet{depth}_{STAGE_FEATURES[last]}_body"
        said.put("MODEL.CONV_BODY", conv_body, "MODEL.RESNETS.DEPTH", "MODEL.RESNETS.OUT_FEATURES")
        dilated = said["MODEL.RESNETS.RES5_DILATION"] > 1
        said.put("RPN.STRIDE", 32 if last == "res5" and not dilated else 16, "MODEL.RESNETS.OUT_FEATURES")
    norm = said["MODEL.RESNETS.NORM"]
    if norm not in BODY_NORMS:
        said.refuse("MODEL.RESNETS.NORM", f"a body without norms or with others than {', '.join(BODY_NORMS)}")
    else:
        said.put("RESNETS.NORM", BODY_NORMS[norm], "MODEL.RESNETS.NORM")
        note_statistics(said, "MODEL.RESNETS.NORM")
    _widths(said, bottleneck=depth >= 50)


def _pyramid(said: Translation) -> None:
    part_norm(said, "MODEL.FPN.NORM", "FPN.NORM")
    retinanet = said["MODEL.BACKBONE.NAME"] == "build_retinanet_resnet_fpn_backbone"
    said.put("FPN.EXTRA_CONV_LEVELS", retinanet, "MODEL.BACKBONE.NAME")
    first = "res3" if retinanet else "res2"
    wanted = [f"res{i}" for i in range(int(first[-1]), 6)]
    if list(said["MODEL.FPN.IN_FEATURES"]) != wanted:
        said.refuse("MODEL.FPN.IN_FEATURES", f"a pyramid on other stages than {', '.join(wanted)}")


def _widths(said: Translation, *, bottleneck: bool) -> None:
    """The body's channels, which are all multiplied by one number here."""
    plain = 256 if bottleneck else 64
    factor = said["MODEL.RESNETS.RES2_OUT_CHANNELS"] / plain
    width = said["MODEL.RESNETS.WIDTH_PER_GROUP"]
    if not same(said["MODEL.RESNETS.STEM_OUT_CHANNELS"], 64 * factor) or not (width / factor).is_integer():
        said.refuse(
            "MODEL.RESNETS.RES2_OUT_CHANNELS", "stages that grow in other steps than from stem to stage"
        )
        return
    said.put("RESNETS.WIDTH_MULTIPLIER", factor, "MODEL.RESNETS.RES2_OUT_CHANNELS")
    said.put("RESNETS.WIDTH_PER_GROUP", int(width / factor), "MODEL.RESNETS.WIDTH_PER_GROUP")


def _levels(said: Translation, key: str) -> tuple[int, int] | None:
    """(finest, coarsest) of features such as p2, p3, p4; None and a refusal if they are no such row."""
    names = said[key]
    numbers = [int(name[1:]) for name in names if name[:1] == "p" and name[1:].isdigit()]
    if len(numbers) != len(names) or not numbers or numbers != list(range(numbers[0], numbers[-1] + 1)):
        said.refuse(key, "features that are no row of a pyramid's levels, such as p2, p3, p4")
        return None
    return numbers[0], numbers[-1]


def anchors(said: Translation) -> None:
    """MODEL.ANCHOR_GENERATOR and the features that the RPN and the heads look at."""
    if said["MODEL.META_ARCHITECTURE"] == "RetinaNet":
        _retinanet(said)
        return
    ratios = _same_everywhere(said, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
    sizes = said["MODEL.ANCHOR_GENERATOR.SIZES"]
    key = "MODEL.ANCHOR_GENERATOR.SIZES"
    if said["MODEL.BACKBONE.NAME"] not in FPN_BODIES:
        said.put("RPN.ASPECT_RATIOS", ratios, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
        said.put("RPN.SIZES", [int(size) for size in sizes[0]], key)
        return
    said.put("FPN.RPN_ASPECT_RATIOS", ratios, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
    said.put("FPN.MULTILEVEL_RPN", True, "MODEL.RPN.IN_FEATURES")
    said.put("FPN.MULTILEVEL_ROIS", True, "MODEL.ROI_HEADS.IN_FEATURES")
    for part, features in (("RPN", "MODEL.RPN.IN_FEATURES"), ("ROI", "MODEL.ROI_HEADS.IN_FEATURES")):
        if part == "ROI" and said["MODEL.META_ARCHITECTURE"] == "ProposalNetwork":
            continue
        if part == "RPN" and said["MODEL.PROPOSAL_GENERATOR.NAME"] != "RPN":
            continue
        if (levels := _levels(said, features)) is not None:
            said.put(f"FPN.{part}_MIN_LEVEL", levels[0], features)
            said.put(f"FPN.{part}_MAX_LEVEL", levels[1], features)
    count = len(said["MODEL.RPN.IN_FEATURES"])
    if said["MODEL.PROPOSAL_GENERATOR.NAME"] != "RPN":
        return
    if not same(sizes, [[sizes[0][0] * 2**i] for i in range(count)]):
        said.refuse(key, "anchors that are not one of each level, twice as large from level to level")
        return
    said.put("FPN.RPN_ANCHOR_START_SIZE", int(sizes[0][0]), key)


def _same_everywhere(said: Translation, key: str) -> list[float]:
    lists = said[key]
    if not all(same(inner, lists[0]) for inner in lists):
        said.refuse(key, "other anchors on each level")
    return list(lists[0])


def _retinanet(said: Translation) -> None:
    for theirs, ours in RETINANET_RENAMED.items():
        said.put(ours, said[theirs], theirs)
    low, high = said["MODEL.RETINANET.IOU_THRESHOLDS"]
    said.put("RETINANET.NEGATIVE_OVERLAP", low, "MODEL.RETINANET.IOU_THRESHOLDS")
    said.put("RETINANET.POSITIVE_OVERLAP", high, "MODEL.RETINANET.IOU_THRESHOLDS")
    norm = said["MODEL.RETINANET.NORM"]
    if norm not in ("", "GN"):
        said.refuse("MODEL.RETINANET.NORM", "another norm in the towers than GN")
    said.put("RETINANET.USE_GN", norm == "GN", "MODEL.RETINANET.NORM")
    ratios = _same_everywhere(said, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
    said.put("RETINANET.ASPECT_RATIOS", ratios, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
    levels = _levels(said, "MODEL.RETINANET.IN_FEATURES")
    if levels is None:
        return
    said.put("FPN.MULTILEVEL_RPN", True, "MODEL.RETINANET.IN_FEATURES")
    said.put("FPN.RPN_MIN_LEVEL", levels[0], "MODEL.RETINANET.IN_FEATURES")
    said.put("FPN.RPN_MAX_LEVEL", levels[1], "MODEL.RETINANET.IN_FEATURES")
    sizes, key = said["MODEL.ANCHOR_GENERATOR.SIZES"], "MODEL.ANCHOR_GENERATOR.SIZES"
    octave = len(sizes[0])
    scale = sizes[0][0] / 2 ** levels[0]
    wanted = [
        [2**level * scale * 2 ** (i / octave) for i in range(octave)]
        for level in range(levels[0], levels[1] + 1)
    ]
    if not same(sizes, wanted) or not float(scale).is_integer():
        said.refuse(key, "anchors that do not divide each octave evenly, from a whole number of strides on")
        return
    said.put("RETINANET.SCALES_PER_OCTAVE", octave, key)
    said.put("RETINANET.ANCHOR_SCALE", int(scale), key)


def sampling(said: Translation) -> None:
    """Overlaps from which anchors and proposals count."""
    low, high = said["MODEL.RPN.IOU_THRESHOLDS"]
    said.put("TRAIN.RPN_NEGATIVE_OVERLAP", low, "MODEL.RPN.IOU_THRESHOLDS")
    said.put("TRAIN.RPN_POSITIVE_OVERLAP", high, "MODEL.RPN.IOU_THRESHOLDS")
    for key in ("TRAIN.FG_THRESH", "TRAIN.BG_THRESH_HI"):
        said.put(key, said["MODEL.ROI_HEADS.IOU_THRESHOLDS"][0], "MODEL.ROI_HEADS.IOU_THRESHOLDS")


def pixels(said: Translation) -> None:
    """INPUT: sizes, flips, crops."""
    sides, key = [int(side) for side in said["INPUT.MIN_SIZE_TRAIN"]], "INPUT.MIN_SIZE_TRAIN"
    if said["INPUT.MIN_SIZE_TRAIN_SAMPLING"] == "range" and len(sides) == 2:
        sides = list(range(sides[0], sides[1] + 1))
    said.put("TRAIN.SCALES", sides, key)
    flip = said["INPUT.RANDOM_FLIP"]
    said.put("TRAIN.USE_FLIPPED", flip == "horizontal", "INPUT.RANDOM_FLIP")
    if flip not in ("horizontal", "none"):
        said.note("INPUT.RANDOM_FLIP", "images are mirrored left to right or not at all")
    if said["INPUT.CROP.ENABLED"]:
        said.put(
            "INPUT.CROP_MIN_FRACTION", min(said["INPUT.CROP.SIZE"]), "INPUT.CROP.SIZE", "INPUT.CROP.ENABLED"
        )


def solver(said: Translation) -> None:
    """SOLVER: the schedule, precision, clipping."""
    name, key = said["SOLVER.LR_SCHEDULER_NAME"], "SOLVER.LR_SCHEDULER_NAME"
    if name == "WarmupCosineLR":
        said.put("SOLVER.LR_POLICY", "cosine_decay", key)
        final = said["SOLVER.BASE_LR_END"] / said["SOLVER.BASE_LR"] if said["SOLVER.BASE_LR"] else 0.0
        said.put("SOLVER.LR_FINAL_FRACTION", final, "SOLVER.BASE_LR_END")
    else:
        said.put("SOLVER.LR_POLICY", "steps_with_decay", key)
        said.put("SOLVER.STEPS", [0, *map(int, said["SOLVER.STEPS"])], "SOLVER.STEPS")
        if name != "WarmupMultiStepLR":
            said.note(key, "the learning rate falls in steps")
    decay = said["SOLVER.WEIGHT_DECAY_BIAS"]
    said.put(
        "SOLVER.WEIGHT_DECAY_BIAS",
        said["SOLVER.WEIGHT_DECAY"] if decay is None else decay,
        "SOLVER.WEIGHT_DECAY_BIAS",
        "SOLVER.WEIGHT_DECAY",
    )
    said.put("SOLVER.PRECISION", "auto" if said["SOLVER.AMP.ENABLED"] else "fp32", "SOLVER.AMP.ENABLED")
    if said["SOLVER.CLIP_GRADIENTS.ENABLED"]:
        meaning = "gradients are clipped here by their common length, see SOLVER.CLIP_GRADIENT_NORM"
        said.note("SOLVER.CLIP_GRADIENTS.ENABLED", meaning)


def views(said: Translation) -> None:
    """TEST.AUG: several views of an image."""
    if not said["TEST.AUG.ENABLED"]:
        return
    values: dict[str, tuple[Any, str]] = {
        "ENABLED": (True, "ENABLED"),
        "SCALES": ([int(side) for side in said["TEST.AUG.MIN_SIZES"]], "MIN_SIZES"),
        "MAX_SIZE": (said["TEST.AUG.MAX_SIZE"], "MAX_SIZE"),
        "H_FLIP": (said["TEST.AUG.FLIP"], "FLIP"),
        "SCALE_H_FLIP": (said["TEST.AUG.FLIP"], "FLIP"),
    }
    for name, (value, theirs) in values.items():
        said.put(f"TEST.BBOX_AUG.{name}", value, f"TEST.AUG.{theirs}", "TEST.AUG.ENABLED")


def machine(said: Translation) -> None:
    """Weights, device, seed, folders: set only where the file says so."""
    weights, key = said["MODEL.WEIGHTS"], "MODEL.WEIGHTS"
    if weights:
        said.put("TRAIN.WEIGHTS", weights, key)
        if "ImageNetPretrained" not in weights:
            said.put("TEST.WEIGHTS", weights, key)
    if said.given["MODEL.DEVICE"].origin is not None:
        device = said["MODEL.DEVICE"]
        said.put("MODEL.DEVICE", "auto" if device == "cuda" else device, "MODEL.DEVICE")
    if said["SEED"] >= 0:
        said.put("RNG_SEED", said["SEED"], "SEED")
    if said.given["OUTPUT_DIR"].origin is not None and said["OUTPUT_DIR"]:
        said.put("OUTPUT_DIR", said["OUTPUT_DIR"], "OUTPUT_DIR")
    if said["VERSION"] != 2:
        said.note("VERSION", "keys are read as those of version 2, so names that changed since are unknown")


PARTS: tuple[Part, ...] = (family, body, anchors, heads, box_losses, sampling, pixels, solver, views, machine)
