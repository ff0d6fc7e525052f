"""How images enter the network, and who loads them."""

from __future__ import annotations

from typing import Literal, NotRequired

from pydantic import PositiveFloat
from typing_extensions import TypedDict

from detectune.config.knob import Section, knob, linear


class Input(Section):
    """Pixels: normalisation, augmentation, resizing."""

    PIXEL_STDS: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = knob(
        (1.0, 1.0, 1.0),
        "Divides pixels after the mean is subtracted, in the order blue, green, red. Caffe weights "
        "want 1, torchvision's about 57 (0.225 x 255).",
        kind="data",
        stage="training",
        unit="grey levels",
        source="ours",
    )
    WEIGHTS_COLOURS: Literal["auto", "BGR", "RGB"] = knob(
        "auto",
        "Which order of colours the first layer of detectron2's weights reads, where a model is loaded from them. "
        "`auto` is BGR, as its model zoo has it, or RGB where the file says that torchvision made it.",
        kind="data",
        stage="training",
        source="ours",
    )
    BRIGHTNESS: float = knob(
        0.0,
        "Training images are made brighter or darker by a random factor within 1 plus or minus this. "
        "Helps against changing light; too much hides what the camera saw.",
        kind="data",
        stage="training",
        unit="fraction",
        ge=0,
        le=1,
        search=linear(0.0, 0.5),
        source="Howard 2013 (arXiv:1312.5402)",
    )
    CONTRAST: float = knob(
        0.0,
        "Contrast of training images is changed by a random factor within 1 plus or minus this.",
        kind="data",
        stage="training",
        unit="fraction",
        ge=0,
        le=1,
        search=linear(0.0, 0.5),
        source="Howard 2013 (arXiv:1312.5402)",
    )
    SATURATION: float = knob(
        0.0,
        "Colourfulness of training images is changed by a random factor within 1 plus or minus this. "
        "Keep it low where colour tells classes apart.",
        kind="data",
        stage="training",
        unit="fraction",
        ge=0,
        le=1,
        search=linear(0.0, 0.5),
        source="Howard 2013 (arXiv:1312.5402)",
    )
    CROP_MIN_FRACTION: float = knob(
        1.0,
        "Training images are cropped to a random window of at least this part of each side; 1 is off. "
        "Smaller varies scale and position more and cuts objects.",
        kind="data",
        stage="training",
        unit="fraction of a side",
        gt=0,
        le=1,
        search=linear(0.3, 1.0),
        source="ours; Liu et al. 2016 (arXiv:1512.02325), section 2.2",
    )
    RESIZE: Literal["auto", "detectron", "pillow", "torchvision"] = knob(
        "auto",
        "Whose bilinear resizing to use: OpenCV's as in Detectron, Pillow's (which averages when "
        "shrinking) or torchvision's. `auto` follows MODEL.GEOMETRY.",
        kind="data",
        stage="training",
        source="ours",
    )


class DataLoader(Section):
    """Who loads the images."""

    NUM_THREADS: int = knob(
        4,
        "Worker processes that read and resize images, at most one per CPU core; 0 loads in the "
        "training process. Results do not depend on it.",
        kind="runtime",
        stage="nothing",
        unit="processes",
        ge=0,
    )
    MINIBATCH_QUEUE_SIZE: int = knob(
        64,
        "Length of Detectron's queue of prepared batches.",
        kind="runtime",
        stage="nothing",
        ge=1,
        obsolete="Nothing to set: the loader keeps two batches per worker ready; see DATA_LOADER.NUM_THREADS.",
    )
    BLOBS_QUEUE_CAPACITY: int = knob(
        8,
        "Length of Caffe2's queue on each GPU.",
        kind="runtime",
        stage="nothing",
        ge=1,
        obsolete="Nothing to set: batches go straight to the device; see DATA_LOADER.NUM_THREADS.",
    )


class DatasetFiles(TypedDict):
    """Where one data set of the user's own lies, and in which format if it is not COCO's.

    `voc`: `annotations` is a list of names (ImageSets/Main/train.txt) or a folder of XML files. `lvis`: evaluated by
    LVIS's rules. `cityscapes`: COCO's format, evaluated by Cityscapes' own too. `unlabelled`: images to detect in only.
    For a classifier: `idx`, two IDX files of pixels and labels; `folders`, where both name the folder that has a
    folder of images for each class.
    """

    images: str
    annotations: str
    format: NotRequired[Literal["coco", "voc", "lvis", "cityscapes", "unlabelled", "idx", "folders"]]


Datasets = dict[str, DatasetFiles]
