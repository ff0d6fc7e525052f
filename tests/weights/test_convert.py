"""Weights written for every program and read back: bit for bit, for every family that the program has."""

from __future__ import annotations

import importlib.util
import json
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from weight_families import FAMILIES, State, config_of, state_of

from detectune.config.load import config_from_text
from detectune.config.tree import Config
from detectune.engine.converting import convert_weights
from detectune.engine.solver import Solver, build_schedule, build_solver
from detectune.errors import UserError
from detectune.models.build import build_detector
from detectune.pickles import load_pickle
from detectune.weights.detectron import detectron_names
from detectune.weights.files import load_file
from detectune.weights.native import save_weights
from detectune.weights.recognise import recognise

WITHOUT_DETECTRON2 = {"mask R-50 C4, own stage", "R-FCN R-50", "faster VGG16", "faster VGG_CNN_M"}
IN_TORCHVISION = {"faster R-50 FPN", "mask R-50 FPN", "mask R-101 FPN", "mask R-152 FPN", "mask X-101-32x8d FPN",
                  "mask X-101-64x4d FPN", "keypoint R-50 FPN", "retinanet R-50", "mask R-50 FPN GN"}  # fmt: skip


def saved(tmp_path: Path, state: State, config: Config | None = None) -> Path:
    path = tmp_path / "ours.safetensors"
    told = {"format": "detectune", "geometry": "detectron2"}
    save_weights(path, state, told if config is None else told | {"config": config.to_yaml()})
    return path


def assert_same(have: State, want: State) -> None:
    assert have.keys() == want.keys(), sorted(have.keys() ^ want.keys())[:5]
    for name, value in want.items():
        assert have[name].dtype == value.dtype and torch.equal(have[name], value), name


def without_counters(state: State) -> State:
    return {k: v for k, v in state.items() if not k.endswith(("num_batches_tracked", "loss_normalizer"))}


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"cascade R-50 FPN"}))
def test_detectron_there_and_back(family: str, tmp_path: Path) -> None:
    state = state_of(family)
    source = saved(tmp_path, state)
    convert_weights(source, tmp_path / "a.pkl", format="detectron")
    loaded = load_file(tmp_path / "a.pkl", agnostic_boxes=config_of(family).MODEL.CLS_AGNOSTIC_BBOX_REG)
    assert loaded.system == "detectron" and loaded.metadata["geometry"] == "detectron"
    want = without_counters(state)
    assert loaded.state.keys() == want.keys()
    for name, value in want.items():
        prefix = name.rpartition(".")[0]
        if f"{prefix}.running_var" not in want:  # a frozen norm keeps its effect, as one scale and one shift
            assert torch.equal(loaded.state[name], value), name
    for prefix in {name.rpartition(".")[0] for name in want if name.endswith("running_var")}:
        for before, after in zip(affine(want, prefix), affine(loaded.state, prefix), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    convert_weights(tmp_path / "a.pkl", tmp_path / "native.safetensors")
    convert_weights(tmp_path / "native.safetensors", tmp_path / "b.pkl", format="detectron")
    assert (tmp_path / "b.pkl").read_bytes() == (tmp_path / "a.pkl").read_bytes()


def affine(state: State, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    scale = state[f"{norm}.weight"] * (state[f"{norm}.running_var"] + 1e-5).rsqrt()
    return scale, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale


@pytest.mark.parametrize("ending", ["pkl", "pth"])
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - WITHOUT_DETECTRON2))
def test_detectron2_there_and_back(family: str, ending: str, tmp_path: Path) -> None:
    state = without_counters(state_of(family))
    target = tmp_path / f"model_final.{ending}"
    convert_weights(saved(tmp_path, state), target, format="detectron2")
    loaded = load_file(target)
    assert loaded.system == "detectron2"
    assert_same(loaded.state, state)
    assert not any(name.startswith(("rpn.", "box_head.", "mask_head.")) for name in recognise(target).arrays)
    convert_weights(target, tmp_path / f"again.{ending}", format="detectron2")
    assert (tmp_path / f"again.{ending}").read_bytes() == target.read_bytes()


