"""Files of every program fit our models whole; other classes start the predictors anew and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from weight_families import config_of, state_of

from detectune.engine.initial_weights import CLASS_LAYERS, load_initial_weights
from detectune.models.build import build_detector
from detectune.pickles import dump_pickle
from detectune.weights.detectron import to_detectron
from detectune.weights.torchvision import to_torchvision
from detectune.weights.writing import detectron2_state, has_agnostic_boxes

State = dict[str, torch.Tensor]


def as_detectron(state: State) -> State:
    return to_detectron(state, agnostic_boxes=has_agnostic_boxes(state))


TRANSLATE: dict[str, Callable[[State], State]] = {
    "detectune": dict, "detectron": as_detectron, "detectron2": detectron2_state, "torchvision": to_torchvision,
}  # fmt: skip
CASES = [
    *((family, system) for system in TRANSLATE for family in ("mask R-50 FPN", "retinanet R-50", "keypoint R-50 FPN")),
    *((family, system) for system in ("detectron", "detectron2") for family in ("mask R-50 C4", "mask R-50 FPN GN")),
    ("cascade R-50 FPN", "detectron2"), ("R-FCN R-50", "detectron"), ("fast R-50 FPN, one box", "detectron"),
    ("fast R-50 FPN, one box", "detectron2"), ("mask X-101-32x8d FPN", "torchvision"),
    ("faster R-50 dilated C5", "detectron2"), ("mask R-50 C4, own stage", "detectron"),
]  # fmt: skip


def written(tmp_path: Path, state: State, system: str) -> Path:
    path = tmp_path / "weights"
    theirs = TRANSLATE[system](
        {k: v for k, v in state.items() if not k.endswith(("num_batches_tracked", "normalizer"))}
    )
    if system == "detectron":
        path.write_bytes(
            dump_pickle({"blobs": {k: v.numpy() for k, v in theirs.items()}, "cfg": ""}, python2=True)
        )
    else:
        torch.save({"model": theirs}, path)
    return path


@pytest.mark.parametrize(("family", "system"), CASES)
def test_a_file_fits_whole(family: str, system: str, tmp_path: Path) -> None:
    config = config_of(family)
    points = 5 if config.MODEL.KEYPOINTS_ON else None
    model = build_detector(config, num_keypoints=points)
    told = load_initial_weights(model, written(tmp_path, state_of(family), system))
    assert told.endswith("tensors taken.")
    if system != "detectron":  # which folds its norms
        have, want = model.state_dict(), state_of(family)
        counters = ("num_batches_tracked", "loss_normalizer")
        assert [k for k in have if not k.endswith(counters) and not torch.equal(have[k], want[k])] == []


@pytest.mark.parametrize(("family", "system"), CASES)
def test_other_classes_start_only_the_predictors_anew(family: str, system: str, tmp_path: Path) -> None:
    config = config_of(family)
    if config.MODEL.KEYPOINTS_ON:
        pytest.skip("a keypoint model has one class")
    model = build_detector(config_of(family, {"MODEL.NUM_CLASSES": 7}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    told = load_initial_weights(model, written(tmp_path, state_of(family), system))
    anew = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    changed = {name for name, value in before.items() if not torch.equal(value, model.state_dict()[name])}
    named = told.partition("start anew: ")[2].removesuffix(".").split(", ")
    assert named and all(CLASS_LAYERS.match(name) for name in named)
    assert set(named) - anew == set()
    learnt = {n for n in before if n.endswith((".weight", ".bias")) and not CLASS_LAYERS.match(n)}
    assert learnt - changed == set()


def test_a_body_that_learnt_to_classify_fills_the_head_of_a_c4_model(tmp_path: Path) -> None:
    """Its fifth stage is the head on regions there: in Detectron's, detectron2's and torchvision's files."""
    source = state_of("faster R-50 FPN")
    body = {
        k: v
        for k, v in source.items()
        if k.startswith(("backbone.stem", "backbone.res")) and "num_b" not in k
    }
    blobs = {k: v.numpy() for k, v in to_detectron(body).items()}
    (tmp_path / "R-50.pkl").write_bytes(dump_pickle(blobs, python2=True))
    short = {name.removeprefix("backbone."): value for name, value in body.items()}
    (tmp_path / "d2.pkl").write_bytes(
        dump_pickle({"model": {k: v.numpy() for k, v in short.items()}, "__author__": "torchvision",
                     "matching_heuristics": True})
    )  # fmt: skip
    theirs = {k.removeprefix("backbone.body."): v for k, v in to_torchvision(body).items()}
    torch.save(theirs, tmp_path / "resnet.pth")
    for name in ("R-50.pkl", "d2.pkl", "resnet.pth"):
        model = build_detector(config_of("faster R-50 C4"))
        told = load_initial_weights(model, tmp_path / name)
        state = model.state_dict()
        assert torch.equal(state["box_head.res5.2.conv3.weight"], source["backbone.res5.2.conv3.weight"]), (
            name
        )
        assert torch.equal(state["backbone.stem.conv1.weight"], source["backbone.stem.conv1.weight"]), name
        assert "of this model" not in told
