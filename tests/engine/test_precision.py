"""Device, precision and memory format: what is refused, what `auto` may and may not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from detectune.engine import precision
from detectune.engine.precision import (
    Compute,
    choose_compute,
    choose_device,
    choose_precision,
    set_torch_globals,
)
from detectune.errors import UserError

CPU = torch.device("cpu")


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"MODEL\.DEVICE=cuda:99 is not available: this machine has"):
        choose_device("cuda:99")


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"TEST\.PRECISION=fp16 needs a CUDA device"):
        choose_compute(device="cpu", precision="fp16", memory_format="auto", key="TEST")


def test_fp32_is_left_as_it_is() -> None:
    compute = choose_compute(device="cpu", precision="fp32", memory_format="auto")
    assert compute == Compute(CPU, "fp32", "contiguous", "")
    with compute.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32


def test_bf16_computes_low_and_keeps_weights_high() -> None:
    compute = choose_compute(device="cpu", precision="bf16", memory_format="auto")
    assert compute.memory_format == "channels_last" and not compute.needs_loss_scaling()
    layer = compute.place(nn.Conv2d(8, 8, 3))
    with compute.autocast():
        assert layer(torch.ones(1, 8, 4, 4)).dtype == torch.bfloat16
    weight = layer.get_parameter("weight")
    assert weight.dtype == torch.float32 and weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("bf16", "expected"),
    [(0.5, "bf16"), (0.99 / precision.GAIN_NEEDED, "bf16"), (0.9, "fp32"), (2.0, "fp32")],
)
def test_auto_takes_the_lower_precision_only_for_a_clear_gain(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bf16: float, expected: str
) -> None:
    monkeypatch.setenv("DETECTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(precision, "measure_precisions", lambda device: {"fp32": 1.0, "bf16": bf16})
    chosen, reason = choose_precision(CPU)
    assert chosen == expected and f"auto precision: {expected}" in reason and "bf16" in reason


def test_the_measurement_is_made_once_and_a_damaged_cache_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured: list[torch.device] = []

    def measure(device: torch.device) -> dict[str, float]:
        measured.append(device)
        return {"fp32": 1.0, "bf16": 0.1}

    monkeypatch.setenv("DETECTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(precision, "measure_precisions", measure)
    assert choose_precision(CPU) == choose_precision(CPU)
    assert len(measured) == 1
    (cached,) = tmp_path.iterdir()
    assert json.loads(cached.read_text()) == {"fp32": 1.0, "bf16": 0.1}
    for damage in ("{", "[]", '{"fp32": "fast"}', '{"bf16": 1.0}'):
        cached.write_text(damage)
        choose_precision(CPU)
    assert len(measured) == 5


def test_a_cache_that_cannot_be_written_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DETECTUNE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(precision, "cache_directory", lambda: tmp_path / "file")
    monkeypatch.setattr(precision, "measure_precisions", lambda device: {"fp32": 1.0, "bf16": 0.1})
    assert choose_precision(CPU)[0] == "bf16"


def test_both_precisions_are_measured() -> None:
    seconds = precision.measure_precisions(CPU)
    assert set(seconds) == {"fp32", "bf16"} and all(value > 0 for value in seconds.values())


def test_torch_is_set_to_full_fp32() -> None:
    before = torch.get_num_threads()
    torch.backends.cudnn.allow_tf32 = True
    set_torch_globals(threads=1)
    assert torch.get_num_threads() == 1
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
    set_torch_globals(threads=before)