@pytest.mark.parametrize("family", sorted(IN_TORCHVISION))
def test_torchvision_there_and_back(family: str, tmp_path: Path) -> None:
    state = without_counters(state_of(family))
    convert_weights(saved(tmp_path, state), tmp_path / "model.pth", format="torchvision")
    loaded = load_file(tmp_path / "model.pth")
    assert loaded.system == "torchvision"
    assert_same(loaded.state, state)


@pytest.mark.parametrize(
    ("family", "format"),
    [*((f, "detectron2") for f in sorted(WITHOUT_DETECTRON2)), ("mask R-50 C4", "torchvision"),
     ("R-FCN R-50", "torchvision"),
     ("cascade R-50 FPN", "detectron"), ("cascade R-50 FPN", "torchvision")],
)  # fmt: skip
def test_what_a_program_lacks_is_not_written(family: str, format: str, tmp_path: Path) -> None:
    target = tmp_path / ("out.pkl" if format == "detectron" else "out.pth")
    with pytest.raises(UserError, match=rf"(?i)^{format} has no place for \w+"):
        convert_weights(saved(tmp_path, state_of(family)), target, format=format)
    assert not target.exists()


def test_a_model_of_an_rgb_file_goes_back_in_rgb(tmp_path: Path) -> None:
    family = "faster R-50 FPN"
    name, theirs = "backbone.stem.conv1.weight", "backbone.bottom_up.stem.conv1.weight"
    for colours, flipped in (("RGB", False), ("auto", True)):
        source = saved(tmp_path, state_of(family), config_of(family, {"INPUT.WEIGHTS_COLOURS": colours}))
        convert_weights(source, tmp_path / "model.pth", format="detectron2")
        written = torch.load(tmp_path / "model.pth", weights_only=True)["model"][theirs]
        assert torch.equal(written, state_of(family)[name].flip(1) if flipped else state_of(family)[name])
        assert torch.equal(
            load_file(tmp_path / "model.pth", colours=colours).state[name], state_of(family)[name]
        )
        convert_weights(tmp_path / "model.pth", tmp_path / "back.safetensors", colours=colours)
        assert torch.equal(load_file(tmp_path / "back.safetensors").state[name], state_of(family)[name])


NEW_PARTS = {
    "FPN.NORM": "batch", "RPN.NUM_CONVS": 3, "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_Xconv1fc_head",
    "FAST_RCNN.NORM": "batch", "MRCNN.NORM": "batch",
}  # fmt: skip


@pytest.mark.parametrize("format", ["detectron2", "torchvision"])
def test_norms_of_heads_and_several_convolutions_there_and_back(format: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = without_counters(build_detector(config_of("mask R-50 FPN", NEW_PARTS)).state_dict())
    for value in state.values():
        value.copy_(torch.rand(value.shape))
    if format == "detectron2":  # which has no rows for the background
        for name in ("box_head.bbox_pred", "mask_head.predictor"):
            for part in ("weight", "bias"):
                state[f"{name}.{part}"][: 4 if "bbox" in name else 1] = 0
    convert_weights(saved(tmp_path, state), tmp_path / "model.pth", format=format)
    loaded = load_file(tmp_path / "model.pth")
    assert loaded.system == format
    assert_same(loaded.state, state)
    names = set(recognise(tmp_path / "model.pth").arrays)
    if format == "detectron2":
        assert {f"proposal_generator.rpn_head.conv.conv{i}.weight" for i in range(3)} <= names
        assert {"backbone.fpn_lateral2.norm.running_mean", "roi_heads.box_head.conv1.norm.weight"} <= names
    else:
        assert {f"rpn.head.conv.{i}.0.weight" for i in range(3)} <= names
        assert {"backbone.fpn.inner_blocks.0.1.running_mean", "roi_heads.box_head.5.weight"} <= names
    with pytest.raises(UserError, match=r"(?i)^detectron has no place for"):
        convert_weights(tmp_path / "model.pth", tmp_path / "no.pkl", format="detectron")


def test_torchvision_itself_takes_what_we_write(tmp_path: Path) -> None:
    """Its own model, and only tensors: torch.load reads it with weights_only."""
    peer = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=4
    )
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    convert_weights(tmp_path / "peer.pth", tmp_path / "ours.safetensors")
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "back.pth", format="torchvision")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    result = peer.load_state_dict(back, strict=False)
    assert not result.unexpected_keys and not [k for k in result.missing_keys if "num_batches" not in k]
    assert_same(without_counters(back), without_counters(peer.state_dict()))


