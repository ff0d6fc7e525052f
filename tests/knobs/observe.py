"""The observers: each looks at one thing that a configuration decides, as cheaply as it can be looked at."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tiny_engine
import torch
from sample import (
    DATA,
    MASK_RCNN,
    ON_DATA,
    READY_MADE,
    batch,
    config_of,
    make_data,
    photograph,
    with_named_weights,
)
from table import observer
from torch import nn

from detectune.cli.test import meets_expectations
from detectune.config.tree import Config
from detectune.data.known_datasets import ROOT_VARIABLE
from detectune.data.labelled_loader import build_labelled_loader
from detectune.data.loader import build_loader
from detectune.engine import evaluating
from detectune.engine.distributed import ALONE
from detectune.engine.inference import Predictor, load_detector
from detectune.engine.run_directory import RunDirectory
from detectune.engine.running import step_generator
from detectune.engine.schedule import lr_at
from detectune.engine.solver import build_schedule, build_solver
from detectune.engine.starting import build_model, settle_compute
from detectune.engine.testing import test as run_test
from detectune.engine.trainer import train
from detectune.errors import UserError
from detectune.evaluation.expected import read_expectations
from detectune.models.build import build_detector
from detectune.models.build_classifier import build_classifier
from detectune.structures import ClassInfo, Detections
from detectune.weights.native import load_weights, save_weights
from detectune.weights.writing import detectron2_pth

TIMES = ("images_per_second", "data_seconds", "memory_mb", "eta_seconds", "seconds_per_image")


CLASSES = ClassInfo(tuple("abcde"), (1, 2, 3, 4, 5), ("top", "left", "right"), (0, 2, 1))


def _detector(config: Config) -> nn.Module:
    return with_named_weights(build_detector(config))


def _quiet(_: str) -> None:
    return


# ---- the network


@observer(MASK_RCNN)
def parameter_shapes(config: Config) -> Any:
    """Name and shape of every weight."""
    with torch.random.fork_rng(devices=[]):
        return {name: tuple(value.shape) for name, value in build_detector(config).state_dict().items()}


@observer(MASK_RCNN)
def fresh_weights(config: Config) -> Any:
    """Deviation and mean of every fresh weight, which tell an initialisation from another."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = build_detector(config).state_dict()
    return {
        name: (float(w.float().std(correction=0)), float(w.float().mean())) for name, w in weights.items()
    }


@observer(MASK_RCNN)
def trained_weights(config: Config) -> Any:
    """Names of the weights that training changes."""
    return [name for name, weight in build_detector(config).named_parameters() if weight.requires_grad]


@observer(MASK_RCNN)
def first_layer_of_a_foreign_file(config: Config) -> Any:
    """The first convolution as it is read from a file in detectron2's layout."""
    path = DATA / "colours.pth"
    DATA.mkdir(exist_ok=True)
    path.write_bytes(detectron2_pth(_detector(config).state_dict()))
    model, _ = load_detector(config, path, CLASSES)
    return model.state_dict()["backbone.stem.conv1.weight"]


@observer(MASK_RCNN)
def losses(config: Config) -> Any:
    """What a training step computes for two images: losses and statistics, with the precision that SOLVER asks for."""
    compute = settle_compute(config, None)
    model = compute.place(_detector(config)).train()
    keypoints = max(config.KRCNN.NUM_KEYPOINTS, 0) if config.MODEL.KEYPOINTS_ON else 0
    generator = step_generator(config.RNG_SEED, 0, 0, compute.device)
    with torch.no_grad(), compute.autocast():
        return model(batch(keypoints=keypoints), generator)


@observer(MASK_RCNN | ON_DATA | READY_MADE)
def losses_on_proposals(config: Config) -> Any:
    """What a training step computes for the first batch of a data set that comes with proposals."""
    make_data()
    first = next(iter(build_loader(config, training=True)))
    with torch.no_grad():
        return _detector(config).train()(first, step_generator(config.RNG_SEED, 0, 0, torch.device("cpu")))


@observer(MASK_RCNN)
def detections(config: Config) -> Any:
    """What is found in one image, in its own pixels."""
    predictor = Predictor(config, model=_detector(config).eval(), class_info=CLASSES, log=_quiet)
    found: Detections = predictor(photograph())
    return {
        "boxes": found.boxes, "scores": found.scores, "labels": found.labels,
        "masks": found.rles, "keypoints": found.keypoints,
    }  # fmt: skip


@observer(MASK_RCNN)
def compute(config: Config) -> Any:
    """Where and how a run computes, or why it cannot."""
    try:
        chosen = settle_compute(config, None)
    except UserError as error:
        return str(error)
    model = chosen.place(nn.Conv2d(4, 8, 3))
    return str(chosen.device), chosen.precision, model.weight.stride()


