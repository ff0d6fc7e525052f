"""Training goes on from the weights of each program, whole, and computes boxes as that program does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from detectune.config.load import Config, load_config
from detectune.data.shapes import make_shapes
from detectune.engine import testing
from detectune.engine.inference import Predictor, load_detector, numbered_classes
from detectune.engine.run_directory import RunDirectory
from detectune.engine.trainer import train
from detectune.models.build import build_detector
from detectune.pickles import dump_pickle
from detectune.weights.detectron import to_detectron
from detectune.weights.detectron2 import to_detectron2
from detectune.weights.native import load_weights, save_weights
from detectune.weights.torchvision import to_torchvision

SETTINGS = {
    "MODEL.TYPE": "generalized_rcnn", "MODEL.CONV_BODY": "FPN.add_fpn_ResNet50_conv5_body", "MODEL.FASTER_RCNN": True,
    "MODEL.MASK_ON": True, "MODEL.DEVICE": "cpu", "RESNETS.WIDTH_MULTIPLIER": 0.125, "FPN.FPN_ON": True,
    "FPN.MULTILEVEL_ROIS": True, "FPN.MULTILEVEL_RPN": True, "FPN.DIM": 16, "FAST_RCNN.MLP_HEAD_DIM": 32,
    "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head", "FAST_RCNN.ROI_XFORM_METHOD": "RoIAlign",
    "FAST_RCNN.ROI_XFORM_RESOLUTION": 7, "MRCNN.ROI_MASK_HEAD": "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs",
    "MRCNN.DIM_REDUCED": 16, "MRCNN.ROI_XFORM_RESOLUTION": 14, "MRCNN.RESOLUTION": 28, "MRCNN.DILATION": 1,
    "TRAIN.SCALES": [64], "TRAIN.MAX_SIZE": 80, "TEST.SCALE": 64, "TEST.MAX_SIZE": 80, "TRAIN.IMS_PER_BATCH": 2,
    "TRAIN.BATCH_SIZE_PER_IM": 16, "TRAIN.RPN_PRE_NMS_TOP_N": 50, "TRAIN.RPN_POST_NMS_TOP_N": 20,
    "TEST.RPN_PRE_NMS_TOP_N": 50, "TEST.RPN_POST_NMS_TOP_N": 20, "TRAIN.FREEZE_AT": 0, "TRAIN.LOG_ITERS": 1,
    "SOLVER.MAX_ITER": 2, "SOLVER.BASE_LR": 0.001, "DATA_LOADER.NUM_THREADS": 0,
    "TRAIN.DATASETS": ["shapes"], "TEST.DATASETS": ["shapes"],
}  # fmt: skip


CFG = "MODEL: {BBOX_REG_WEIGHTS: [10.0, 10.0, 5.0, 5.0]}\n"


def as_arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in state.items()}


def detectron(state: dict[str, Tensor], path: Path) -> None:
    path.write_bytes(dump_pickle({"blobs": as_arrays(to_detectron(state)), "cfg": CFG}))


def detectron_with_momentum(state: dict[str, Tensor], path: Path) -> None:
    blobs = as_arrays(to_detectron(state))
    momentum = {f"{name}_momentum": np.ones_like(value) for name, value in blobs.items()}
    path.write_bytes(dump_pickle({"blobs": blobs | momentum, "cfg": CFG}))


def detectron2_pickle(state: dict[str, Tensor], path: Path) -> None:
    path.write_bytes(dump_pickle({"model": as_arrays(to_detectron2(state)), "__author__": "somebody"}))


def detectron2_checkpoint(state: dict[str, Tensor], path: Path) -> None:
    torch.save({"model": to_detectron2(state), "iteration": 7}, path)


def torchvision(state: dict[str, Tensor], path: Path) -> None:
    torch.save(to_torchvision(state), path)


def ours(state: dict[str, Tensor], path: Path) -> None:
    save_weights(path, state, {"geometry": "torchvision"})


Writer = Callable[[dict[str, Tensor], Path], None]
ORIGINS: dict[str, tuple[Writer, str]] = {  # name of the file -> who writes it, its dialect
    "detectron.pkl": (detectron, "detectron"),
    "detectron_momentum.pkl": (detectron_with_momentum, "detectron"),
    "detectron2.pkl": (detectron2_pickle, "detectron2"),
    "detectron2.pth": (detectron2_checkpoint, "detectron2"),
    "torchvision.pth": (torchvision, "torchvision"),
    "ours.safetensors": (ours, "torchvision"),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    made = make_shapes(tmp_path_factory.mktemp("shapes"), split="train", num_images=4, image_size=(64, 80))
    files = {"images": str(made.images), "annotations": str(made.annotations)}
    return load_config(None, SETTINGS | {"DATASETS": {"shapes": files}})


def state_of(config: Config) -> dict[str, Tensor]:
    """Weights of a detector of this configuration, what nothing uses and others do not store set to zero."""
    torch.manual_seed(5)
    state = build_detector(config, num_classes=6).state_dict()
    for name in ("box_head.bbox_pred", "mask_head.predictor"):
        rows = 4 if name == "box_head.bbox_pred" else 1
        for part in ("weight", "bias"):
            state[f"{name}.{part}"][:rows] = 0
    return state


@pytest.mark.parametrize("name", ORIGINS)
def test_training_goes_on_from_the_weights_of_every_program(
    name: str, config: Config, tmp_path: Path
) -> None:
    write, dialect = ORIGINS[name]
    state = state_of(config)
    write(state, tmp_path / name)
    said: list[str] = []
    settings = config.with_overrides({"TRAIN.WEIGHTS": str(tmp_path / name), "SOLVER.BASE_LR": 1e-12})
    result = train(settings, output_dir=tmp_path / "run", log=said.append)
    assert "MODEL.GEOMETRY" not in settings.given
    kept = load_config(tmp_path / "run" / "config.yaml")
    assert dialect == kept.MODEL.GEOMETRY
    chosen = [line for line in said if line.startswith(f"MODEL.GEOMETRY is {dialect}, as the weights")]
    assert len(chosen) == (dialect != Config().MODEL.GEOMETRY)
    after, metadata = load_weights(result.weights)
    assert metadata["geometry"] == dialect
    assert after.keys() == state.keys()
    for weight, value in state.items():  # nothing is learnt at that rate
        torch.testing.assert_close(after[weight], value, atol=1e-6, rtol=1e-5, msg=weight)
    rows = [row for row in RunDirectory(tmp_path / "run").read_metrics() if row["kind"] == "train"]
    assert len(rows) == 2 and all(np.isfinite(row["loss"]) for row in rows)


def test_it_learns_from_there(config: Config, tmp_path: Path) -> None:
    state = state_of(config)
    detectron(state, tmp_path / "w.pkl")
    result = train(
        config.with_overrides({"TRAIN.WEIGHTS": str(tmp_path / "w.pkl")}),
        output_dir=tmp_path / "run",
        log=lambda _: None,
    )
    after, _ = load_weights(result.weights)
    assert any(not torch.equal(after[name], value) for name, value in state.items())


def test_a_configuration_that_names_a_dialect_keeps_it(config: Config, tmp_path: Path) -> None:
    detectron(state_of(config), tmp_path / "w.pkl")
    settings = config.with_overrides(
        {"TRAIN.WEIGHTS": str(tmp_path / "w.pkl"), "MODEL.GEOMETRY": "detectron2", "SOLVER.MAX_ITER": 1}
    )
    train(settings, output_dir=tmp_path / "run", log=lambda _: None)
    assert load_config(tmp_path / "run" / "config.yaml").MODEL.GEOMETRY == "detectron2"


@pytest.mark.parametrize("name", ["detectron.pkl", "torchvision.pth"])
def test_tests_and_single_images_follow_the_weights_too(name: str, config: Config, tmp_path: Path) -> None:
    write, dialect = ORIGINS[name]
    write(state_of(config), tmp_path / name)
    said: list[str] = []
    assert Predictor(config, tmp_path / name, log=said.append).geometry.mask_paste == dialect
    metrics = testing.test(config, tmp_path / name, output_dir=tmp_path / "theirs", log=said.append)
    assert all(f"MODEL.GEOMETRY is {dialect}" in line for line in said) and len(said) == 2
    named = config.with_overrides({"MODEL.GEOMETRY": dialect})
    assert metrics == testing.test(named, tmp_path / name, output_dir=tmp_path / "named", log=lambda _: None)


def test_a_body_alone_decides_nothing(config: Config, tmp_path: Path) -> None:
    body = {name: value for name, value in state_of(config).items() if name.startswith("backbone.res")}
    detectron(body, tmp_path / "R-50.pkl")
    settings = config.with_overrides({"TRAIN.WEIGHTS": str(tmp_path / "R-50.pkl"), "SOLVER.MAX_ITER": 1})
    train(settings, output_dir=tmp_path / "run", log=lambda _: None)
    assert load_config(tmp_path / "run" / "config.yaml").MODEL.GEOMETRY == "detectron2"


def test_detectrons_oldest_models_have_boxes_of_unit_weight(tmp_path: Path) -> None:
    """A file whose configuration does not know the key: Detectron forces 1 for it, whatever is asked for."""
    config = Config().with_overrides(SETTINGS | {"MODEL.GEOMETRY": "detectron", "MODEL.NUM_CLASSES": 4})
    torch.manual_seed(0)
    state = build_detector(config).state_dict()
    said: list[str] = []
    weights = {}
    for name, cfg in (("old", "MODEL: {TYPE: x}"), ("new", CFG), ("body alone", "")):
        blobs = (
            {"blobs": as_arrays(to_detectron(state)), "cfg": cfg} if cfg else as_arrays(to_detectron(state))
        )
        (tmp_path / "model.pkl").write_bytes(dump_pickle(blobs))
        model, _ = load_detector(config, tmp_path / "model.pkl", numbered_classes(3), log=said.append)
        weights[name] = model.box_head.box_weights
    assert weights == {"old": (1.0,) * 4, "new": (10.0, 10.0, 5.0, 5.0), "body alone": (10.0, 10.0, 5.0, 5.0)}
    assert len(said) == 1 and "older than that key" in said[0]
