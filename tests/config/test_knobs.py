"""Every key: present with Detectron's default, described, bounded, and consistent with the others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from detectune.config.knob import (
    Kind,
    Knob,
    Range,
    Scale,
    Search,
    Section,
    Stage,
    among,
    collect_knobs,
    knob,
    linear,
    log,
    one_minus_log,
)
from detectune.config.nesting import nested
from detectune.config.rules import contradictions
from detectune.config.tree import Config

KNOBS = collect_knobs(Config)
OWN = {
    "MODEL.GEOMETRY": "detectron2",
    "MODEL.DEVICE": "auto",
    "MODEL.MEMORY_FORMAT": "auto",
    "RESNETS.NORM": "auto",
    "RESNETS.WIDTH_MULTIPLIER": 1.0,
    "FPN.EXTRA_CONVS_FROM": "body",
    "RETINANET.USE_GN": False,
    "INPUT.PIXEL_STDS": (1.0, 1.0, 1.0),
    "INPUT.BRIGHTNESS": 0.0,
    "INPUT.CONTRAST": 0.0,
    "INPUT.SATURATION": 0.0,
    "INPUT.CROP_MIN_FRACTION": 1.0,
    "INPUT.RESIZE": "auto",
    "SOLVER.OPTIMIZER": "sgd",
    "SOLVER.BETAS": (0.9, 0.999),
    "SOLVER.EPS": 1e-8,
    "SOLVER.RHO": 0.9,
    "SOLVER.ALPHA": 0.99,
    "SOLVER.NESTEROV": False,
    "SOLVER.PRECISION": "fp32",
    "SOLVER.COMPILE": False,
    "SOLVER.CLIP_GRADIENT_NORM": 0.0,
    "SOLVER.ACCUMULATE": 1,
    "SOLVER.EMA_DECAY": 0.0,
    "SOLVER.MAX_EPOCHS": 0,
    "SOLVER.REFERENCE_BATCH": 0,
    "SOLVER.LR_FINAL_FRACTION": 0.0,
    "SOLVER.POLY_POWER": 0.9,
    "SOLVER.ONE_CYCLE_PEAK": 0.3,
    "TRAIN.EVAL_ITERS": 0,
    "TRAIN.EARLY_STOP_PATIENCE": 0,
    "TRAIN.KEEP_BEST": True,
    "TRAIN.BEST_METRIC": "",
    "TRAIN.KEEP_LAST": 2,
    "TRAIN.LOG_ITERS": 20,
    "TRAIN.SKIP_BROKEN_IMAGES": False,
    "TEST.PRECISION": "fp32",
    "TEST.COMPILE": False,
    "TEST.IMS_PER_BATCH": 1,
    "TEST.SCORE_THRESH_PER_CLASS": {},
    "DATASETS": {},
    "FAST_RCNN.SMOOTH_L1_BETA": -1.0,
    "RESNETS.DEFORM_ON_PER_STAGE": (False, False, False, False),
    "RESNETS.DEFORM_MODULATED": False,
    "RESNETS.DEFORM_NUM_GROUPS": 1,
    "FAST_RCNN.BOX_LOSS": "smooth_l1",
    "FAST_RCNN.NUM_STACKED_FCS": 0,
    "MRCNN.NUM_STACKED_CONVS": 0,
    "FAST_RCNN.NORM": "auto",
    "MRCNN.NORM": "auto",
    "FPN.NORM": "auto",
    "RPN.NUM_CONVS": 1,
    "RPN.BOX_LOSS": "smooth_l1",
    "RPN.SMOOTH_L1_BETA": -1.0,
    "RETINANET.BOX_LOSS": "smooth_l1",
    "INPUT.WEIGHTS_COLOURS": "auto",
    "KRCNN.OKS_SIGMAS": (),
    "SOLVER.BIAS_LR_FACTOR": 2.0,
    "SOLVER.WEIGHT_DECAY_BIAS": 0.0,
    "CLASSIFIER.LAYERS": (),
    "CLASSIFIER.INIT": "he",
    "CLASSIFIER.LOSS": "log_likelihood",
    "CLASSIFIER.LABEL_SMOOTHING": 0.0,
    "CLASSIFIER.INPUT_SHAPE": (),
    "CLASSIFIER.PIXEL_MEAN": 0.0,
    "CLASSIFIER.PIXEL_STD": 255.0,
    "CLASSIFIER.SHIFT": 0,
    "CLASSIFIER.ROTATION": 0.0,
    "CLASSIFIER.ZOOM": 0.0,
    "CLASSIFIER.ELASTIC": 0.0,
    "CLASSIFIER.ELASTIC_SMOOTHNESS": 4.0,
    "MODEL.CASCADE_ON": False,
    "CASCADE.IOUS": (0.5, 0.6, 0.7),
    "CASCADE.BBOX_REG_WEIGHTS": (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    ),
}


def build(flat: Mapping[str, Any]) -> Config:
    return Config.model_validate(nested(flat))


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "golden/detectron/defaults.json").read_text())


@pytest.fixture(scope="module")
def original_files(shared: Path, golden: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Detectron's 87 files as flat values, with its renamed functions under their present names."""
    files = json.loads((shared / "golden/detectron/yaml_values.json").read_text())
    renamed = golden["renamed_functions"]
    return {
        file: {
            key: renamed.get(value, value) if isinstance(value, str) else value
            for key, value in values.items()
        }
        for file, values in files.items()
    }