@pytest.mark.parametrize("ending", ["detectron", "detectron2"])
def test_pickles_for_python_2_and_old_numpy(ending: str, tmp_path: Path) -> None:
    """No instruction after protocol 2, no name of new Python or numpy alone; Detectron's keys are Python 2's str."""
    source = saved(tmp_path, state_of("faster R-50 FPN"))
    convert_weights(source, tmp_path / "out.pkl", format=ending)
    codes = list(pickletools.genops((tmp_path / "out.pkl").read_bytes()))
    assert max(code.proto for code, _, _ in codes) == 2
    names = {arg for code, arg, _ in codes if code.name == "GLOBAL"}
    assert names <= {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "_codecs encode"}
    if ending == "detectron":
        assert "_codecs encode" not in names
        kinds = {code.name for code, arg, _ in codes if isinstance(arg, (str, bytes))} - {"GLOBAL"}
        assert kinds == {"SHORT_BINSTRING", "BINSTRING"}
        content = pickle.loads((tmp_path / "out.pkl").read_bytes(), encoding="bytes")  # as Python 2 sees it
        assert set(content) == {b"blobs", b"cfg"} and b"conv1_w" in content[b"blobs"]


def test_the_layout_of_the_original(shared: Path, tmp_path: Path) -> None:
    """The blobs of a checkpoint of Detectron's own, momentum and all, byte for byte what a Python 2 pickle held."""
    path = shared / "golden/seeded_weights_detectron.py"
    spec = importlib.util.spec_from_file_location("seeded_weights_detectron", path)
    assert spec and spec.loader
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    rng = np.random.default_rng(0)
    blobs = {
        "conv1_w": rng.normal(size=(8, 3, 7, 7)), "res_conv1_bn_s": rng.random(8), "res_conv1_bn_b": rng.random(8),
        "fc6_w": rng.normal(size=(4, 6)), "fc6_b": rng.normal(size=4), "fc1000_w": rng.normal(size=(5, 2)),
    }  # fmt: skip
    blobs = {name: value.astype(np.float32) for name, value in blobs.items()}
    cfg = "MODEL: {TYPE: generalized_rcnn}\n" * 12
    writer.write_pkl(str(tmp_path / "theirs.pkl"), blobs, cfg, momentum_for=["fc6_w", "fc6_b"])
    convert_weights(tmp_path / "theirs.pkl", tmp_path / "ours.pkl", format="detectron")
    theirs, ours = (
        pickle.loads((tmp_path / f"{n}.pkl").read_bytes(), encoding="latin1") for n in ("theirs", "ours")
    )
    assert ours["cfg"] == theirs["cfg"] == cfg
    assert ours["blobs"].keys() == theirs["blobs"].keys()
    for name, value in theirs["blobs"].items():
        assert ours["blobs"][name].dtype == value.dtype == np.float32, name
        np.testing.assert_array_equal(ours["blobs"][name], value)


def test_momentum_of_a_run_goes_to_detectron_and_back(tmp_path: Path) -> None:
    """A checkpoint of ours, as Detectron's pickle, and that as ours again; frozen weights have none."""
    config = config_of("faster R-50 FPN", {"MODEL.GEOMETRY": "detectron"})
    torch.manual_seed(0)
    model = build_detector(config)
    solver = build_solver(config, model, schedule=build_schedule(config, num_images=4, log=print))
    solver.set_lr(0)
    sum(p.square().sum() for p in model.parameters() if p.requires_grad).backward()
    solver.step(solver.gradient_norm())
    checkpoint = {
        "format": 1, "iteration": 1, "config": json.dumps(config.flat()), "model": model.state_dict(),
        "solver": solver.state_dict(),
    }  # fmt: skip
    torch.save(checkpoint, tmp_path / "run.pt")
    told = convert_weights(tmp_path / "run.pt", tmp_path / "run.pkl", format="detectron")
    content = load_pickle(tmp_path / "run.pkl")["blobs"]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert f"with momentum for {len(trained)} of them" in told
    assert {n for n in content if n.endswith("_momentum")} == {
        f"{blob}_momentum" for name, blob in detectron_names(model.state_dict()).items() if name in trained
    }
    assert not any(
        n.startswith(("conv1_w_m", "res2", "res_conv1")) for n in content if n.endswith("_momentum")
    )
    np.testing.assert_array_equal(
        content["fc6_w_momentum"], solver_velocity(solver, model, "box_head.fc1.weight").numpy()
    )
    loaded, before = load_file(tmp_path / "run.pkl"), load_file(tmp_path / "run.pt")
    assert loaded.momentum.keys() == before.momentum.keys() == trained
    for name, value in before.momentum.items():
        assert value.abs().sum() > 0 or name.endswith("bias"), name
        assert torch.equal(loaded.momentum[name], value), name
    convert_weights(tmp_path / "run.pkl", tmp_path / "again.pkl", format="detectron")
    again = load_pickle(tmp_path / "again.pkl")["blobs"]
    assert again.keys() == content.keys()
    assert all(np.array_equal(again[name], content[name]) for name in content)


