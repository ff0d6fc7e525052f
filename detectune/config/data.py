"""Configuration sections: INPUT, DATA_LOADER."""

from __future__ import annotations

from typing_extensions import TypedDict

from detectune.config.knob import Section, knob


class Input(Section):
    PIXEL_STDS: tuple[float, float, float] = knob((1.0, 1.0, 1.0), "", kind="runtime", stage="nothing")
    BRIGHTNESS: float = knob(0.0, "", kind="runtime", stage="nothing")
    CONTRAST: float = knob(0.0, "", kind="runtime", stage="nothing")
    SATURATION: float = knob(0.0, "", kind="runtime", stage="nothing")
    CROP_MIN_FRACTION: float = knob(1.0, "", kind="runtime", stage="nothing")
    RESIZE: str = knob("auto", "", kind="runtime", stage="nothing")


class DataLoader(Section):
    BLOBS_QUEUE_CAPACITY: int = knob(8, "", kind="runtime", stage="nothing")
    MINIBATCH_QUEUE_SIZE: int = knob(64, "", kind="runtime", stage="nothing")
    NUM_THREADS: int = knob(4, "", kind="runtime", stage="nothing")


class DatasetFiles(TypedDict):
    """Where one data set of the user's own lies."""

    images: str
    annotations: str


Datasets = dict[str, DatasetFiles]
