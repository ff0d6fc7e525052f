"""The MNIST ladder: nine rungs, each differing from the one before by one idea, and what each reaches.

Two figures for every rung. As the source reports it: the accuracy on the test images at the epoch that was best on
the validation images (the last of equals, as network3.py takes it), from one run. As one should: the mean and
deviation of that over seeds, beside the binomial error of the test images, which no number of seeds can undercut.

Source: Nielsen 2015, "Neural Networks and Deep Learning", chapter 6.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import torch

from detectune.config.load import load_config
from detectune.config.tree import Config
from detectune.data.labelled import image_folders, load_labelled, read_known
from detectune.data.labelled_loader import build_labelled_loader
from detectune.engine.classification import answers, load_classifier
from detectune.engine.precision import choose_compute
from detectune.engine.run_directory import write_text
from detectune.engine.trainer import train
from detectune.errors import DataError, UserError
from detectune.evaluation.classification import binomial_error

ACCURACY = "classification/accuracy"
QUICK_IMAGES = {"TRAIN.DATASETS": 5000, "TEST.DATASETS": 2000}  # of each data set
QUICK_EPOCHS, QUICK_BATCH = 10, 10
FAST_EPOCHS, FAST_BATCH = 15, 50
Length = Literal["full", "fast", "quick"]
STAND_IN = {"TRAIN.DATASETS": ("digits_train",), "TEST.DATASETS": ("digits_val", "digits_test")}
STAND_IN_EPOCHS = 40


@dataclass(frozen=True)
class Rung:
    """One step of the ladder."""

    number: str
    config: str  # name of a configuration that comes with Detectune
    about: str
    reported: float | None  # accuracy in percent that the source prints
    members: int = 1  # networks whose answers are averaged


RUNGS = (
    Rung("1", "mnist/1_fully_connected", "100 sigmoid units", 97.80),
    Rung("2", "mnist/2_one_convolution", "one convolution", 98.78),
    Rung("3", "mnist/3_two_convolutions", "two convolutions", 99.06),
    Rung("4", "mnist/4_relu", "rectified linear units, L2", 99.23),
    Rung("4b", "mnist/4_relu_without_decay", "the same without L2, as printed", 99.23),
    Rung("5", "mnist/5_expanded_data", "images warped anew each time", 99.37),
    Rung("6", "mnist/6_wider", "a second, wider dense layer", 99.43),
    Rung("7", "mnist/7_dropout", "dropout, 1,000 units", 99.60),
    Rung("8", "mnist/7_dropout", "five of them, averaged", 99.67, members=5),
    Rung("9", "mnist/9_modern", "one small network of today", None),
)


@dataclass(frozen=True)
class Outcome:
    """One run of a rung. Accuracies are fractions 0..1, epochs count from 1."""

    seed: int
    epochs: int
    best_epoch: int
    validation: float  # at the best epoch
    test: float  # there, too
    last_test: float  # after the last epoch
    seconds: float  # of the updates, without evaluations


def choose_rungs(text: str) -> list[Rung]:
    """`1-4`, `1,3,9` or `all` -> rungs; a `UserError` names those that do not exist."""
    numbers = [rung.number for rung in RUNGS]
    if text == "all":
        return list(RUNGS)
    chosen: list[str] = []
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if first not in numbers or (dash and last not in numbers):
            raise UserError(
                f"--rungs {text} names no rungs; write 1-4, 1,3,9 or all. There are {', '.join(numbers)}."
            )
        begin = numbers.index(first)
        chosen += numbers[begin : numbers.index(last) + 1] if dash else [first]
    return [rung for rung in RUNGS if rung.number in chosen]


def rung_config(file: Path, *, seed: int, length: Length) -> Config:
    """The configuration of a rung: `full` as the file has it, `fast` with the schedule of `fast_schedule`, `quick`
    with that on few images and for few epochs.

    Without MNIST `quick` takes scikit-learn's digits of 8 x 8 pixels, with kernels to match.
    """
    config = load_config(file, {"RNG_SEED": seed})
    if length == "full" or (length == "fast" and config.SOLVER.MOMENTUM > 0):
        return config
    if length == "fast":
        return config.with_overrides(fast_schedule(config, batch=FAST_BATCH))
    config = config.with_overrides(fast_schedule(config, batch=QUICK_BATCH))
    changes: dict[str, Any] = {
        key: tuple(f"{name}[:{count}]" for name in config.flat()[key]) for key, count in QUICK_IMAGES.items()
    }
    epochs, num_images = QUICK_EPOCHS, QUICK_IMAGES["TRAIN.DATASETS"]
    try:  # what is there: nothing is fetched for a quick look
        read_known("mnist_train", folders=image_folders("mnist", download_cache=config.DOWNLOAD_CACHE))
    except DataError:
        layers = [text.replace("5x5", "3x3 pad 1") for text in config.CLASSIFIER.LAYERS]
        changes = {**STAND_IN, "CLASSIFIER.LAYERS": layers}
        epochs, num_images = STAND_IN_EPOCHS, len(read_known("digits_train"))
    steps = num_images // config.TRAIN.IMS_PER_BATCH
    often = {
        "TRAIN.EVAL_ITERS": steps,
        "TRAIN.SNAPSHOT_ITERS": steps,
        "TRAIN.LOG_ITERS": max(1, steps // 5),
        "SOLVER.WARM_UP_ITERS": steps // 2,
    }
    return config.with_overrides(
        changes | often | {"SOLVER.MAX_EPOCHS": 0, "SOLVER.MAX_ITER": steps * epochs}
    )


def fast_schedule(config: Config, *, batch: int) -> dict[str, Any]:
    """A quarter of the source's epochs, with momentum and a rate that falls along a cosine.

    The rate is in proportion to the batch, weight decay keeps its lambda. Two convolutions with sigmoids (rung 3) start
    on a plateau that takes gradient descent some 4,000 updates to leave, most of what there is here: they get Adam.
    Rungs from 5 on have such a schedule of their own, of which only the quick ladder changes the batch.
    """
    old, layers = config.TRAIN.IMS_PER_BATCH, config.CLASSIFIER.LAYERS
    plateau = "sigmoid" in layers and sum(layer.startswith("conv") for layer in layers) > 1
    if config.SOLVER.MOMENTUM > 0:
        rate, epochs = config.SOLVER.BASE_LR * batch / old, config.SOLVER.MAX_EPOCHS
    else:
        rate, epochs = (0.006 if "sigmoid" in layers else 0.001) * batch, FAST_EPOCHS
    steps = config.TRAIN.EVAL_ITERS * old // batch
    return {
        **({"SOLVER.OPTIMIZER": "adam"} if plateau else {}),
        "TRAIN.IMS_PER_BATCH": batch,
        "TRAIN.EVAL_ITERS": steps,
        "TRAIN.SNAPSHOT_ITERS": steps,
        "SOLVER.BASE_LR": 0.001 if plateau else rate,
        "SOLVER.LR_POLICY": "cosine_decay" if config.SOLVER.MOMENTUM == 0 else config.SOLVER.LR_POLICY,
        "SOLVER.WARM_UP_ITERS": steps // 2,
        "SOLVER.MOMENTUM": 0.9,
        "SOLVER.WEIGHT_DECAY": config.SOLVER.WEIGHT_DECAY * batch / old,
        "SOLVER.MAX_EPOCHS": epochs,
        "MODEL.MEMORY_FORMAT": "channels_last",
    }


def run_rung(config: Config, run_dir: Path) -> Outcome:
    """Train one network of a rung in `run_dir`, go on with it, or read it if it is done."""
    done = run_dir / "model_final.safetensors"
    saved = run_dir / "config.yaml"
    if not (done.is_file() and saved.is_file() and saved.read_text() == config.to_yaml()):
        train(config, output_dir=run_dir, log=lambda _: None)
    validation, test = config.TEST.DATASETS
    batch = config.TRAIN.IMS_PER_BATCH
    return read_outcome(run_dir, validation=validation, test=test, seed=config.RNG_SEED, batch=batch)


def run_seed(
    rung: Rung, file: Path, *, seed: int, output: Path, length: Length
) -> tuple[Outcome, Config, list[Path]]:
    """One network of a rung, or the networks of an ensemble: (what it reaches, its configuration, its runs).

    Runs are output/rung_<number>_seed_<seed>; the members of ensemble number `seed` are runs of rung 7.
    """
    number = "7" if rung.members > 1 else rung.number
    seeds = [rung.members * (seed - 1) + member for member in range(1, rung.members + 1)]
    runs = [output / f"rung_{number}_seed_{s}" for s in seeds]
    configs = [rung_config(file, seed=s, length=length) for s in seeds]
    outcomes = [run_rung(config, run) for config, run in zip(configs, runs, strict=True)]
    if rung.members == 1:
        return outcomes[0], configs[0], runs
    return _together(configs[0], runs, outcomes, seed=seed), configs[0], runs


def run_ladder(
    rungs: Sequence[tuple[Rung, Path]],
    *,
    seeds: int,
    output: Path,
    length: Length = "full",
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Every rung with seeds 1 .. `seeds`, into `output`; what ladder.json holds, which is written after each run.

    `rungs` come with the files of their configurations.
    """
    table: dict[str, Any] = {"length": length, "source": "", "validation": "", "test": "", "rungs": []}
    for rung, file in rungs:
        row: dict[str, Any] = {
            "number": rung.number, "about": rung.about, "config": rung.config, "reported": rung.reported,
            "members": rung.members, "outcomes": [], "runs": [],
        }  # fmt: skip
        table["rungs"].append(row)
        for seed in range(1, seeds + 1):
            started = time.perf_counter()
            outcome, config, runs = run_seed(rung, file, seed=seed, output=output, length=length)
            row["outcomes"].append(asdict(outcome))
            row["runs"] += [run.name for run in runs]
            validation, test = config.TEST.DATASETS
            data = load_labelled(test, {}, download_cache=config.DOWNLOAD_CACHE)
            table |= {"source": data.source, "validation": validation, "test": test, "num_test": len(data)}
            row |= summary(row["outcomes"], num_images=len(data))
            write_text(output / "ladder.json", json.dumps(table, indent=1) + "\n")
            log(
                f"Rung {rung.number}, seed {seed}: {100 * outcome.test:.2f} % at epoch {outcome.best_epoch} of "
                f"{outcome.epochs}  ({time.perf_counter() - started:.0f} s)"
            )
    return table


