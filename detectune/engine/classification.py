"""Classifiers in a run: testing, the evaluation on the way, weights back to a network.

Files that `test_classifier` writes under evaluation/<data set>/:

    metrics.json    accuracy and loss, overall and per class     confusion.json  true class x answer
    mistakes.json   every image that was taken for another class, the surest answers first
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detectune.config.tree import Config
from detectune.data.image_folders import fit_image
from detectune.data.images import load_image
from detectune.data.labelled_loader import LabelledLoader, build_labelled_loader
from detectune.engine.precision import Compute, choose_compute
from detectune.engine.run_directory import output_errors, write_text
from detectune.engine.running import Run
from detectune.errors import DataError, UserError, WeightsError
from detectune.evaluation.classification import evaluate_classification
from detectune.models.build_classifier import build_classifier
from detectune.models.classifier import Classifier
from detectune.models.layer_list import shape_text
from detectune.structures import ClassInfo
from detectune.weights.native import fit_weights, load_weights


def test_classifier(
    config: Config,
    weights: Path | str | None = None,
    *,
    output_dir: Path,
    model: nn.Module | None = None,
    dataset: str | None = None,
    loader: LabelledLoader | None = None,
) -> dict[str, float]:
    """Accuracy and loss on the data of `loader`, or on `dataset`, or on each of TEST.DATASETS, of which the first
    one's are returned.
    """
    names = (dataset,) if dataset else tuple(config.TEST.DATASETS)
    if loader is None and not names:
        raise UserError("TEST.DATASETS is empty: there is nothing to test on.")
    loaders = (
        [loader] if loader else [build_labelled_loader(config, training=False, dataset=n) for n in names]
    )
    compute = choose_compute(
        device=config.MODEL.DEVICE,
        precision=config.TEST.PRECISION,
        memory_format=config.MODEL.MEMORY_FORMAT,
        key="TEST",
    )
    results = []
    for one in loaders:
        tested = model
        if tested is None:
            tested = compute.place(load_classifier(config, weights or config.TEST.WEIGHTS, one)[0])
        assert isinstance(tested, Classifier)
        shape, wanted = tuple(one.data.images.shape[1:]), tested.input_shape
        if shape != wanted:
            raise DataError(
                f"{one.data.name} has images of {shape_text(shape)}, but the network sees {shape_text(wanted)}; set "
                f"CLASSIFIER.INPUT_SHAPE to {list(wanted)} to have them resized."
            )
        results.append(_test_one(tested, one, compute, output_dir / "evaluation" / one.data.name))
    return results[0]


test_classifier.__test__ = False  # type: ignore[attr-defined]  # no test, whatever its name makes pytest think


def load_classifier(
    config: Config, path: Path | str, loader: LabelledLoader | None = None
) -> tuple[Classifier, ClassInfo]:
    """The network of the configuration with the weights of a file, and its classes.

    The shape of its images is the configuration's, else what the file tells, else that of the loader's data.
    """
    state, metadata = load_weights(Path(path).expanduser())
    shape = tuple(json.loads(metadata["input_shape"])) if "input_shape" in metadata else ()
    if not shape and loader is not None:
        shape = tuple(loader.data.images.shape[1:])
    told = json.loads(metadata["classes"]) if "classes" in metadata else None
    classes = ClassInfo(tuple(told["names"]), tuple(told["category_ids"])) if told else None
    if classes is None and loader is not None:
        classes = loader.class_info
    if classes is None or not (shape or config.CLASSIFIER.INPUT_SHAPE):
        raise WeightsError(f"{path} does not say which classes and which shape of images its network is for.")
    model = build_classifier(config, input_shape=shape, num_classes=len(classes))
    report = fit_weights(model, state)
    if not report.complete:
        raise WeightsError(
            f"{path} does not fit CLASSIFIER.LAYERS: {report} Use the configuration that the weights were trained with."
        )
    return model.eval(), classes


class ClassPredictor:
    """A classifier for single images.

        predictor = ClassPredictor(load_config("digits.yaml"), "model_final.safetensors")
        probabilities = predictor("photo.png")

    Raises:
        WeightsError: if the weights cannot be read or do not fit the configuration.
    """

    def __init__(self, config: Config, weights: Path | str) -> None:
        self.compute = choose_compute(
            device=config.MODEL.DEVICE,
            precision=config.TEST.PRECISION,
            memory_format=config.MODEL.MEMORY_FORMAT,
            key="TEST",
        )
        network, self.class_info = load_classifier(config, weights)
        self.network = network
        self.compute.place(network)

    @torch.no_grad()
    def __call__(self, image: np.ndarray | Path | str) -> Tensor:
        """The probability of each class, float32 [K]. `image` is uint8 [H, W, 3] RGB or a file."""
        pixels = load_image(image) if isinstance(image, Path | str) else image
        channels, height, width = self.network.input_shape
        seen = torch.from_numpy(fit_image(pixels, channels=channels, size=(height, width)))
        with self.compute.autocast():
            return self.network.predict(seen[None].to(self.compute.device))[0].cpu()


class ClassEvaluation:
    """Accuracy and loss of a run's model on a data set, which is read once; the first process measures."""

    def __init__(self) -> None:
        self.loaders: dict[str, LabelledLoader] = {}

    def __call__(self, run: Run, dataset: str) -> dict[str, float]:
        metrics: dict[str, float] = {}
        with run.team.together():
            if run.team.first:
                if dataset not in self.loaders:
                    self.loaders[dataset] = build_labelled_loader(run.config, training=False, dataset=dataset)
                metrics = test_classifier(
                    run.config, output_dir=run.directory.path, model=run.model, loader=self.loaders[dataset]
                )
        return run.team.from_first(metrics)


