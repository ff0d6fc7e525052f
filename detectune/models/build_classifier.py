"""From the configuration to a classifier."""

from __future__ import annotations

from detectune.config.tree import Config
from detectune.errors import UserError
from detectune.models.classifier import Classifier
from detectune.models.layer_list import Shape, parse_layers, shapes_of


def build_classifier(config: Config, *, input_shape: Shape, num_classes: int | None = None) -> Classifier:
    """The classifier that CLASSIFIER describes, with fresh weights from torch's global generator.

    Args:
        config: the whole tree.
        input_shape: channels, height, width of the images; CLASSIFIER.INPUT_SHAPE wins over it.
        num_classes: classes of the data set, which the last layer must have; None asks nothing.
    """
    given = config.CLASSIFIER
    layers = parse_layers(given.LAYERS)
    shape = tuple(given.INPUT_SHAPE) or tuple(input_shape)
    outputs = shapes_of(layers, shape)[-1][0]
    if num_classes is not None and outputs != num_classes:
        raise UserError(
            f"CLASSIFIER.LAYERS ends with {outputs} outputs, but the data set has {num_classes} classes; end it with "
            f"softmax {num_classes}, or with dense {num_classes} and sigmoid."
        )
    return Classifier(
        layers,
        input_shape=shape,
        loss=given.LOSS,
        init=given.INIT,
        label_smoothing=given.LABEL_SMOOTHING,
        pixel_mean=given.PIXEL_MEAN,
        pixel_std=given.PIXEL_STD,
    )
