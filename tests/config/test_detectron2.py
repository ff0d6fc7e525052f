"""detectron2's YAML files: recognised, read with their bases, translated, or refused by key and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from detectune.config.arithmetic import arithmetic
from detectune.config.catalogue import KNOBS
from detectune.config.detectron2_defaults import DEFAULTS
from detectune.config.detectron2_keys import NETWORK, RENAMED, TRAINING
from detectune.config.detectron2_zoo import ZOO, zoo_name
from detectune.config.load import Config, ConfigError, load_config

FPN = """\
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  BACKBONE: {NAME: build_resnet_fpn_backbone}
  RESNETS: {OUT_FEATURES: [res2, res3, res4, res5]}
  FPN: {IN_FEATURES: [res2, res3, res4, res5]}
  ANCHOR_GENERATOR: {SIZES: [[32], [64], [128], [256], [512]], ASPECT_RATIOS: [[0.5, 1.0, 2.0]]}
  RPN:
    IN_FEATURES: [p2, p3, p4, p5, p6]
    PRE_NMS_TOPK_TRAIN: 2000
    PRE_NMS_TOPK_TEST: 1000
    POST_NMS_TOPK_TRAIN: 1000
    POST_NMS_TOPK_TEST: 1000
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [p2, p3, p4, p5]}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 2, POOLER_RESOLUTION: 7}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 4, POOLER_RESOLUTION: 14}
DATASETS: {TRAIN: ("coco_2017_train",), TEST: ("coco_2017_val",)}
SOLVER: {IMS_PER_BATCH: 16, BASE_LR: 0.02, STEPS: "(60000, 80000)", MAX_ITER: 90000}
INPUT: {MIN_SIZE_TRAIN: "(640, 672, 704, 736, 768, 800)"}
VERSION: 2
""".replace('("coco_2017_train",)', "\"('coco_2017_train',)\"").replace(
    '("coco_2017_val",)', "\"('coco_2017_val',)\""
)
C4 = """\
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  RPN: {PRE_NMS_TOPK_TEST: 6000, POST_NMS_TOPK_TEST: 1000}
  ROI_HEADS: {NAME: Res5ROIHeads}
VERSION: 2
"""
RETINANET = """\
MODEL:
  META_ARCHITECTURE: RetinaNet
  BACKBONE: {NAME: build_retinanet_resnet_fpn_backbone}
  RESNETS: {OUT_FEATURES: [res3, res4, res5]}
  ANCHOR_GENERATOR:
    SIZES: !!python/object/apply:eval ["[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"]
  FPN: {IN_FEATURES: [res3, res4, res5]}
  RETINANET: {IOU_THRESHOLDS: [0.4, 0.5], IOU_LABELS: [0, -1, 1], SMOOTH_L1_LOSS_BETA: 0.0}