def measure(model: Classifier, loader: LabelledLoader, compute: Compute) -> dict[str, float]:
    """Accuracy and loss of a network on all images of a loader."""
    probabilities, losses = answers(model, loader, compute)
    labels, names = loader.data.labels.numpy(), loader.class_info.names
    return evaluate_classification(probabilities.numpy(), labels, losses.numpy(), names=names).metrics


@torch.no_grad()
def answers(model: Classifier, loader: LabelledLoader, compute: Compute) -> tuple[Tensor, Tensor]:
    """Probabilities float32 [N, K] and losses float32 [N] of all images of a loader, on the host."""
    probabilities: list[Tensor] = []
    losses: list[Tensor] = []
    model.eval()
    for batch in loader:
        batch = batch.to(compute.device, non_blocking=True)
        with compute.autocast():
            scores = model.scores(batch.images).float()
        assert batch.labels is not None
        probabilities.append((scores.softmax(1) if model.softmax else scores.sigmoid()).cpu())
        losses.append(model.loss_of(scores, batch.labels, reduction="none").cpu())
    return torch.cat(probabilities), torch.cat(losses)


def _test_one(model: Classifier, loader: LabelledLoader, compute: Compute, folder: Path) -> dict[str, float]:
    """Measure, and write one data set's folder."""
    started = time.perf_counter()
    probabilities, losses = answers(model, loader, compute)
    seconds = (time.perf_counter() - started) / len(loader.data)
    result = evaluate_classification(
        probabilities.numpy(), loader.data.labels.numpy(), losses.numpy(), names=loader.class_info.names
    )
    summary: dict[str, Any] = {
        "dataset": loader.data.name,
        "source": loader.data.source,
        "num_images": len(loader.data),
        "metrics": result.metrics,
        "per_class": result.per_class,
        "seconds_per_image": seconds,
    }
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    contents = {"confusion": result.confusion.tolist(), "mistakes": result.mistakes}
    for file, content in (
        contents | {"metrics": summary}
    ).items():  # metrics last: they say that all is there
        write_text(folder / f"{file}.json", json.dumps(content, allow_nan=False) + "\n")
    return dict(result.metrics)