def summary(outcomes: Sequence[dict[str, Any]], *, num_images: int) -> dict[str, Any]:
    """Mean and deviation over seeds of the accuracy at the best validation epoch, and its binomial error."""
    values = [outcome["test"] for outcome in outcomes]
    mean = fmean(values)
    return {
        "mean": mean,
        "sd": stdev(values) if len(values) > 1 else None,
        "binomial": binomial_error(mean, num_images),
    }


def read_outcome(run_dir: Path, *, validation: str, test: str, seed: int, batch: int) -> Outcome:
    """What the rows of a run's metrics.jsonl say; `validation` and `test` name the data sets."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    tables = {
        name: {row["iteration"]: row[ACCURACY] for row in rows if row.get("dataset") == name}
        for name in (validation, test)
    }
    iterations = sorted(tables[validation])
    best = max(iterations, key=lambda i: (tables[validation][i], i))
    seconds, before = 0.0, 0
    for row in (row for row in rows if row["kind"] == "train"):
        seconds += (row["iteration"] - before) * batch / row["images_per_second"]
        before = row["iteration"]
    return Outcome(
        seed=seed,
        epochs=len(iterations),
        best_epoch=iterations.index(best) + 1,
        validation=tables[validation][best],
        test=tables[test][best],
        last_test=tables[test][iterations[-1]],
        seconds=seconds,
    )


def _together(config: Config, runs: Sequence[Path], outcomes: Sequence[Outcome], *, seed: int) -> Outcome:
    """What the networks of an ensemble reach when their probabilities are averaged, each at its best epoch."""
    validation, test = (
        _accuracy_of_mean(config, [run / "checkpoints/best.safetensors" for run in runs], name)
        for name in config.TEST.DATASETS
    )
    return Outcome(
        seed=seed,
        epochs=outcomes[0].epochs,
        best_epoch=round(fmean(outcome.best_epoch for outcome in outcomes)),
        validation=validation,
        test=test,
        last_test=test,
        seconds=sum(outcome.seconds for outcome in outcomes),
    )


def _accuracy_of_mean(config: Config, weights: Sequence[Path], dataset: str) -> float:
    compute = choose_compute(device=config.MODEL.DEVICE, precision="fp32", memory_format="contiguous")
    loader = build_labelled_loader(config, training=False, dataset=dataset)
    networks = [load_classifier(config, path, loader)[0] for path in weights]
    for network in networks:
        compute.place(network)  # in place
    mean = torch.stack([answers(network, loader, compute)[0] for network in networks]).mean(0)
    return float((mean.argmax(1) == loader.data.labels).double().mean())
