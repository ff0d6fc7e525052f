"""Draws docs/flow.svg and writes docs/flow.md: what happens to an image in training and in testing.

    python docs/draw_flow.py

The names in both come from the code's own objects, so that a renamed function breaks this script, and the example's
shapes from running the network without numbers (PyTorch's `meta` device). tests/docs/test_flow.py fails when the two
files are not what this script makes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import torch

from detectune.config.load import load_config
from detectune.data.coco import read_coco
from detectune.data.collate import collate
from detectune.data.images import load_image
from detectune.data.sampler import TrainingBatches, ordered_batches
from detectune.data.transforms import apply_move
from detectune.engine.inference import coco_rows, to_original
from detectune.engine.publishing import save_published
from detectune.engine.resume import CheckpointHook
from detectune.engine.solver import Solver
from detectune.engine.trainer import train_step
from detectune.evaluation.coco import evaluate_coco
from detectune.models.box_head import BoxHead
from detectune.models.build import build_detector
from detectune.models.detections import select_detections
from detectune.models.fpn import Fpn
from detectune.models.mask_head import MaskHead
from detectune.models.rcnn import RCNN
from detectune.models.resnet import ResNet
from detectune.models.roi_pooler import RoiPooler
from detectune.models.rpn import Rpn
from detectune.models.targets import sample_regions
from detectune.report.page import write_report
from detectune.structures import Batch, Detections, Record

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "configs/12_2017_baselines/e2e_mask_rcnn_R-50-FPN_1x.yaml"
PHOTO = (480, 640)  # height, width of the photograph that the example follows
Lane = Literal["both", "training", "testing"]


@dataclass(frozen=True)
class Step:
    """One thing that happens: where, in which code, what comes out of it."""

    lane: Lane
    title: str
    code: Any  # the function or class that does it
    out: str  # what it gives, with its shape
    text: str  # what happens and why, in a sentence or two


def place_of(code: Any) -> tuple[str, str]:
    """(file below detectune/, qualified name) of a function or class, from the object itself."""
    return code.__module__.removeprefix("detectune.").replace(".", "/") + ".py", code.__qualname__


def example_shapes() -> dict[str, Any]:
    """Shapes of the example, by running the configured network on the photograph's size without any numbers."""
    config = load_config(EXAMPLE)
    height, width = PHOTO
    scale = min(config.TEST.SCALE / min(height, width), config.TEST.MAX_SIZE / max(height, width))
    network = round(height * scale), round(width * scale)
    stride = config.FPN.COARSEST_STRIDE
    padded = tuple(-(-side // stride) * stride for side in network)
    with torch.device("meta"):
        model = build_detector(config)
        features = model.backbone(torch.zeros(1, 3, *padded))
        scored = model.rpn(features, padded)
        heads = model.box_head(torch.zeros(config.TEST.RPN_POST_NMS_TOP_N, config.FPN.DIM, 7, 7))
    return {
        "network": network,
        "padded": padded,
        "features": {level: list(value.shape) for level, value in features.items()},
        "anchors": scored.logits.shape[1],
        "classes": heads.logits.shape[1],
        "deltas": heads.deltas.shape[1:],
        "proposals": config.TEST.RPN_POST_NMS_TOP_N,
        "training proposals": config.TRAIN.RPN_POST_NMS_TOP_N,
        "sampled": config.TRAIN.BATCH_SIZE_PER_IM,
        "detections": config.TEST.DETECTIONS_PER_IM,
        "mask": config.MRCNN.RESOLUTION,
        "pooled": config.FAST_RCNN.ROI_XFORM_RESOLUTION,
    }


def steps() -> list[Step]:
    """The walk, in order."""
    e = example_shapes()
    (h, w), (H, W) = PHOTO, e["padded"]
    first, last = min(e["features"]), max(e["features"])
    records, batches, found = Record.__name__, Batch.__name__, Detections.__name__
    return [
        Step(
            "both", "annotations are read", read_coco, f"list[{records}]",
            "The JSON file becomes one record for each image: its path, size, boxes, labels 1..K, outlines, keypoints. "
            "No pixels yet. COCO's category ids end here.",
        ),
        Step(
            "training", "order, flip and scale are drawn", TrainingBatches, "TRAIN.IMS_PER_BATCH specs",
            "All that is random about data is drawn here, from RNG_SEED and the position alone, so that results do not "
            "depend on the number of processes that load images.",
        ),
        Step(
            "testing", "every image once, in order", ordered_batches, "TEST.IMS_PER_BATCH specs",
            "Nothing is random: the file's order, TEST.SCALE, no flip.",
        ),
        Step(
            "both", "the photograph is decoded", load_image, f"uint8 [{h}, {w}, 3] RGB",
            "In a process that loads. The example is a photograph of this size.",
        ),
        Step(
            "both", "pixels and objects move together", apply_move, f"[3, {e['network'][0]}, {e['network'][1]}]",
            "Flip, crop, colours and resize (in training, as drawn), for the image, its boxes, outlines and keypoints "
            "at once. From here on coordinates are those of the network frame.",
        ),
        Step(
            "both", "images become a batch", collate, f"{batches}: [B, 3, {H}, {W}], objects [B, G, ...]",
            "Padding to a multiple of FPN.COARSEST_STRIDE, and objects padded to the largest number of one image, so "
            "that everything behind has fixed shapes.",
        ),
        Step(
            "both", "mean out, padding zero", RCNN.normalize, f"float32 [B, 3, {H}, {W}]",
            "PIXEL_MEANS and INPUT.PIXEL_STDS; on the device, as all that follows.",
        ),
        Step(
            "both", "the body sees edges, parts, things", ResNet, "C2 .. C5 at strides 4 .. 32",
            "Frozen up to TRAIN.FREEZE_AT.",
        ),
        Step(
            "both", "the pyramid joins coarse and fine", Fpn,
            f"P{first} {_shape(e, first)} .. P{last} {_shape(e, last)}",
            "Every level gets the meaning of the coarse ones and the places of the fine ones.",
        ),
        Step(
            "both", "every anchor is scored", Rpn, f"logits [B, {e['anchors']}], deltas [B, {e['anchors']}, 4]",
            "Three shapes at every cell of every level: is there an object, and where should the box move?",
        ),
        Step(
            "training", "loss: which anchors have objects", Rpn.losses, "loss_rpn_cls, loss_rpn_bbox",
            "TRAIN.RPN_BATCH_SIZE_PER_IM anchors are drawn and compared with the annotations.",
        ),
        Step(
            "both", "the best become proposals", Rpn.propose, f"boxes [B, {e['proposals']}, 4]",
            f"Moved, clipped, thinned by suppression on each level; the best of all: {e['proposals']} in testing, "
            f"{e['training proposals']} in training (RPN_POST_NMS_TOP_N of TEST and TRAIN).",
        ),
        Step(
            "training", "regions are drawn and labelled", sample_regions, f"[B x {e['sampled']}, 4] with classes",
            "Annotated boxes join the proposals; at most TRAIN.FG_FRACTION of the sample are objects, the rest "
            "background.",
        ),
        Step(
            "both", "regions are cut out of the pyramid", RoiPooler,
            f"[R, 256, {e['pooled']}, {e['pooled']}]",
            "RoIAlign, on the level that suits the region's size. R is B times the proposals, or the sample.",
        ),
        Step(
            "both", "the box head names and refines", BoxHead,
            f"logits [R, {e['classes']}], deltas [R, {e['deltas'][0]}]",
            "Class 0 is the background; each class has a box correction of its own.",
        ),
        Step(
            "training", "loss: class and box", BoxHead.losses, "loss_cls, loss_bbox",
            "Cross-entropy over all regions of the sample, smooth L1 over those with objects.",
        ),
        Step(
            "testing", "doubles are suppressed", select_detections, f"{found}: at most {e['detections']} an image",
            "Scores from TEST.SCORE_THRESH on, suppression by TEST.NMS within each class, the best "
            "TEST.DETECTIONS_PER_IM.",
        ),
        Step(
            "training", "loss: outline", MaskHead.losses, f"loss_mask, from [F, {e['mask']}, {e['mask']}]",
            "On the F regions with objects only, each against its annotated outline drawn at this size.",
        ),
        Step(
            "testing", "masks of what was found", MaskHead.predict, f"[N, {e['mask']}, {e['mask']}]",
            "On the final boxes only: fewer, and better placed, than the proposals.",
        ),
        Step(
            "training", "one update", train_step, "losses summed, gradients",
            "The sum of all loss_*; backward; a loss that is not finite stops the run before a weight changes.",
        ),
        Step(
            "testing", "back into the photograph", to_original, f"boxes in {w} x {h}, masks as RLE",
            "The only place that undoes the resize; masks are pasted into the whole image.",
        ),
        Step(
            "training", "weights move", Solver.step, "the next iteration",
            "SOLVER.BASE_LR by the schedule, momentum, decay; then the next batch.",
        ),
        Step(
            "testing", "COCO's rows", coco_rows, "detections.json",
            "Category ids return; boxes as x, y, width, height.",
        ),
        Step(
            "training", "everything is kept", CheckpointHook, "checkpoints/",
            "Every TRAIN.SNAPSHOT_ITERS: weights, solver, positions and random states; a run goes on exactly.",
        ),
        Step(
            "testing", "average precision", evaluate_coco, "metrics.json: bbox/AP, segm/AP",
            "Over classes and overlaps from 0.50 to 0.95, as COCO counts.",
        ),
        Step(
            "training", "weights for others", save_published, "model_final.safetensors",
            "With configuration and class names inside: what testing begins with.",
        ),
        Step(
            "both", "a page for people", write_report, "report.html",
            "Curves, tables, pictures of hits and misses, and what to try next.",
        ),
    ]  # fmt: skip


def _shape(example: dict[str, Any], level: int) -> str:
    _, channels, height, width = example["features"][level]
    return f"[B, {channels}, {height}, {width}]"


# The picture. Lengths are pixels of the SVG; a character of the fonts below is at most this part of the size wide.
WIDTH, MARGIN, GAP = 1080, 24, 20
BOX_HEIGHT, ROW = 76, 96
TITLE_SIZE, CODE_SIZE, OUT_SIZE = 15, 12.5, 13
SANS_ASPECT, MONO_ASPECT = 0.56, 0.605
COLOURS = {
    "both": ("#eef1f5", "#5b6b7f"),
    "training": ("#fdf0dc", "#b26a00"),
    "testing": ("#e0f0fa", "#0a6ca8"),
}
STYLE = f"""
  text {{ font-family: Helvetica, Arial, 'DejaVu Sans', sans-serif; fill: #1c2430; }}
  .head {{ font-size: 20px; font-weight: bold; }}
  .title {{ font-size: {TITLE_SIZE}px; font-weight: bold; }}
  .code {{ font-family: 'DejaVu Sans Mono', Consolas, Menlo, monospace; font-size: {CODE_SIZE}px; fill: #44505f; }}
  .out {{ font-size: {OUT_SIZE}px; }}
  .arrow {{ stroke: #8a96a5; stroke-width: 2; fill: none; marker-end: url(#tip); }}
"""


def rows_of(walk: list[Step]) -> list[dict[Lane, Step]]:
    """Steps side by side: a training step shares its row with the testing step that follows, or the reverse."""
    rows: list[dict[Lane, Step]] = []
    for step in walk:
        last = rows[-1] if rows else {}
        if step.lane != "both" and last and "both" not in last and step.lane not in last:
            last[step.lane] = step
        else:
            rows.append({step.lane: step})
    return rows


def draw(walk: list[Step]) -> str:
    """The picture as SVG, on a light ground of its own, so that it reads on dark pages too."""
    rows = rows_of(walk)
    top = 84
    height = top + len(rows) * ROW + MARGIN - (ROW - BOX_HEIGHT)
    half = (WIDTH - 2 * MARGIN - GAP) / 2
    wide = WIDTH - 2 * MARGIN
    places: dict[Lane, tuple[float, float]] = {
        "both": (MARGIN + (wide - half * 1.25) / 2, half * 1.25), "training": (MARGIN, half),
        "testing": (MARGIN + half + GAP, half),
    }  # fmt: skip
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-label="What happens to an image in training and in testing">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L10 5 L0 10 z" fill="#8a96a5"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" rx="12" fill="#ffffff"/>',
    ]
    centres = {lane: x + width / 2 for lane, (x, width) in places.items()}
    for lane, words in (("training", "Training"), ("both", "both"), ("testing", "Testing")):
        colour = COLOURS[lane][1]  # type: ignore[index]
        x = centres[lane]  # type: ignore[index]
        parts.append(
            f'<text class="head" x="{x:g}" y="50" text-anchor="middle" style="fill:{colour}">{words}</text>'
        )
    parts += [line for i in range(len(rows) - 1) for line in _arrows(rows, i, top, centres)]
    for i, row in enumerate(rows):
        for lane, step in row.items():
            parts += _box(step, *places[lane], top + i * ROW)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _box(step: Step, x: float, width: float, y: float) -> list[str]:
    file, name = place_of(step.code)
    code = f"{file}  {name}"
    for text, size, aspect in (
        (step.title, TITLE_SIZE, SANS_ASPECT * 1.08), (code, CODE_SIZE, MONO_ASPECT), (step.out, OUT_SIZE, SANS_ASPECT),
    ):  # fmt: skip
        if len(text) * size * aspect > width - 20:
            raise ValueError(f"too long for its box: {text}")
    fill, edge = COLOURS[step.lane]
    centre = x + width / 2
    lines = (("title", 23, step.title), ("code", 44, code), ("out", 65, step.out))
    return [
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{BOX_HEIGHT}" rx="8" fill="{fill}" stroke="{edge}"/>',
        *(
            f'<text class="{kind}" x="{centre:g}" y="{y + dy:g}" text-anchor="middle">{escape(text)}</text>'
            for kind, dy, text in lines
        ),
    ]


def _arrows(rows: list[dict[Lane, Step]], i: int, top: float, centres: dict[Lane, float]) -> list[str]:
    """Arrows from row i to where each of its lanes goes on; a lane without a box in the next row passes beside it."""
    start, end = top + i * ROW + BOX_HEIGHT, top + (i + 1) * ROW
    here, there = rows[i], rows[i + 1]
    lines = []
    for lane in ("training", "testing"):
        own: Lane = lane  # type: ignore[assignment]
        source = centres[own if own in here else "both"]
        if (
            own in here and own not in there and "both" not in there
        ):  # this lane rests while the other one works
            following = next(
                (j for j in range(i + 2, len(rows)) if own in rows[j] or "both" in rows[j]), None
            )
            if following is not None:
                lines.append(_line(source, start, source, top + following * ROW))
            continue
        if own in there:
            lines.append(_line(_between(source, centres[own], own not in here), start, centres[own], end))
        elif "both" in there and own in here:
            lines.append(_line(source, start, _between(centres["both"], source, True), end))
    if "both" in here and "both" in there:
        lines.append(_line(centres["both"], start, centres["both"], end))
    elif "both" in there and len(here) == 1 and "both" in rows[i - 1]:  # the other lane passes this row
        lines.append(_line(centres["both"], start - BOX_HEIGHT - (ROW - BOX_HEIGHT), centres["both"], end))
    return lines


def _between(middle: float, side: float, moves: bool) -> float:
    """A point of the middle box towards a side."""
    return middle + (side - middle) * 0.55 if moves else side


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="arrow" d="M{x1:g} {y1:g} L{x2:g} {y2 - 3:g}"/>'


def write_page(walk: list[Step]) -> str:
    """The text: the picture and a list of the steps."""
    e = example_shapes()
    lines = [
        "# What happens to an image",
        "",
        "From a file on disk to a loss in training, to average precision in testing. The example is Mask R-CNN with a",
        "ResNet-50 and a feature pyramid (`configs/12_2017_baselines/e2e_mask_rcnn_R-50-FPN_1x.yaml`) and a photograph",
        f"of {PHOTO[1]} x {PHOTO[0]} pixels, which the network sees as {e['padded'][1]} x {e['padded'][0]}, padding",
        "included. B are images, R regions, F regions with objects, N detections, G the objects of one image at most.",
        "",
        "![What happens to an image in training and in testing](flow.svg)",
        "",
        "Written by `python docs/draw_flow.py` from the names of the code; a test compares.",
        "",
    ]
    for number, step in enumerate(walk, start=1):
        file, name = place_of(step.code)
        where = f"`{name}` in `detectune/{file}`"
        lines.append(f"{number}. **{step.title}** ({step.lane}): {where} gives `{step.out}`. {step.text}")
    return "\n".join(lines) + "\n"


def contents() -> dict[str, str]:
    """File name below docs/ -> what it must contain."""
    walk = steps()
    return {"flow.svg": draw(walk), "flow.md": write_page(walk)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw docs/flow.svg and write docs/flow.md.")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder (default: docs/)")
    folder = parser.parse_args().output
    for name, text in contents().items():
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)