@observer(MASK_RCNN)
def compilation(config: Config) -> Any:
    """How often a training model and a predictor are compiled, and what is said about it."""
    said: list[str] = []
    with (
        mock.patch.object(nn.Module, "compile") as module,
        mock.patch("torch.compile", side_effect=lambda forward, **_: forward) as function,
    ):
        build_model(config, CLASSES, settle_compute(config, None), _quiet, ALONE)
        Predictor(config, model=build_detector(config), log=said.append)
    return module.call_count, function.call_count, said


# ---- data


@observer(MASK_RCNN | ON_DATA)
def training_batches(config: Config) -> Any:
    """Pixels, objects and origins of the first three training batches."""
    return _batches(config, training=True)


@observer(MASK_RCNN | ON_DATA)
def tested_batches(config: Config) -> Any:
    """The same of the test data."""
    return _batches(config, training=False)


@observer(
    MASK_RCNN
    | ON_DATA
    | {"MODEL.MASK_ON": False, "TEST.DATASETS": ["voc_2007_test"], "DOWNLOAD_CACHE": str(DATA / "cache_a")}
)
def found_data(config: Config) -> Any:
    """Test images of a data set that has a name of Detectron's and lies nowhere but where the configuration says."""
    with mock.patch.dict(os.environ):
        os.environ.pop(ROOT_VARIABLE, None)
        return _batches(config, training=False)


@observer(MASK_RCNN | ON_DATA)
def loader_processes(config: Config) -> Any:
    """How many processes load images."""
    make_data()
    return build_loader(config, training=True).num_workers


@observer(MASK_RCNN | ON_DATA | {"TRAIN.DATASETS": ["torn"]})
def broken_images(config: Config) -> Any:
    """What becomes of a data set with a file that is cut off."""
    make_data()
    loader = build_loader(config, training=True)
    try:
        next(iter(loader))
    except UserError as error:
        return str(error)
    return sorted(Path(name).name for name in loader.left_out)


def _batches(config: Config, *, training: bool) -> Any:
    make_data()
    seen = []
    for _, made in zip(range(3), build_loader(config, training=training), strict=False):
        targets = made.targets
        names = [Path(info.file_name).name for info in made.images.infos]
        moves = [(info.scale_x, info.scale_y, info.flipped) for info in made.images.infos]
        pixels = hashlib.sha256(made.images.tensor.float().numpy().tobytes()).hexdigest()
        objects = (
            None if targets is None else (targets.boxes, targets.labels, targets.edges, targets.keypoints)
        )
        seen.append((names, moves, tuple(made.images.tensor.shape), pixels, objects, made.images.proposals))
    return seen


# ---- classifiers

CLASSIFIER: dict[str, Any] = {
    "MODEL.TYPE": "classifier",
    "CLASSIFIER.LAYERS": ["dense 5", "relu", "softmax 10"],
    "TRAIN.DATASETS": ["digits_val"],
    "TRAIN.IMS_PER_BATCH": 20,
}


def _classifier(config: Config) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_classifier(config, input_shape=(1, 8, 8))


@observer(CLASSIFIER)
def classifier_weights(config: Config) -> Any:
    """Every fresh weight of a classifier."""
    return dict(_classifier(config).named_parameters())


@observer(CLASSIFIER)
def classifier_loss(config: Config) -> Any:
    """What a training step of a classifier computes for some digits."""
    first = next(iter(build_labelled_loader(config, training=True)))
    with torch.no_grad():
        return _classifier(config).train()(first)


@observer(CLASSIFIER)
def classifier_batches(config: Config) -> Any:
    """The first training batch of a classifier."""
    first = next(iter(build_labelled_loader(config, training=True)))
    return first.images, first.labels, first.indices


# ---- the optimiser


class _Layers(nn.Module):
    """A weight, a bias and the scale of a normalisation: the three groups of the optimiser."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).square().mean() + self.conv(x).square().mean()


FEW_STEPS = {"SOLVER.MAX_ITER": 12, "SOLVER.WARM_UP_ITERS": 4, "SOLVER.BASE_LR": 0.05, "MODEL.DEVICE": "cpu"}


@observer(FEW_STEPS)
def updates(config: Config) -> Any:
    """The weights of a small network after some steps of SOLVER."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = _Layers(), torch.randn(3, 2, 4, 4)
    schedule = build_schedule(config, num_images=10, log=_quiet)
    solver = build_solver(config, model, schedule=schedule)
    for iteration in range(8):
        solver.set_lr(iteration)
        solver.backward(model(x))
        solver.step(solver.gradient_norm())
    return dict(model.named_parameters())


@observer(FEW_STEPS)
def rates(config: Config) -> Any:
    """The learning rate of every iteration."""
    schedule = build_schedule(config, num_images=10, log=_quiet)
    return [lr_at(schedule, iteration) for iteration in range(schedule.max_iter)]


# ---- runs


