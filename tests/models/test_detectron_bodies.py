"""Bodies, pyramids and heads of Detectron's deeper, grouped and group-normalised baselines, written down once more
operator by operator and blob by blob, as its model builder lays them out; the same weights give the same maps.

The second writing makes its weights as it goes, so it also says which blobs a checkpoint has.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from detectune.config.load import Config, load_config
from detectune.models.build import build_detector
from detectune.models.rcnn import RCNN
from detectune.models.retinanet import RetinaNet
from detectune.weights.detectron import from_detectron, to_detectron
from detectune.weights.native import fit_weights

SIDE = 128  # pixels; a multiple of every stride
CONFIGS = Path(__file__).parents[2] / "configs"


class Net:
    """Caffe2's operators on blobs that are made when they are first named."""

    def __init__(
        self, recipe: ModuleType, *, groups: int, per_group: int, stride_1x1: bool, gn: bool
    ) -> None:
        self.recipe, self.blobs = recipe, {}
        self.groups, self.per_group, self.stride_1x1, self.gn = groups, per_group, stride_1x1, gn

    def blob(self, name: str, *shape: int) -> Tensor:
        assert name not in self.blobs or self.blobs[name].shape == shape
        if name not in self.blobs:
            self.blobs[name] = torch.from_numpy(self.recipe.make_blob(name, shape))
        return self.blobs[name]

    def conv(
        self, x: Tensor, name: str, dim: int, kernel: int = 3, *, pad: int | None = None, **how: int
    ) -> Tensor:
        """With a bias."""
        pad = kernel // 2 if pad is None else pad
        return F.conv2d(x, self.blob(f"{name}_w", dim, x.shape[1], kernel, kernel), self.blob(f"{name}_b", dim),
                        padding=pad, **how)  # fmt: skip

    def conv_norm(self, x: Tensor, name: str, dim: int, kernel: int, *, affine: str = "", groups: int = 1,
                  stride: int = 1, gn: bool | None = None) -> Tensor:  # fmt: skip
        """Without bias, then AffineChannel or GroupNorm of 32 groups."""
        weight = self.blob(f"{name}_w", dim, x.shape[1] // groups, kernel, kernel)
        x = F.conv2d(x, weight, padding=kernel // 2, groups=groups, stride=stride)
        if self.gn if gn is None else gn:
            return F.group_norm(x, 32, self.blob(f"{name}_gn_s", dim), self.blob(f"{name}_gn_b", dim), 1e-5)
        scale, shift = (self.blob(f"{affine or name}_bn_{part}", dim) for part in "sb")
        return x * scale[:, None, None] + shift[:, None, None]

    def body(self, x: Tensor, counts: tuple[int, ...]) -> dict[int, Tensor]:
        x = self.conv_norm(x, "conv1", 64, 7, affine="res_conv1", stride=2).relu()
        x = F.max_pool2d(x, 3, 2, 1)
        maps = {}
        for stage, count in enumerate(counts, start=2):
            width, inner = 256 * 2 ** (stage - 2), self.groups * self.per_group * 2 ** (stage - 2)
            for block in range(count):
                name = f"res{stage}_{block}"
                stride = 2 if block == 0 and stage > 2 else 1
                first, second = (stride, 1) if self.stride_1x1 else (1, stride)
                y = self.conv_norm(x, f"{name}_branch2a", inner, 1, stride=first).relu()
                y = self.conv_norm(y, f"{name}_branch2b", inner, 3, stride=second, groups=self.groups).relu()
                y = self.conv_norm(y, f"{name}_branch2c", width, 1)
                x = (
                    y + (self.conv_norm(x, f"{name}_branch1", width, 1, stride=stride) if block == 0 else x)
                ).relu()
            maps[stage] = x
        return maps

    def pyramid(self, body: dict[int, Tensor], counts: tuple[int, ...], finest: int) -> dict[int, Tensor]:
        maps, inner = {}, None
        for stage in range(5, finest - 1, -1):
            name = f"res{stage}_{counts[stage - 2] - 1}_sum"
            lateral = f"fpn_inner_{name}" + ("" if stage == 5 else "_lateral")
            side = (
                self.conv_norm(body[stage], lateral, 256, 1)
                if self.gn
                else self.conv(body[stage], lateral, 256, 1)
            )
            if inner is not None:
                side = side + inner.repeat_interleave(2, -1).repeat_interleave(2, -2)
            inner = side
            maps[stage] = (
                self.conv_norm(inner, f"fpn_{name}", 256, 3)
                if self.gn
                else self.conv(inner, f"fpn_{name}", 256)
            )
        return maps

    def fc(self, x: Tensor, name: str, dim: int) -> Tensor:
        x = x.flatten(1)
        return x @ self.blob(f"{name}_w", dim, x.shape[1]).T + self.blob(f"{name}_b", dim)

    def rpn(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x, "conv_rpn_fpn2", 256).relu()
        return self.conv(x, "rpn_cls_logits_fpn2", 3, 1), self.conv(x, "rpn_bbox_pred_fpn2", 12, 1)

    def box_head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.gn:
            for i in range(1, 5):
                x = self.conv_norm(x, f"head_conv{i}", 256, 3).relu()
            x = self.fc(x, "fc6", 1024).relu()
        else:
            x = self.fc(self.fc(x, "fc6", 1024).relu(), "fc7", 1024).relu()
        return self.fc(x, "cls_score", 81), self.fc(x, "bbox_pred", 4 * 81)

    def mask_head(self, x: Tensor) -> Tensor:
        for i in range(1, 5):
            x = (
                self.conv_norm(x, f"_mask_fcn{i}", 256, 3)
                if self.gn
                else self.conv(x, f"_[mask]_fcn{i}", 256)
            )
            x = x.relu()
        x = F.conv_transpose2d(
            x, self.blob("conv5_mask_w", 256, 256, 2, 2), self.blob("conv5_mask_b", 256), stride=2
        )
        return self.conv(x.relu(), "mask_fcn_logits", 81, 1)

    def retinanet(self, maps: dict[int, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """9 anchors of 80 classes, and their boxes, level by level."""
        out: tuple[list[Tensor], list[Tensor]] = ([], [])
        for level in sorted(maps):
            for kind, dim, found in (("cls", 9 * 80, out[0]), ("bbox", 9 * 4, out[1])):
                x = maps[level]
                for i in range(4):
                    x = self.conv(x, f"retnet_{kind}_conv_n{i}_fpn3", 256).relu()
                found.append(self.conv(x, f"retnet_{kind}_pred_fpn3", dim))
        return out


@pytest.fixture(scope="module")
def recipe(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe", shared / "golden" / "seeded_weights_detectron.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def net_of(config: Config, recipe: ModuleType) -> Net:
    resnet = config.RESNETS
    return Net(
        recipe, groups=resnet.NUM_GROUPS, per_group=resnet.WIDTH_PER_GROUP, stride_1x1=resnet.STRIDE_1X1,
        gn=resnet.TRANS_FUNC == "bottleneck_gn_transformation",
    )  # fmt: skip


def same(have: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(have, want, atol=2e-4 * float(want.abs().max()), rtol=0)


def filled(model: torch.nn.Module, blobs: dict[str, Tensor]) -> None:
    ours = from_detectron(blobs)
    report = fit_weights(model, ours)
    assert report.complete and not report.unexpected, str(report)
    back = to_detectron(ours)
    assert back.keys() == blobs.keys() and all(torch.equal(back[name], blobs[name]) for name in blobs)
    model.eval()


def pixels() -> Tensor:
    """BGR, as the original feeds them; means are taken away already."""
    return torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 50


DEPTH = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("12_2017_baselines/e2e_faster_rcnn_R-101-FPN_1x", 101),
        ("12_2017_baselines/e2e_mask_rcnn_X-101-32x8d-FPN_1x", 101),
        ("04_2018_gn_baselines/e2e_mask_rcnn_R-50-FPN_2x_gn", 50),
    ],
)
@torch.no_grad()
def test_two_stages(name: str, depth: int, recipe: ModuleType) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    model, net = build_detector(config), net_of(config, recipe)
    assert isinstance(model, RCNN) and model.rpn is not None
    x = pixels()
    maps = net.pyramid(net.body(x, DEPTH[depth]), DEPTH[depth], 2)
    maps[6] = F.max_pool2d(maps[5], 1, 2)
    logits, deltas = net.rpn(maps[4])
    regions = maps[2][:, :, :14, :14].expand(2, -1, -1, -1)
    said = net.box_head(regions[..., :7, :7])
    masks = net.mask_head(regions) if config.MODEL.MASK_ON else None
    filled(model, net.blobs)
    have = model.backbone(x.flip(1))
    assert have.keys() == maps.keys()
    for level, want in maps.items():
        same(have[level], want)
    hidden = model.rpn.conv(have[4])
    same(model.rpn.objectness(hidden), logits)
    same(model.rpn.deltas(hidden), deltas)
    out = model.box_head(regions[..., :7, :7])
    same(out.logits, said[0])
    same(out.deltas, said[1])
    if masks is not None:
        assert model.mask_head is not None
        same(model.mask_head(regions), masks)


@pytest.mark.slow
@torch.no_grad()
def test_retinanet(recipe: ModuleType) -> None:
    config = load_config(CONFIGS / "12_2017_baselines/retinanet_X-101-64x4d-FPN_1x.yaml")
    model, net = build_detector(config), net_of(config, recipe)
    assert isinstance(model, RetinaNet)
    x = pixels()
    body = net.body(x, DEPTH[101])
    maps = net.pyramid(body, DEPTH[101], 3)
    maps[6] = net.conv(body[5], "fpn_6", 256, stride=2)
    maps[7] = net.conv(maps[6].relu(), "fpn_7", 256, stride=2)
    classes, boxes = net.retinanet(maps)
    filled(model, net.blobs)
    have = model.backbone(x.flip(1))
    assert have.keys() == maps.keys()
    for level, want in maps.items():
        same(have[level], want)
    out = model.head(have)
    for ours, theirs, count in ((out.logits, classes, 80), (out.deltas.flatten(2), boxes, 4)):
        # the original has one map for each anchor and class; here anchors are rows
        rows = torch.cat([m.unflatten(1, (9, count)).permute(0, 3, 4, 1, 2).flatten(1, 3) for m in theirs], 1)
        same(ours, rows)
