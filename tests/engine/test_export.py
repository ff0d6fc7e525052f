"""The dense part as ONNX, where its packages are, and the sentence where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detectune.engine.export import DensePart, export_onnx, has_onnx
from detectune.errors import UserError


class Small(nn.Module):
    """A detector as far as its dense part goes, without a proposal network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.register_buffer("pixel_mean", torch.tensor([100.0, 110.0, 120.0])[:, None, None])
        self.register_buffer("pixel_std", torch.tensor([50.0, 60.0, 70.0])[:, None, None])

    def backbone(self, x: Tensor) -> dict[int, Tensor]:
        return {2: self.conv(x)}


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectune.engine.export.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"detectune\[export\]"):
        export_onnx(Small(), torch.zeros(1, 3, 8, 8), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_pixels_are_normalised_inside_the_program() -> None:
    model, pixels = Small(), torch.rand(1, 3, 16, 16) * 255
    expected = model.conv((pixels - model.pixel_mean) / model.pixel_std)
    torch.testing.assert_close(DensePart(model)(pixels), {"p2": expected})


@pytest.mark.skipif(not has_onnx(), reason="needs the optional packages onnx and onnxscript")
def test_onnx_computes_the_same(tmp_path: Path) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    model, pixels = Small().eval(), torch.rand(1, 3, 16, 16) * 255
    export_onnx(model, pixels, tmp_path / "net.onnx")
    (out,) = ReferenceEvaluator(onnx.load(tmp_path / "net.onnx")).run(None, {"pixels": pixels.numpy()})
    np.testing.assert_allclose(out, DensePart(model)(pixels)["p2"].detach().numpy(), atol=1e-4)
