"""Small networks that name what is in a whole image (MODEL.TYPE classifier): layers, loss, pixels, augmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from detectune.config.knob import Section, among, knob, linear

Shape = Annotated[tuple[PositiveInt, ...], Field(max_length=3)]


class Classifier(Section):
    """A network given layer by layer, and the images that it sees."""

    LAYERS: tuple[str, ...] = knob(
        (),
        "The network, one entry a layer, in order: `conv 20 5x5` (with `stride 2`, `pad 2`), `maxpool 2`, "
        "`meanpool 2`, `dense 100`, `dropout 0.5`, `batchnorm`, an activation such as `sigmoid`, `tanh`, `relu`; the "
        "last is `softmax 10`, or `dense 10` and `sigmoid`. Nothing is implied: an activation is an entry of its own.",
        kind="architecture",
        stage="architecture",
        source="ours",
    )
    INIT: Literal["nielsen", "unit_normal", "xavier", "he", "torch"] = knob(
        "he",
        "Fresh weights. `nielsen` has deviation 1 / sqrt(inputs), biases of deviation 1 and a softmax layer at 0; "
        "`unit_normal` has 1 everywhere, which saturates sigmoids; `torch` is PyTorch's own. `xavier` suits sigmoid "
        "and tanh, `he` relu, both with biases at 0.",
        kind="optimisation",
        stage="training",
        search=among("nielsen", "xavier", "he"),
        source="Nielsen 2015 (neuralnetworksanddeeplearning.com), chapter 3; Glorot & Bengio 2010 (AISTATS); "
        "He et al. 2015 (arXiv:1502.01852)",
    )
    LOSS: Literal["log_likelihood", "cross_entropy", "quadratic"] = knob(
        "log_likelihood",
        "What is made small. `log_likelihood` wants a softmax layer at the end; `cross_entropy` (each output by "
        "itself) wants sigmoids; `quadratic` takes either and learns slowly where outputs saturate.",
        kind="loss",
        stage="training",
        search=among("log_likelihood", "quadratic"),
        source="Nielsen 2015 (neuralnetworksanddeeplearning.com), chapter 3",
    )
    LABEL_SMOOTHING: float = knob(
        0.0,
        "Part of each target that is spread evenly over all classes (log_likelihood). A little keeps a network from "
        "being sure of what it only remembers.",
        kind="regularisation",
        stage="training",
        unit="fraction",
        ge=0,
        lt=1,
        search=linear(0.0, 0.2),
        source="Szegedy et al. 2016 (arXiv:1512.00567), section 7",
    )
    INPUT_SHAPE: Shape = knob(
        (),
        "Channels, height and width that the network sees; other images are resized, and made grey for one "
        "channel. Empty takes the shape of the data set's images.",
        kind="data",
        stage="architecture",
        unit="channels, pixels, pixels",
    )
    PIXEL_MEAN: float = knob(
        0.0,
        "Subtracted from every pixel. 0 with PIXEL_STD 255 gives inputs from 0 to 1; the mean of the data "
        "centres them.",
        kind="data",
        stage="training",
        unit="grey levels",
        ge=0,
        le=255,
        source="LeCun et al. 1998 (Efficient BackProp), section 4.3",
    )
    PIXEL_STD: float = knob(
        255.0,
        "Divides pixels after the mean is subtracted. The deviation of the data gives inputs of unit variance.",
        kind="data",
        stage="training",
        unit="grey levels",
        gt=0,
        source="LeCun et al. 1998 (Efficient BackProp), section 4.3",
    )
    SHIFT: int = knob(
        0,
        "Training images are moved by a random whole number of pixels up to this in each direction. 1 or 2 suit "
        "images of 28 pixels; more moves content out of the frame.",
        kind="data",
        stage="training",
        unit="pixels",
        ge=0,
        search=among(0, 1, 2, 3),
        source="Nielsen 2015 (neuralnetworksanddeeplearning.com), chapter 6; Simard et al. 2003 (ICDAR)",
    )
    ROTATION: float = knob(
        0.0,
        "Training images are turned by a random angle within plus or minus this. Too much turns a 6 towards a 9.",
        kind="data",
        stage="training",
        unit="degrees",
        ge=0,
        le=180,
        search=linear(0.0, 20.0),
        source="Simard et al. 2003 (ICDAR), section 2",
    )
    ZOOM: float = knob(
        0.0,
        "Training images are enlarged or reduced by a random factor within 1 plus or minus this.",
        kind="data",
        stage="training",
        unit="fraction",
        ge=0,
        lt=1,
        search=linear(0.0, 0.2),
        source="Simard et al. 2003 (ICDAR), section 2",
    )
    ELASTIC: float = knob(
        0.0,
        "Training images are bent by a smooth random field whose displacements have this deviation. Imitates the "
        "unsteadiness of hands; beyond about 1.5 digits become hard to read.",
        kind="data",
        stage="training",
        unit="pixels",
        ge=0,
        search=linear(0.0, 1.5),
        source="Simard et al. 2003 (ICDAR), section 2",
    )
    ELASTIC_SMOOTHNESS: float = knob(
        4.0,
        "Deviation of the Gaussian that smooths the field of ELASTIC. Small values crumple, large ones only shift.",
        kind="data",
        stage="training",
        unit="pixels",
        gt=0,
        search=linear(2.0, 8.0),
        source="Simard et al. 2003 (ICDAR), section 2",
    )