def test_keys_are_detectrons_and_our_own(golden: dict[str, Any]) -> None:
    assert len(golden["defaults"]) == 229
    assert set(KNOBS) == set(golden["defaults"]) | set(OWN)


def test_detectron_defaults_are_exact(golden: dict[str, Any]) -> None:
    for key, expected in golden["defaults"].items():
        kind = golden["types"][key]
        found = KNOBS[key].default
        if key == "ROOT_DIR":
            expected = str(Path.cwd())
        assert found == (tuple(expected) if kind == "tuple" else expected), key
        assert type(found).__name__ == {"ndarray": "list"}.get(kind, kind), key
        assert KNOBS[key].type == {"ndarray": "list"}.get(kind, kind), key


def test_own_defaults() -> None:
    assert {key: KNOBS[key].default for key in OWN} == OWN


def test_defaults_are_legal_and_what_a_configuration_holds() -> None:
    defaults = {key: described.default for key, described in KNOBS.items()}
    assert build(defaults) == Config()
    assert Config().flat() == defaults
    assert Config().diff() == {}


@pytest.mark.parametrize("described", KNOBS.values(), ids=list(KNOBS))
def test_every_key_is_described(described: Knob) -> None:
    sentences = described.doc.count(". ") + 1
    assert described.doc[0].isupper() and described.doc.endswith(".") and len(described.doc) > 20
    assert sentences <= 4
    assert described.kind in get_args(Kind)
    assert described.stage in get_args(Stage)
    assert described.source
    assert described.obsolete is None or described.search is None
    json.dumps(described.as_json())


def test_docs_are_not_repeated_word_for_word_within_a_section() -> None:
    seen = [(key.rpartition(".")[0], described.doc) for key, described in KNOBS.items()]
    assert len(seen) == len(set(seen))


def test_numbers_are_bounded() -> None:
    unbounded = {"PIXEL_MEANS"}
    for key, described in KNOBS.items():
        if {described.type, described.element} & {"int", "float"} and key not in unbounded:
            assert described.range or described.choices, key


def test_search_spaces_lie_inside_the_legal_values() -> None:
    searched = [described for described in KNOBS.values() if described.search]
    assert len(searched) >= 60
    for described in searched:
        search = described.search
        assert search is not None
        if search.choices is not None:
            for choice in search.choices:
                assert value_at(build({described.key: choice}), described.key) == choice, described.key
            assert len(set(map(repr, search.choices))) == len(search.choices), described.key
        else:
            assert described.type in ("int", "float") and described.range is not None, described.key
            assert search.low in described.range and search.high in described.range, described.key
            whole = described.type == "int"
            for end in (search.low, search.high):
                build({described.key: int(end) if whole and end is not None else end})


