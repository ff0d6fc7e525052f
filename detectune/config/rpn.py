"""Configuration sections: RPN."""

from __future__ import annotations

from detectune.config.knob import Section, knob


class Rpn(Section):
    ASPECT_RATIOS: tuple[float, ...] = knob((0.5, 1, 2), "", kind="runtime", stage="nothing")
    RPN_ON: bool = knob(False, "", kind="runtime", stage="nothing")
    SIZES: tuple[int, ...] = knob((64, 128, 256, 512), "", kind="runtime", stage="nothing")
    STRIDE: int = knob(16, "", kind="runtime", stage="nothing")
