"""Our weights files are whole or absent; fitting tells what did not fit, by name and shape."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from detectune.errors import OutputError, WeightsError
from detectune.weights.native import fit_weights, load_weights, save_weights


def _net(out_features: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, out_features))


def test_round_trip_is_exact(tmp_path: Path) -> None:
    state = _net().state_dict() | {"half": torch.rand(3).bfloat16(), "view": torch.arange(12).view(3, 4).t()}
    state["same memory"] = state["half"]
    path = tmp_path / "new" / "a.safetensors"
    save_weights(path, state, {"classes": "cat\ndog", "empty": ""})
    loaded, metadata = load_weights(path)
    assert metadata == {"classes": "cat\ndog", "empty": ""}
    assert loaded.keys() == state.keys()
    for name, value in state.items():
        assert loaded[name].dtype == value.dtype and torch.equal(loaded[name], value)
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(path, {"x": torch.ones(2)}, {})

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("detectune.weights.writing.os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_weights(path, {"x": torch.zeros(2)}, {})
    assert load_weights(path)[0]["x"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("content", [b"", b"junk" * 100, None])
def test_unreadable_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        load_weights(path)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"x": torch.ones(1000)}, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cut off"):
        load_weights(path)


def test_report_names_what_does_not_fit() -> None:
    torch.manual_seed(0)
    source, target = _net(5).state_dict(), _net(3)
    source["extra.weight"] = torch.ones(1)
    del source["0.bias"]
    untouched = {name: target.state_dict()[name].clone() for name in ("0.bias", "2.weight")}
    report = fit_weights(target, source)
    assert report.missing == ("0.bias",) and report.unexpected == ("extra.weight",)
    assert report.mismatched == (("2.weight", (5, 4), (3, 4)), ("2.bias", (5,), (3,)))
    assert not report.complete
    text = str(report)
    for words in ("0.bias", "extra.weight", "2.weight (file [5, 4], model [3, 4])"):
        assert words in text
    assert torch.equal(target.state_dict()["0.weight"], source["0.weight"])
    for name, value in untouched.items():
        assert torch.equal(target.state_dict()[name], value)


def test_counters_of_trained_norms_are_not_reported() -> None:
    state = {k: v for k, v in _net().state_dict().items() if not k.endswith("num_batches_tracked")}
    assert fit_weights(_net(), state).complete
    assert fit_weights(nn.Sequential(nn.Conv2d(3, 4, 3)), _net().state_dict()).unexpected == (
        "1.weight", "1.bias", "1.running_mean", "1.running_var", "2.weight", "2.bias",
    )  # fmt: skip