def value_at(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def test_the_suggested_sampling_thresholds_cannot_contradict_each_other() -> None:
    """A tuner that draws both ends of an order must never draw an illegal pair."""
    ordered = [
        ("TRAIN.BG_THRESH_HI", "TRAIN.FG_THRESH"),
        ("TRAIN.RPN_NEGATIVE_OVERLAP", "TRAIN.RPN_POSITIVE_OVERLAP"),
        ("RETINANET.NEGATIVE_OVERLAP", "RETINANET.POSITIVE_OVERLAP"),
    ]
    for low, high in ordered:
        upper, lower = KNOBS[low].search, KNOBS[high].search
        assert upper is not None and lower is not None
        assert upper.high is not None and lower.low is not None and upper.high <= lower.low, (low, high)


def test_the_87_original_files_are_legal_consistent_and_keep_their_values(
    original_files: dict[str, dict[str, Any]],
) -> None:
    assert len(original_files) == 87
    for file, values in original_files.items():
        config = build(values)
        assert contradictions(config) == [], file
        for key, value in values.items():
            found = config.flat()[key]
            assert found == (tuple(value) if isinstance(found, tuple) else value), (file, key)


def test_obsolete_keys_are_accepted_and_say_what_replaced_them() -> None:
    obsolete = {key for key, described in KNOBS.items() if described.obsolete}
    assert obsolete == {
        "EPS",
        "MATLAB",
        "MEMONGER",
        "MEMONGER_SHARE_ACTIVATIONS",
        "USE_NCCL",
        "CLUSTER.ON_CLUSTER",
        "MODEL.EXECUTION_TYPE",
        "DATA_LOADER.MINIBATCH_QUEUE_SIZE",
        "DATA_LOADER.BLOBS_QUEUE_CAPACITY",
        "EXPECTED_RESULTS_EMAIL",
        "TRAIN.GENERATE_PROPOSALS_ON_GPU",
        "TEST.GENERATE_PROPOSALS_ON_GPU",
    }
    assert build({"MATLAB": "octave"}).MATLAB == "octave"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.BASE_LR", True),
        ("SOLVER.BASE_LR", "0.1"),
        ("SOLVER.BASE_LR", -0.1),
        ("SOLVER.BASE_LR", 0),
        ("SOLVER.BASE_LR", float("nan")),
        ("SOLVER.BASE_LR", float("inf")),
        ("SOLVER.EMA_DECAY", 1.0),
        ("SOLVER.MAX_ITER", 10.5),
        ("SOLVER.MAX_ITER", True),
        ("SOLVER.LR_POLICY", "stepp"),
        ("SOLVER.STEPS", [0, -5]),
        ("SOLVER.BETAS", (0.9,)),
        ("SOLVER.BETAS", (0.9, 1.0)),
        ("MODEL.MASK_ON", 1),
        ("MODEL.DEVICE", "cuda:x"),
        ("MODEL.CONV_BODY", "FPN.add_fpn_ResNet51_conv5_body"),
        ("TRAIN.SCALES", 600),
        ("TRAIN.SCALES", []),
        ("TRAIN.SCALES", [600.5]),
        ("TRAIN.FREEZE_AT", 1),
        ("TRAIN.FREEZE_AT", False),
        ("TRAIN.DATASETS", "shapes_train"),
        ("TRAIN.BEST_METRIC", "AP"),
        ("PIXEL_MEANS", [102.0, 115.0, 122.0]),
        ("DATASETS", {"cells": {"images": "here"}}),
        ("DATASETS", {"cells": {"images": "here", "annotations": "x.json", "split": "train"}}),
        ("SOLVER.BASE_LRR", 0.1),
    ],
)
def test_wrong_values_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        build({key: value})
    assert caught.value.errors()[0]["loc"][: key.count(".") + 1] == tuple(key.split("."))