def _train(config: Config, folder: Path | None, said: list[str]) -> Path:
    """A run of a two-layer detector on eight by eight pixels; its AP falls and its AP50 rises."""
    with pytest.MonkeyPatch.context() as patch:
        tiny = tiny_engine.install(patch)

        def falling(*_: Any, **options: Any) -> dict[str, float]:
            tiny.evaluations.append(len(tiny.evaluations))
            options["model"].eval()
            ap = 0.5 / len(tiny.evaluations)
            return {"bbox/AP": ap, "bbox/AP50": 1 - ap}

        patch.setattr(evaluating, "test", falling)
        return train(config, output_dir=folder, log=said.append).run_dir


TINY_RUN = FEW_STEPS | {
    "TRAIN.DATASETS": ["tiny_train"],
    "TEST.DATASETS": ["tiny_val"],
    "TRAIN.LOG_ITERS": 3,
    "TRAIN.SNAPSHOT_ITERS": 4,
}


@observer(TINY_RUN)
def tiny_run(config: Config) -> Any:
    """A run's files, rows, final and best weights, and its log without times."""
    with tempfile.TemporaryDirectory() as folder:
        said: list[str] = []
        directory = RunDirectory(_train(config, Path(folder), said))
        return _remains(directory, said)


@observer(TINY_RUN | {"SOLVER.MAX_ITER": 4})
def second_run(config: Config) -> Any:
    """What the same command does a second time."""
    with tempfile.TemporaryDirectory() as folder:
        said: list[str] = []
        for _ in range(2):
            directory = RunDirectory(_train(config, Path(folder), said))
        return _remains(directory, said)


@observer(TINY_RUN | {"SOLVER.MAX_ITER": 1})
def processes(config: Config) -> Any:
    """What a single process says that is asked to train."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            _train(config, Path(folder), [])
        except UserError as error:
            return str(error)
    return "trained"


@observer(TINY_RUN | {"SOLVER.MAX_ITER": 1})
def place_of_run(config: Config) -> Any:
    """Where a run is written for which nobody names a folder."""
    make_data()
    return str(_train(config, None, []))


@observer(TINY_RUN | {"SOLVER.MAX_ITER": 1})
def run_with_weights(config: Config) -> Any:
    """A run that may begin from the weights of another one (`start.safetensors`)."""
    write_tiny_weights()
    return tiny_run.look(config)


def write_tiny_weights() -> None:
    """Weights of the runs' two-layer detector, all 0.25, at the place that rows name."""
    model = tiny_engine.TinyDetector()
    save_weights(
        DATA / "start.safetensors", {n: torch.full_like(w, 0.25) for n, w in model.state_dict().items()}, {}
    )


def _remains(directory: RunDirectory, said: list[str]) -> Any:
    files = sorted(
        path.relative_to(directory.path).as_posix()
        for path in directory.path.rglob("*")
        if path.is_file() and path.suffix not in (".yaml",) and "tensorboard" not in path.parts
    )
    rows = [
        {key: value for key, value in row.items() if key not in TIMES} for row in directory.read_metrics()
    ]
    weights = {
        path.name: load_weights(path)[0]
        for path in (directory.final_weights, directory.best_weights)
        if path.exists()
    }
    lines = [line for line in said if not line[:1].isdigit() and str(directory.path) not in line]
    return {"files": files, "rows": rows, "weights": weights, "log": lines}


# ---- evaluation


@observer(MASK_RCNN | ON_DATA)
def evaluation(config: Config) -> Any:
    """Every file of an evaluation on two images, with its content."""
    make_data()
    with tempfile.TemporaryDirectory() as folder:
        metrics = run_test(config, output_dir=folder, model=_detector(config).eval(), log=_quiet)
        return metrics, _contents(Path(folder))


@observer(MASK_RCNN | ON_DATA)
def verdict(config: Config) -> Any:
    """Whether an evaluation reaches what is expected of it."""
    make_data()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run_test(config, output_dir=folder, model=_detector(config).eval(), log=_quiet)
        return meets_expectations(config, read_expectations(config.EXPECTED_RESULTS), Path(folder))


@observer(MASK_RCNN | {"TEST.WEIGHTS": str(DATA / "model.safetensors")})
def found_with_weights_file(config: Config) -> Any:
    """What a predictor finds that gets its weights from the configuration alone (`model.safetensors`, `other...`)."""
    write_detector_weights()
    found = Predictor(config, log=_quiet)(photograph())
    return found.boxes, found.scores


def write_detector_weights() -> None:
    """Two sets of weights of the small detector at the places that rows name."""
    model = _detector(config_of({}))
    save_weights(DATA / "model.safetensors", model.state_dict(), {})
    save_weights(DATA / "other.safetensors", {n: w * 0.9 for n, w in model.state_dict().items()}, {})


def _contents(folder: Path) -> dict[str, Any]:
    contents: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".json":
            contents[name] = _timeless(json.loads(path.read_text()))
        else:
            contents[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return contents


def _timeless(content: Any) -> Any:
    return {k: v for k, v in content.items() if k not in TIMES} if isinstance(content, dict) else content
