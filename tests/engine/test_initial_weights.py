"""TRAIN.WEIGHTS: what fits is taken and said, what cannot belong to the model is refused by name and shape."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_engine import TinyDetector, install, tiny_config
from torch import nn

from detectune.engine.initial_weights import load_initial_weights
from detectune.engine.trainer import train
from detectune.errors import WeightsError
from detectune.weights.native import load_weights, save_weights


class Classifier(nn.Module):
    """A body and a layer with a row for each class, named as in a detector."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, width)
        self.box_head = nn.Module()
        self.box_head.cls_score = nn.Linear(width, num_classes)


def test_weights_of_the_same_model_are_taken_whole(tmp_path: Path) -> None:
    source, target = Classifier(5), Classifier(5)
    save_weights(tmp_path / "w.safetensors", source.state_dict(), {})
    said = load_initial_weights(target, tmp_path / "w.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    assert "4 tensors taken" in said and "anew" not in said


def test_layers_for_other_classes_start_anew_and_are_named(tmp_path: Path) -> None:
    source, target = Classifier(81), Classifier(3)
    before = target.box_head.cls_score.weight.detach().clone()  # type: ignore[union-attr]  # set above
    save_weights(tmp_path / "w.safetensors", source.state_dict(), {})
    said = load_initial_weights(target, tmp_path / "w.safetensors")
    assert torch.equal(target.backbone.weight, source.backbone.weight)
    assert torch.equal(target.box_head.cls_score.weight, before)  # type: ignore[union-attr]
    assert "2 tensors taken" in said and "box_head.cls_score.weight" in said


def test_another_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", Classifier(3, width=8).state_dict(), {})
    target = Classifier(3)
    with pytest.raises(WeightsError) as caught:
        load_initial_weights(target, tmp_path / "w.safetensors")
    assert "backbone.weight is (8, 3) in the file, (4, 3) in the model" in str(caught.value)


def test_weights_of_another_program_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"encoder.layer": torch.zeros(2)}, {})
    with pytest.raises(WeightsError, match=r"no weight of this model.* encoder\.layer"):
        load_initial_weights(Classifier(3), tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [None, b"not safetensors"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "missing.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"missing\.safetensors"):
        load_initial_weights(Classifier(3), path)


def test_training_starts_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    torch.manual_seed(11)
    source = TinyDetector()
    save_weights(tmp_path / "w.safetensors", source.state_dict(), {})
    config = tiny_config(
        TRAIN__WEIGHTS=str(tmp_path / "w.safetensors"), SOLVER__MAX_ITER=1, SOLVER__BASE_LR=1e-12
    )
    said: list[str] = []
    result = train(config, output_dir=tmp_path / "run", log=said.append)
    state, _ = load_weights(result.weights)
    for name, value in source.state_dict().items():
        torch.testing.assert_close(state[name], value)
    assert any("TRAIN.WEIGHTS" in line and "tensors taken" in line for line in said)


def test_their_file_is_copied_beside_the_run_if_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    original = tmp_path / "model_final.safetensors"  # the name of the run's own weights
    save_weights(original, TinyDetector().state_dict(), {})
    content = original.read_bytes()
    for copies in (False, True):
        config = tiny_config(
            TRAIN__WEIGHTS=str(original), SOLVER__MAX_ITER=1, TRAIN__COPY_WEIGHTS=copies, SOLVER__BASE_LR=0.5
        )
        run = train(config, output_dir=tmp_path / f"run_{copies}", log=lambda _: None).run_dir
        copy = run / "initial_weights" / "model_final.safetensors"
        assert copy.exists() is copies
        assert (run / "model_final.safetensors").read_bytes() != content
    assert copy.read_bytes() == content
    without = tiny_config(SOLVER__MAX_ITER=1, TRAIN__COPY_WEIGHTS=True)  # nothing to copy
    assert not (
        train(without, output_dir=tmp_path / "fresh", log=lambda _: None).run_dir / "initial_weights"
    ).exists()