@pytest.mark.parametrize(
    ("key", "value", "held"),
    [
        ("SOLVER.BASE_LR", 1, 1.0),
        ("SOLVER.STEPS", (0, 10), [0, 10]),
        ("TRAIN.SCALES", [500, 600], (500, 600)),
        ("RPN.ASPECT_RATIOS", [1, 2], (1.0, 2.0)),
        ("PIXEL_MEANS", (((1, 2, 3),),), [[[1.0, 2.0, 3.0]]]),
        ("MODEL.DEVICE", "cuda:1", "cuda:1"),
        ("EXPECTED_RESULTS", [("set", "box", "AP", 0.5)], [["set", "box", "AP", 0.5]]),
        ("DATASETS", {"a": {"images": "i", "annotations": "a"}}, {"a": {"images": "i", "annotations": "a"}}),
    ],
)
def test_detectrons_leniency(key: str, value: Any, held: Any) -> None:
    found = value_at(build({key: value}), key)
    assert found == held and type(found) is type(held)


def test_a_configuration_is_frozen_and_its_copies_are_copies() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.SOLVER.BASE_LR = 1.0  # type: ignore[misc]  # the point of the test
    config.flat()["SOLVER.STEPS"].append(7)
    config.tree()["SOLVER"]["STEPS"].append(7)
    assert config.SOLVER.STEPS == [] and Config().SOLVER.STEPS == []


def test_trees_flatten_and_differ() -> None:
    config = build({"SOLVER.BASE_LR": 0.5, "TEST.SOFT_NMS.ENABLED": True})
    assert config.tree()["TEST"]["SOFT_NMS"]["ENABLED"] is True
    assert nested(config.flat()) == config.tree()
    assert config.diff() == {"SOLVER.BASE_LR": (0.001, 0.5), "TEST.SOFT_NMS.ENABLED": (False, True)}
    assert config != Config() and config == Config.model_validate(config.tree())