def solver_velocity(solver: Solver, model: torch.nn.Module, name: str) -> torch.Tensor:
    """What the optimiser holds for a weight, from its own memory rather than a file."""
    return solver.optimizer.state[dict(model.named_parameters())[name]]["velocity"]


def test_a_written_configuration_is_read_again(tmp_path: Path) -> None:
    """Detectron asks its saved configuration for attributes, so every section is of its own class of dictionary."""
    state = state_of("mask R-50 FPN")
    convert_weights(
        saved(tmp_path, state, config_of("mask R-50 FPN")), tmp_path / "out.pkl", format="detectron"
    )
    convert_weights(saved(tmp_path, state), tmp_path / "bare.pkl", format="detectron")
    bare = config_from_text(
        load_pickle(tmp_path / "bare.pkl")["cfg"], "cfg"
    )  # Detectron takes 1 where it is missing
    assert "MODEL.BBOX_REG_WEIGHTS" in bare.given and bare.MODEL.BBOX_REG_WEIGHTS == (10.0, 10.0, 5.0, 5.0)
    cfg = load_pickle(tmp_path / "out.pkl")["cfg"]
    assert cfg.isascii() and cfg.count("!!python/object/new:detectron.utils.collections.AttrDict") > 20
    read = config_from_text(cfg, "cfg")
    want = config_of("mask R-50 FPN")
    assert read.MODEL == want.MODEL and read.SOLVER.BASE_LR == want.SOLVER.BASE_LR and read.FPN == want.FPN


def test_deviations_of_pixels_move_into_the_first_convolution(tmp_path: Path) -> None:
    """Detectron only subtracts a mean: conv(w, (x - m) / s) is conv(w / s, x - m)."""
    family = "faster R-50 FPN"
    state = state_of(family)
    config = config_of(family, {"INPUT.PIXEL_STDS": (57.375, 57.12, 58.395)})
    source = saved(tmp_path, state, config)
    convert_weights(source, tmp_path / "out.pkl", format="detectron")
    read = load_file(tmp_path / "out.pkl").state["backbone.stem.conv1.weight"]
    x = torch.rand(1, 3, 9, 9) * 255 - 100
    s = torch.tensor([58.395, 57.12, 57.375]).reshape(1, 3, 1, 1)
    before = torch.nn.functional.conv2d(x / s, state["backbone.stem.conv1.weight"])
    torch.testing.assert_close(torch.nn.functional.conv2d(x, read), before)
    cfg = config_from_text(load_pickle(tmp_path / "out.pkl")["cfg"], "cfg")
    assert cfg.INPUT.PIXEL_STDS == (1.0, 1.0, 1.0)


def test_choosing_a_format(tmp_path: Path) -> None:
    source = saved(tmp_path, {"backbone.stem.conv1.weight": torch.ones(1, 3, 7, 7)})
    for target, format, said in (
        ("a.pkl", "", "add --format"), ("a.bin", "", "ends in '.bin'"), ("a.pkl", "caffe", "--format caffe is unknown"),
        ("a.pkl", "torchvision", "files that end in .pth"), ("a.pth", "detectune", "end in .safetensors"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            convert_weights(source, tmp_path / target, format=format)
    assert "in the layout of detectune" in convert_weights(source, tmp_path / "b.safetensors")