SOLVER: {BASE_LR: 0.01}
VERSION: 2
"""


def read(folder: Path, text: str, *overrides: str) -> Config:
    (folder / "theirs.yaml").write_text(text)
    return load_config(folder / "theirs.yaml", overrides)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return str(caught.value)


def test_what_a_file_leaves_out_is_their_default_and_not_ours(tmp_path: Path) -> None:
    config = read(tmp_path, FPN)
    assert config.MODEL.GEOMETRY == "detectron2" and config.MODEL.NUM_CLASSES == 81
    assert config.PIXEL_MEANS == [[[103.53, 116.28, 123.675]]]
    assert config.TEST.NMS == 0.5 and config.TEST.SCALE == 800 and config.TEST.MAX_SIZE == 1333
    assert config.FAST_RCNN.ROI_XFORM_METHOD == "RoIAlign" and config.FAST_RCNN.ROI_XFORM_SAMPLING_RATIO == 0
    assert config.TRAIN.BATCH_SIZE_PER_IM == 512 and config.TRAIN.RPN_STRADDLE_THRESH == -1
    assert config.SOLVER.WEIGHT_DECAY == 0.0001 and config.SOLVER.WARM_UP_FACTOR == 0.001
    assert not config.SOLVER.SCALE_MOMENTUM and config.notices == ()
    assert config.SOLVER.BIAS_LR_FACTOR == 1.0 and config.SOLVER.WEIGHT_DECAY_BIAS == 0.0001
    own = read(
        tmp_path, FPN.replace("SOLVER: {", "SOLVER: {WEIGHT_DECAY_BIAS: 0.0, BIAS_LR_FACTOR: 2.0, ")
    ).SOLVER
    assert own.BIAS_LR_FACTOR == 2.0 and own.WEIGHT_DECAY_BIAS == 0.0


def test_values_written_as_python_are_read(tmp_path: Path) -> None:
    config = read(tmp_path, FPN)
    assert config.SOLVER.STEPS == [0, 60000, 80000] and config.SOLVER.LR_POLICY == "steps_with_decay"
    assert config.TRAIN.SCALES == (640, 672, 704, 736, 768, 800)
    assert config.TRAIN.DATASETS == ("coco_2017_train",)


def test_bases_are_read_level_by_level_and_the_nearest_file_wins(tmp_path: Path) -> None:
    (tmp_path / "configs" / "masks").mkdir(parents=True)
    (tmp_path / "configs" / "Base.yaml").write_text(FPN)
    middle = (
        '_BASE_: "../Base.yaml"\nMODEL: {MASK_ON: true, RESNETS: {DEPTH: 101}}\nSOLVER: {BASE_LR: 0.01}\n'
    )
    (tmp_path / "configs" / "masks" / "middle.yaml").write_text(middle)
    config = read(tmp_path, "_BASE_: configs/masks/middle.yaml\nSOLVER: {BASE_LR: 0.005}\n")
    assert config.SOLVER.BASE_LR == 0.005 and config.MODEL.MASK_ON
    assert config.MODEL.CONV_BODY == "FPN.add_fpn_ResNet101_conv5_body"
    assert config.MRCNN.ROI_MASK_HEAD.endswith("v1up4convs") and config.MRCNN.RESOLUTION == 28


def test_a_base_that_is_missing_or_leads_back_is_named_with_its_line(tmp_path: Path) -> None:
    said = refusal(tmp_path, "VERSION: 2\n_BASE_: nowhere/Base.yaml\n")
    assert said.startswith(f"{tmp_path / 'theirs.yaml'}:2: _BASE_ nowhere/Base.yaml cannot be read")
    said = refusal(tmp_path, "_BASE_: theirs.yaml\n")
    assert "theirs.yaml:1: _BASE_ theirs.yaml leads back" in said
    (tmp_path / "base.yaml").write_text("MODEL: {RPN: {NMS_THRESHOLD: 0.7}}\n")
    said = refusal(tmp_path, "_BASE_: base.yaml\n")
    assert said.startswith(f"{tmp_path / 'base.yaml'}:1: ") and "did you mean MODEL.RPN.NMS_THRESH?" in said


def test_c4_with_masks_shares_its_stage(tmp_path: Path) -> None:
    config = read(tmp_path, C4.replace("MODEL:\n", "MODEL:\n  MASK_ON: true\n"))
    assert config.MODEL.CONV_BODY == "ResNet.add_ResNet50_conv4_body" and not config.FPN.FPN_ON
    assert config.FAST_RCNN.ROI_BOX_HEAD == "ResNet.add_ResNet_roi_conv5_head"
    assert config.FAST_RCNN.ROI_XFORM_RESOLUTION == 14 and config.RPN.SIZES == (32, 64, 128, 256, 512)
    assert config.MRCNN.ROI_MASK_HEAD.endswith("v0upshare") and config.MRCNN.RESOLUTION == 14
    assert config.TEST.RPN_PRE_NMS_TOP_N == 6000


def test_dilated_c5(tmp_path: Path) -> None:
    dilated = """\