CONSISTENT = {
    "MODEL.TYPE": "generalized_rcnn",
    "MODEL.CONV_BODY": "FPN.add_fpn_ResNet18_conv5_body",
    "MODEL.FASTER_RCNN": True,
    "MODEL.MASK_ON": True,
    "FPN.FPN_ON": True,
    "FPN.MULTILEVEL_ROIS": True,
    "FPN.MULTILEVEL_RPN": True,
    "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head",
    "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs",
    "MRCNN.ROI_XFORM_RESOLUTION": 14,
    "MRCNN.RESOLUTION": 28,
    "SOLVER.LR_POLICY": "steps_with_decay",
    "SOLVER.STEPS": [0, 100, 200],
}
MASK_HEADS = "mask_rcnn_heads.mask_rcnn_fcn_head_"
POSE = {
    "MODEL.KEYPOINTS_ON": True,
    "KRCNN.ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_roi_pose_head_v1convX",
    "KRCNN.ROI_XFORM_RESOLUTION": 14,
    "KRCNN.USE_DECONV_OUTPUT": True,
    "KRCNN.UP_SCALE": 2,
    "KRCNN.HEATMAP_SIZE": 56,
}
C4 = {
    "MODEL.CONV_BODY": "ResNet.add_ResNet50_conv4_body", "FPN.FPN_ON": False, "FPN.MULTILEVEL_ROIS": False,
    "FPN.MULTILEVEL_RPN": False, "FAST_RCNN.ROI_BOX_HEAD": "ResNet.add_ResNet_roi_conv5_head",
    "FAST_RCNN.ROI_XFORM_RESOLUTION": 14, "MRCNN.ROI_MASK_HEAD": MASK_HEADS + "v0upshare", "MRCNN.RESOLUTION": 14,
    "MRCNN.ROI_XFORM_RESOLUTION": 14, "MRCNN.DILATION": 1,
}  # fmt: skip
RETINANET = {
    "MODEL.TYPE": "retinanet",
    "RETINANET.RETINANET_ON": True,
    "MODEL.FASTER_RCNN": False,
    "MODEL.MASK_ON": False,
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        POSE,
        RETINANET,
        {"SOLVER.NESTEROV": True},
        {"SOLVER.NESTEROV": True, "SOLVER.MOMENTUM": 0.0, "SOLVER.OPTIMIZER": "adam"},
        {"SOLVER.LR_POLICY": "cosine_decay", "SOLVER.STEPS": []},
        {"SOLVER.PRECISION": "fp16"},
        {"SOLVER.PRECISION": "bf16", "MODEL.DEVICE": "cpu"},
        {"TRAIN.EVAL_ITERS": 10, "TRAIN.EARLY_STOP_PATIENCE": 2, "TEST.DATASETS": ["shapes_val"]},
        {"TRAIN.BEST_METRIC": "segm/AP50"},
        {"MRCNN.RESOLUTION": 56, "MRCNN.UPSAMPLE_RATIO": 2},
        {"GROUP_NORM.NUM_GROUPS": -1, "GROUP_NORM.DIM_PER_GP": 16, "FPN.USE_GN": True},
        {"RESNETS.NORM": "group"},
        C4,
        C4 | {"MRCNN.ROI_MASK_HEAD": MASK_HEADS + "v0up", "MRCNN.DILATION": 2, "MRCNN.RESOLUTION": 28},
        {"MRCNN.USE_FC_OUTPUT": True, "MRCNN.RESOLUTION": 20},
        {"MODEL.TYPE": "rfcn", "MODEL.MASK_ON": False, "FAST_RCNN.ROI_BOX_HEAD": ""},
    ],
)
def test_consistent_configurations_pass_in_silence(change: dict[str, Any]) -> None:
    assert contradictions(build(CONSISTENT | change)) == []


