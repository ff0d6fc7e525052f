"""Draws soft_nms.svg for postprocessing.md with the package's own operations: `python docs/plot_soft_nms.py`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from detectune.ops.nms import SoftMethod, soft_nms

METHODS: dict[SoftMethod, str] = {"hard": "#c0392b", "linear": "#2471a3", "gaussian": "#1e8449"}
BOXES = torch.tensor([[0.0, 0, 100, 100], [20, 0, 120, 100], [60, 0, 160, 100], [200, 0, 300, 100]])
SCORES = torch.tensor([0.95, 0.90, 0.80, 0.60])
SIDE, LEFT, TOP, GAP = 240, 50, 40, 90  # pixels


def left_over(boxes: Tensor, scores: Tensor, method: SoftMethod) -> list[float]:
    """Scores after suppression, in the boxes' order; 0 for what was dropped."""
    picked, new = soft_nms(boxes, scores, method=method, sigma=0.5, overlap_thresh=0.5, score_thresh=1e-4)
    out = torch.zeros(len(boxes))
    out[picked] = new
    return [float(value) for value in out]


def factor(overlap: float, method: SoftMethod) -> float:
    """What a score is multiplied by for an overlap with a better box."""
    shift = (1 - overlap) / (1 + overlap)  # of two unit squares with that IoU
    pair = torch.tensor([[0.0, 0, 1, 1], [shift, 0, 1 + shift, 1]])
    return left_over(pair, torch.tensor([1.0, 0.5]), method)[1] / 0.5


def render() -> str:
    """The picture as SVG: the factor against the IoU, and the four boxes' scores before and after."""
    width, height = LEFT + 2 * SIDE + GAP + 30, TOP + SIDE + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    parts += _axes(LEFT, "score is multiplied by", "IoU with a better box")
    steps = [i / 100 for i in range(101)]
    for row, (method, colour) in enumerate(METHODS.items()):
        points = " ".join(f"{LEFT + SIDE * x:.1f},{_y(factor(x, method)):.1f}" for x in steps)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(LEFT + 12, TOP + SIDE - 48 + 16 * row, method, fill=colour))
    second = LEFT + SIDE + GAP
    parts += _axes(second, "score", "boxes A to D: before, then after each method")
    bars = [([float(s) for s in SCORES], "#b2babb")]
    bars += [(left_over(BOXES, SCORES, method), colour) for method, colour in METHODS.items()]
    for box, name in enumerate("ABCD"):
        start = second + 8 + 58 * box
        for i, (values, colour) in enumerate(bars):
            top = _y(values[box])
            parts.append(
                f'<rect x="{start + 12 * i}" y="{top:.1f}" width="11" height="{TOP + SIDE - top:.1f}" fill="{colour}"/>'
            )
        parts.append(_text(start + 20, TOP + SIDE + 16, name))
    return "\n".join([*parts, "</svg>", ""])


def _axes(left: int, vertical: str, horizontal: str) -> list[str]:
    parts = [_text(left, TOP - 16, vertical), _text(left, TOP + SIDE + 36, horizontal)]
    for value in (0.0, 0.5, 1.0):
        y = _y(value)
        parts.append(
            f'<line x1="{left}" y1="{y:.1f}" x2="{left + SIDE}" y2="{y:.1f}" stroke="#d5d8dc" stroke-width="1"/>'
        )
        parts.append(_text(left - 28, y + 4, f"{value:g}"))
    if horizontal.startswith("IoU"):
        parts += [_text(left + SIDE * x - 4, TOP + SIDE + 16, f"{x:g}") for x in (0.0, 0.5, 1.0)]
    return parts


def _y(value: float) -> float:
    return TOP + SIDE * (1 - value)


def _text(x: float, y: float, words: str, *, fill: str = "#212f3c") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}">{words}</text>'


if __name__ == "__main__":
    Path(__file__).with_name("soft_nms.svg").write_text(render())