MODEL:
  RESNETS: {OUT_FEATURES: [res5], RES5_DILATION: 2}
  RPN: {IN_FEATURES: [res5]}
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [res5]}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 2, POOLER_RESOLUTION: 7}
"""
    config = read(tmp_path, dilated)
    assert config.MODEL.CONV_BODY == "ResNet.add_ResNet50_conv5_body" and config.RESNETS.RES5_DILATION == 2
    assert config.RPN.STRIDE == 16 and config.FAST_RCNN.ROI_BOX_HEAD.endswith("2mlp_head")


def test_retinanets_anchors_are_a_sum_to_be_done(tmp_path: Path) -> None:
    config = read(tmp_path, RETINANET)
    assert config.MODEL.TYPE == "retinanet" and config.RETINANET.RETINANET_ON and config.FPN.EXTRA_CONV_LEVELS
    assert config.RETINANET.SCALES_PER_OCTAVE == 3 and config.RETINANET.ANCHOR_SCALE == 4
    assert config.FPN.RPN_MIN_LEVEL == 3 and config.FPN.RPN_MAX_LEVEL == 7
    assert config.FPN.COARSEST_STRIDE == 32 and config.RETINANET.BBOX_REG_BETA == 0.0
    assert config.SOLVER.BASE_LR == 0.01


def test_cascade_keypoints_group_norm_and_groups(tmp_path: Path) -> None:
    cascade = FPN.replace("StandardROIHeads", "CascadeROIHeads").replace(
        "NUM_FC: 2,", "NUM_FC: 1, NUM_CONV: 4, NORM: GN, CLS_AGNOSTIC_BBOX_REG: true,"
    )
    config = read(tmp_path, cascade)
    assert config.MODEL.CASCADE_ON and config.CASCADE.IOUS == (0.5, 0.6, 0.7)
    assert config.FAST_RCNN.ROI_BOX_HEAD == "fast_rcnn_heads.add_roi_Xconv1fc_head"
    assert config.FAST_RCNN.NORM == "group" and config.FAST_RCNN.NUM_STACKED_CONVS == 4
    people = FPN.replace("MODEL:\n", "MODEL:\n  KEYPOINT_ON: true\n").replace(
        "RESNETS: {", "RESNETS: {NUM_GROUPS: 32, WIDTH_PER_GROUP: 8, STRIDE_IN_1X1: false, DEPTH: 101, "
    )
    config = read(tmp_path, people)
    assert (
        config.MODEL.KEYPOINTS_ON and config.KRCNN.HEATMAP_SIZE == 56 and config.KRCNN.NUM_STACKED_CONVS == 8
    )
    assert (
        config.RESNETS.NUM_GROUPS == 32
        and config.RESNETS.WIDTH_PER_GROUP == 8
        and not config.RESNETS.STRIDE_1X1
    )


def test_proposals_alone_and_given_ones(tmp_path: Path) -> None:
    config = read(tmp_path, FPN.replace('"GeneralizedRCNN"', "ProposalNetwork"))
    assert config.MODEL.RPN_ONLY and not config.MODEL.FASTER_RCNN
    given = FPN.replace("MODEL:\n", "MODEL:\n  PROPOSAL_GENERATOR: {NAME: PrecomputedProposals}\n")
    config = read(tmp_path, given)
    assert not config.MODEL.FASTER_RCNN and not config.MODEL.RPN_ONLY and config.TEST.PRECOMPUTED_PROPOSALS


def test_comparisons_with_detectron_use_its_region_cuts_and_losses() -> None:
    config = load_config("Detectron1-Comparisons/keypoint_rcnn_R_50_FPN_1x")
    assert config.FAST_RCNN.ROI_XFORM_METHOD == config.KRCNN.ROI_XFORM_METHOD == "RoIAlignUnshifted"
    assert config.RPN.SMOOTH_L1_BETA == 0.1111 and config.FAST_RCNN.SMOOTH_L1_BETA == 1.0
    assert load_config("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x").KRCNN.ROI_XFORM_METHOD == "RoIAlign"


def test_norms_of_every_part(tmp_path: Path) -> None:
    text = (
        FPN.replace("NUM_FC: 2,", "NUM_FC: 1, NUM_CONV: 4, NORM: BN,")
        .replace("NUM_CONV: 4, POOLER_RESOLUTION: 14", "NUM_CONV: 4, NORM: GN, POOLER_RESOLUTION: 14")
        .replace("FPN: {IN", "FPN: {NORM: FrozenBN, IN")
        .replace("MODEL:\n", "MODEL:\n  MASK_ON: true\n")
    )
    config = read(tmp_path, text)
    assert (config.RESNETS.NORM, config.FPN.NORM) == ("frozen", "frozen")
    assert (config.FAST_RCNN.NORM, config.MRCNN.NORM) == ("batch", "group")
    assert "asks for another norm" in refusal(tmp_path, text.replace("NORM: FrozenBN", "NORM: LN"))
    with pytest.raises(ConfigError, match=r"FPN\.NORM is batch but FPN\.USE_GN True asks for group"):
        Config().with_overrides({"FPN.NORM": "batch", "FPN.USE_GN": True})


def test_heads_of_any_number_of_layers(tmp_path: Path) -> None:
    text = FPN.replace("NUM_FC: 2,", "NUM_FC: 3, NUM_CONV: 1,").replace(
        "NUM_CONV: 4, POOLER", "NUM_CONV: 8, POOLER"
    )
    config = read(tmp_path, text.replace("MODEL:\n", "MODEL:\n  MASK_ON: true\n"))
    assert config.FAST_RCNN.NUM_STACKED_CONVS == 1 and config.FAST_RCNN.NUM_STACKED_FCS == 3
    assert config.MRCNN.NUM_STACKED_CONVS == 8 and config.MRCNN.ROI_MASK_HEAD.endswith("v1up4convs")
    shared = C4.replace("MODEL:\n", "MODEL:\n  MASK_ON: true\n  ROI_MASK_HEAD: {NUM_CONV: 1}\n")
    assert read(tmp_path, shared).MRCNN.NUM_STACKED_CONVS == 1
    assert "without fully connected layers" in refusal(tmp_path, FPN.replace("NUM_FC: 2,", "NUM_FC: 0,"))
    bare = FPN.replace("NUM_CONV: 4, POOLER", "NUM_CONV: 0, POOLER").replace(
        "MODEL:\n", "MODEL:\n  MASK_ON: true\n"
    )
    assert "a mask head without convolutions" in refusal(tmp_path, bare)


def test_colours_in_the_other_order(tmp_path: Path) -> None:
    lines = (
        "INPUT: {FORMAT: RGB}\nMODEL: {PIXEL_MEAN: [1.0, 2.0, 3.0], PIXEL_STD: [4.0, 5.0, 6.0]}\nVERSION: 2\n"
    )
    config = read(tmp_path, lines)
    assert config.PIXEL_MEANS == [[[3.0, 2.0, 1.0]]] and config.INPUT.PIXEL_STDS == (6.0, 5.0, 4.0)
    assert config.INPUT.WEIGHTS_COLOURS == "RGB"
    config = read(tmp_path, lines.replace("RGB", "BGR"))
    assert config.PIXEL_MEANS == [[[1.0, 2.0, 3.0]]] and config.INPUT.WEIGHTS_COLOURS == "auto"
    assert "other colours than BGR or RGB" in refusal(tmp_path, lines.replace("RGB", "YUV-BT.601"))


def test_box_losses_and_convolutions_of_the_proposal_network(tmp_path: Path) -> None:
    text = FPN.replace("RPN:\n", "RPN:\n    CONV_DIMS: [-1, 256]\n    BBOX_REG_LOSS_TYPE: giou\n")
    config = read(tmp_path, text.replace("NUM_FC: 2,", "NUM_FC: 2, BBOX_REG_LOSS_TYPE: giou,"))
    assert config.RPN.NUM_CONVS == 2 and config.RPN.BOX_LOSS == config.FAST_RCNN.BOX_LOSS == "giou"
    assert config.RETINANET.BOX_LOSS == "smooth_l1" and config.notices == ()
    (notice,) = read(tmp_path, text.replace("TYPE: giou", "TYPE: ciou")).notices
    assert "MODEL.RPN.BBOX_REG_LOSS_TYPE 'ciou' is left out: boxes learn by smooth_l1 or giou" in notice


def test_our_keys_stand_on_top(tmp_path: Path) -> None:
    assert read(tmp_path, FPN, "TEST.NMS=0.6", "TEST.SCALE", "600").TEST.NMS == 0.6


@pytest.mark.parametrize(
    "line, said",
    [
        (
            "META_ARCHITECTURE: PanopticFPN",
            "MODEL.META_ARCHITECTURE 'PanopticFPN' asks for semantic segmentation",
        ),
        ("BACKBONE: {NAME: build_vit_backbone}", "a body other than a ResNet"),
        ("ROI_HEADS: {NAME: PointRendROIHeads}", "heads of their own kind"),
        ("POINT_HEAD: {NUM_FC: 3}", "belongs to the point head of PointRend"),
        (
            "ROI_BOX_HEAD: {POOLER_TYPE: ROIAlignRotated}",
            "another way to cut out regions than ROIAlignV2, ROIAlign",
        ),
        ("RPN: {CONV_DIMS: [64, -1]}", "of another width than the features"),
        ("ROI_BOX_HEAD: {USE_SIGMOID_CE: true}", "a sigmoid for each class"),
        ("ANCHOR_GENERATOR: {OFFSET: 0.5}", "anchors moved within their cell"),
        ("ROI_HEADS: {NUM_CLASSES: eighty}", "MODEL.ROI_HEADS.NUM_CLASSES must be an integer, not 'eighty'"),
        ("RPN: 3", "MODEL.RPN is a section of detectron2's"),
        ("RESNETS: {NORM: ''}", "a body without norms"),
    ],
)
def test_what_cannot_be_had_is_named_with_its_meaning_and_line(tmp_path: Path, line: str, said: str) -> None:
    text = f"VERSION: 2\nMODEL:\n  {line}\n"
    message = refusal(tmp_path, text)
    assert said in message and message.startswith(f"{tmp_path / 'theirs.yaml'}:3: ")


def test_what_only_changes_training_is_left_out_with_a_notice(tmp_path: Path) -> None:
    text = (
        C4
        + "DATALOADER: {SAMPLER_TRAIN: RepeatFactorTrainingSampler}\nSOLVER: {CLIP_GRADIENTS: {ENABLED: true}}\n"
    )
    notices = read(tmp_path, text).notices
    assert (
        len(notices) == 2
        and "theirs.yaml:6: " in notices[1]
        and "repeats images of rare classes" in notices[1]
    )


def test_the_tables_name_keys_that_exist() -> None:
    assert set(RENAMED) | set(NETWORK) | set(TRAINING) <= set(DEFAULTS)
    assert {name for names in RENAMED.values() for name in names} <= set(KNOBS)


def test_a_file_of_ours_or_of_detectrons_is_not_taken_for_theirs(tmp_path: Path) -> None:
    config = read(tmp_path, "MODEL: {MASK_ON: false, DEVICE: cpu, NUM_CLASSES: 7}\nTEST: {NMS: 0.4}\n")
    assert config.MODEL.NUM_CLASSES == 7 and config.TEST.SCALE == 600


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "[x for x in (1).__class__]", "2**99999", "9**9**9", "'a'*9", "f(1)", "[y]", "1/0"],
)
def test_only_arithmetic_is_done(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError):
        arithmetic(text)
    said = refusal(
        tmp_path,
        f'VERSION: 2\nMODEL:\n  ANCHOR_GENERATOR:\n    SIZES: !!python/object/apply:eval ["{text}"]\n',
    )
    assert "is no plain arithmetic" in said


@pytest.mark.parametrize("name", ZOO)
def test_every_configuration_of_the_zoo_is_known_by_name(name: str) -> None:
    config = load_config(name)
    assert all("SyncBN" in notice or "PRECISE_BN" in notice for notice in config.notices), config.notices
    assert bool(config.notices) == name.endswith("syncbn")
    assert config.MODEL.GEOMETRY == "detectron2" and config.MODEL.CONV_BODY


def test_the_address_of_weights_names_their_configuration() -> None:
    name = "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x"
    assert zoo_name(f"detectron2://{name}/138205316/model_final_a3ec72.pkl") == name
    assert zoo_name(f"{name}.yaml") == name and zoo_name("COCO-Detection/unheard_of") is None
    config = load_config(f"detectron2://{name}/138205316/model_final_a3ec72.pkl")
    assert config.MODEL.MASK_ON and config.SOLVER.MAX_ITER == 270000
    assert config.MODEL.CONV_BODY == "FPN.add_fpn_ResNet101_conv5_body"


GOLDEN_CHANGED = {
    "MODEL.DEVICE", "TRAIN.WEIGHTS", "TEST.WEIGHTS", "TRAIN.SCALES", "TRAIN.MAX_SIZE", "TEST.SCALE", "TEST.MAX_SIZE",
    "TRAIN.USE_FLIPPED",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name for name in ZOO if name.split("/")[1] in (
        "mask_rcnn_R_50_FPN_1x", "faster_rcnn_R_50_C4_1x", "keypoint_rcnn_R_50_FPN_1x", "retinanet_R_50_FPN_1x",
        "rpn_R_50_FPN_1x",
    ) and name.startswith("COCO")]
)  # fmt: skip
def test_the_zoo_is_what_detectron2_itself_dumps(name: str, shared: Path) -> None:
    dumped = load_config(shared / "golden/detectron2" / name.split("/")[1] / "config.yaml").flat()
    ours = load_config(name).flat()
    assert {key for key in ours if ours[key] != dumped[key]} <= GOLDEN_CHANGED