def test_the_defaults_alone_are_consistent() -> None:
    assert contradictions(Config()) == []


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ({"MRCNN.ROI_MASK_HEAD": ""}, ["MODEL.MASK_ON", "MRCNN.ROI_MASK_HEAD"]),
        ({"FAST_RCNN.ROI_BOX_HEAD": ""}, ["FAST_RCNN.ROI_BOX_HEAD"]),
        ({"MODEL.KEYPOINTS_ON": True}, ["KRCNN.ROI_KEYPOINTS_HEAD"]),
        (POSE | {"KRCNN.HEATMAP_SIZE": 28}, ["KRCNN.HEATMAP_SIZE to 56"]),
        (POSE | {"KRCNN.UP_SCALE": 0, "KRCNN.HEATMAP_SIZE": 28}, ["KRCNN.UP_SCALE is 0"]),
        ({"MODEL.RPN_ONLY": True}, ["MODEL.RPN_ONLY", "MODEL.MASK_ON"]),
        (RETINANET | {"MODEL.FASTER_RCNN": True}, ["RETINANET.RETINANET_ON", "MODEL.FASTER_RCNN"]),
        ({"MODEL.TYPE": "retinanet"}, ["MODEL.TYPE", "RETINANET.RETINANET_ON"]),
        ({"FAST_RCNN.ROI_BOX_HEAD": "ResNet.add_ResNet_roi_conv5_head"}, ["conv4 body"]),
        (
            {"MRCNN.ROI_MASK_HEAD": MASK_HEADS + "v0upshare", "MRCNN.RESOLUTION": 14},
            ["FAST_RCNN.ROI_BOX_HEAD"],
        ),
        ({"MRCNN.RESOLUTION": 14}, ["MRCNN.RESOLUTION to 28"]),
        ({"MRCNN.ROI_XFORM_RESOLUTION": 7}, ["MRCNN.RESOLUTION to 14"]),
        ({"FPN.FPN_ON": False, "FPN.MULTILEVEL_RPN": False}, ["FPN.MULTILEVEL_ROIS", "MODEL.CONV_BODY"]),
        ({"MODEL.CONV_BODY": "ResNet.add_ResNet50_conv4_body"}, ["MODEL.CONV_BODY", "FPN.FPN_ON"]),
        ({"MODEL.TYPE": "rfcn"}, ["MODEL.TYPE is rfcn", "MODEL.MASK_ON"]),
        ({"MRCNN.USE_FC_OUTPUT": True, "MRCNN.UPSAMPLE_RATIO": 2}, ["MRCNN.UPSAMPLE_RATIO is 2"]),
        (C4 | {"MRCNN.DILATION": 2}, ["MRCNN.DILATION is 2"]),
        (C4 | {"MRCNN.RESOLUTION": 28}, ["MRCNN.RESOLUTION to 14"]),
        (
            {"MODEL.CONV_BODY": "FPN.add_fpn_ResNet50_conv5_P2only_body"},
            ["MULTILEVEL_ROIS", "FPN.add_fpn_ResNet50_conv5_body"],
        ),
        ({"RESNETS.RES5_DILATION": 2}, ["RESNETS.RES5_DILATION is 2"]),
        ({"FPN.RPN_MIN_LEVEL": 1}, ["FPN.RPN_MIN_LEVEL is 1"]),
        ({"FPN.ROI_MIN_LEVEL": 6}, ["FPN.ROI_MIN_LEVEL is 6", "FPN.ROI_MAX_LEVEL is 5"]),
        ({"FPN.RPN_MAX_LEVEL": 1}, ["FPN.RPN_MIN_LEVEL is 2"]),
        ({"FPN.COARSEST_STRIDE": 16}, ["FPN.COARSEST_STRIDE"]),
        ({"RESNETS.NUM_GROUPS": 32, "RESNETS.WIDTH_PER_GROUP": 8}, ["ResNet18"]),
        ({"RESNETS.STEM_FUNC": "basic_gn_stem"}, ["RESNETS.TRANS_FUNC", "RESNETS.SHORTCUT_FUNC"]),
        ({"RESNETS.STEM_FUNC": "basic_gn_stem", "RESNETS.NORM": "frozen"}, ["RESNETS.NORM is frozen"]),
        ({"GROUP_NORM.DIM_PER_GP": 16}, ["GROUP_NORM.NUM_GROUPS is 32"]),
        ({"FPN.USE_GN": True, "FPN.DIM": 48}, ["FPN.DIM is 48"]),
        ({"MODEL.NUM_CLASSES": 1}, ["MODEL.NUM_CLASSES is 1"]),
        ({"SOLVER.STEPS": [100, 200]}, ["SOLVER.STEPS must start at 0", "[100, 200]"]),
        ({"SOLVER.STEPS": []}, ["SOLVER.STEPS must start at 0"]),
        ({"SOLVER.STEPS": [0, 200, 100]}, ["SOLVER.STEPS must increase"]),
        ({"SOLVER.LR_POLICY": "steps_with_lrs", "SOLVER.LRS": [0.1]}, ["1 entries", "SOLVER.STEPS 3"]),
        ({"SOLVER.NESTEROV": True, "SOLVER.MOMENTUM": 0.0}, ["SOLVER.MOMENTUM is 0"]),
        ({"TRAIN.FG_THRESH": 0.4}, ["TRAIN.BG_THRESH_HI is 0.5", "TRAIN.FG_THRESH is 0.4"]),
        ({"TRAIN.BG_THRESH_LO": 0.6}, ["TRAIN.BG_THRESH_LO is 0.6"]),
        ({"TRAIN.RPN_NEGATIVE_OVERLAP": 0.8}, ["TRAIN.RPN_NEGATIVE_OVERLAP", "TRAIN.RPN_POSITIVE_OVERLAP"]),
        (RETINANET | {"RETINANET.NEGATIVE_OVERLAP": 0.6}, ["RETINANET.POSITIVE_OVERLAP is 0.5"]),
        ({"TEST.BBOX_AUG.AREA_TH_LO": 10**6}, ["TEST.BBOX_AUG.AREA_TH_HI"]),
        ({"TRAIN.PROPOSAL_FILES": ["a.pkl"]}, ["TRAIN.PROPOSAL_FILES has 1 entries"]),
        ({"EXPECTED_RESULTS": [["set", "box"]]}, ["EXPECTED_RESULTS"]),
        ({"SOLVER.PRECISION": "fp16", "MODEL.DEVICE": "cpu"}, ["SOLVER.PRECISION is fp16"]),
        ({"TEST.PRECISION": "fp16", "MODEL.DEVICE": "mps"}, ["TEST.PRECISION is fp16"]),
        ({"TRAIN.EARLY_STOP_PATIENCE": 3}, ["TRAIN.EVAL_ITERS is 0"]),
        ({"TRAIN.EVAL_ITERS": 3}, ["TEST.DATASETS is empty"]),
        ({"TRAIN.BEST_METRIC": "keypoints/AP"}, ["MODEL.KEYPOINTS_ON is False"]),
        ({"TEST.BBOX_AUG.ENABLED": True, "TEST.BBOX_AUG.COORD_HEUR": "AVG"}, ["UNION goes only with UNION"]),
        (
            {
                "TEST.BBOX_AUG.ENABLED": True,
                "TEST.BBOX_AUG.COORD_HEUR": "AVG",
                "TEST.BBOX_AUG.SCORE_HEUR": "AVG",
            },
            ["MODEL.FASTER_RCNN is True"],
        ),
    ],
)
def test_contradictions_are_named(change: dict[str, Any], keys: list[str]) -> None:
    found = contradictions(build(CONSISTENT | change))
    assert found
    for key in keys:
        assert key in " ".join(found)
    for sentence in found:
        assert sentence.endswith(".") and "\n" not in sentence


def test_ranges_read_as_text_and_contain() -> None:
    assert str(Range(gt=0, le=1)) == "> 0 and <= 1"
    assert 0 not in Range(gt=0) and 0 in Range(ge=0) and 1 not in Range(lt=1) and 1 in Range(le=1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: log(0, 1),
        lambda: linear(2, 1),
        lambda: one_minus_log(0.5, 1.0),
        lambda: among(1),
        lambda: Search(low=1),
        lambda: Search(low=0, high=1, choices=(1, 2)),
    ],
)
def test_impossible_searches_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"search|interval"):
        make()


def test_scales_are_those_the_tuner_knows() -> None:
    assert set(get_args(Scale)) == {"linear", "log", "one_minus_log"}
    assert one_minus_log(0.8, 0.99).scale == "one_minus_log"


def test_a_field_without_description_is_our_mistake() -> None:
    class Bare(Section):
        KEY: int = 3

    class Described(Section):
        KEY: int = knob(3, "A key.", kind="data", stage="nothing", ge=1)

    with pytest.raises(TypeError, match="KEY is not declared with knob"):
        collect_knobs(Bare)
    assert collect_knobs(Described)["KEY"].range == Range(ge=1)


def test_the_json_schema_carries_bounds_and_descriptions() -> None:
    schema = Config.model_json_schema()
    rate = schema["$defs"]["Solver"]["properties"]["BASE_LR"]
    assert (
        rate["exclusiveMinimum"] == 0
        and rate["title"] == "BASE_LR"
        and rate["x-knob"]["kind"] == "optimisation"
    )
    assert schema["properties"]["MATLAB"]["deprecated"] is True
    assert schema["additionalProperties"] is False
    json.dumps(schema)


def test_the_tree_needs_neither_torch_nor_numpy() -> None:
    program = "import sys, detectune.config.tree; sys.exit(any(m in sys.modules for m in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
