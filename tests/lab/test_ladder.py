"""The ladder: its rungs, what is read from a run, and the whole way on the stand-in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detectune.cli.lab_ladder import ladder_table
from detectune.cli.places import find_config
from detectune.config.load import load_config
from detectune.config.tree import Config
from detectune.data import labelled
from detectune.errors import UserError
from detectune.evaluation.classification import binomial_error
from detectune.lab import ladder
from detectune.lab.ladder import RUNGS, Rung, choose_rungs, read_outcome, run_ladder, rung_config, summary
from detectune.models.layer_list import parse_layers, shapes_of
from detectune.report.ladder import write_ladder_page

CONFIGS = {rung.number: load_config(find_config(rung.config)) for rung in RUNGS}


def changes(old: str, new: str) -> set[str]:
    first, second = CONFIGS[old].flat(), CONFIGS[new].flat()
    return {key for key in first if first[key] != second[key]}


@pytest.mark.parametrize("number", [rung.number for rung in RUNGS])
def test_a_rung_is_a_network_for_mnist(number: str) -> None:
    config = CONFIGS[number]
    assert shapes_of(parse_layers(config.CLASSIFIER.LAYERS), (1, 28, 28))[-1] == (10,)
    assert config.TRAIN.DATASETS == ("mnist_train",) and tuple(config.TEST.DATASETS) == (
        "mnist_val",
        "mnist_test",
    )
    assert config.TRAIN.EVAL_ITERS * config.TRAIN.IMS_PER_BATCH == 50_000, "evaluated once an epoch"


def test_each_rung_differs_from_the_one_before_by_what_it_is_about() -> None:
    assert changes("1", "2") == {"CLASSIFIER.LAYERS"} == changes("2", "3")
    assert changes("3", "4") == {"CLASSIFIER.LAYERS", "SOLVER.BASE_LR", "SOLVER.WEIGHT_DECAY"}
    assert changes("4", "4b") == {"SOLVER.WEIGHT_DECAY"} and CONFIGS["4b"].SOLVER.WEIGHT_DECAY == 0
    assert "CLASSIFIER.SHIFT" in changes("4", "5") and "CLASSIFIER.LAYERS" not in changes("4", "5")
    assert changes("5", "6") == {"CLASSIFIER.LAYERS"}
    assert changes("6", "7") == {"CLASSIFIER.LAYERS", "SOLVER.MAX_EPOCHS"}


def test_lambda_is_divided_by_the_batches_of_an_epoch() -> None:
    """network3.py: cost + lambda / 2 / (number of batches) * sum of squares; its slope is what WEIGHT_DECAY means."""
    for number, strength in (("4", 0.1), ("5", 0.25)):
        config = CONFIGS[number]
        assert pytest.approx(strength / (50_000 / config.TRAIN.IMS_PER_BATCH)) == config.SOLVER.WEIGHT_DECAY


def test_rungs_are_chosen_by_number() -> None:
    assert [rung.number for rung in choose_rungs("1-4")] == ["1", "2", "3", "4"]
    assert [rung.number for rung in choose_rungs("9, 4b,1")] == ["1", "4b", "9"]
    assert choose_rungs("all") == list(RUNGS)
    for wrong in ("0", "1-12", "x", ""):
        with pytest.raises(UserError, match="names no rungs; write 1-4"):
            choose_rungs(wrong)


def test_the_outcome_is_the_test_accuracy_at_the_last_of_the_best_validation_epochs(tmp_path: Path) -> None:
    rows = [{"kind": "train", "iteration": 50, "images_per_second": 100.0}]
    for epoch, (validation, test) in enumerate([(0.90, 0.5), (0.95, 0.6), (0.95, 0.7), (0.94, 0.9)], start=1):
        for name, value in (("val", validation), ("test", test)):
            rows.append(
                {
                    "kind": "evaluation",
                    "iteration": 10 * epoch,
                    "dataset": name,
                    "classification/accuracy": value,
                }
            )
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_outcome(tmp_path, validation="val", test="test", seed=3, batch=20)
    assert (found.best_epoch, found.epochs, found.validation, found.test, found.last_test) == (
        3,
        4,
        0.95,
        0.7,
        0.9,
    )
    assert found.seconds == pytest.approx(10.0) and found.seed == 3


def test_mean_deviation_and_binomial_error() -> None:
    found = summary([{"test": 0.98}, {"test": 0.982}, {"test": 0.978}], num_images=10_000)
    assert found["mean"] == pytest.approx(0.98) and found["sd"] == pytest.approx(0.002)
    assert found["binomial"] == pytest.approx(0.0014) == binomial_error(0.98, 10_000)
    assert summary([{"test": 0.98}], num_images=100)["sd"] is None


@pytest.fixture
def without_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("MNIST_DIR", "DETECTUNE_DATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DETECTUNE_SHARED", str(tmp_path / "nowhere"))
    monkeypatch.setattr(labelled, "fetch", lambda *_, **__: pytest.fail("nothing may be fetched"))


def test_without_mnist_the_ladder_stands_on_digits_and_says_so(
    without_mnist: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "STAND_IN_EPOCHS", 2)
    chosen = [(rung, find_config(rung.config)) for rung in choose_rungs("1-2")]
    said: list[str] = []
    table = run_ladder(chosen, seeds=2, output=tmp_path, length="quick", log=said.append)
    assert "not MNIST" in table["source"] and table["num_test"] == 300 and len(said) == 4
    assert [len(row["outcomes"]) for row in table["rungs"]] == [2, 2]
    assert all(outcome["epochs"] == 2 for row in table["rungs"] for outcome in row["outcomes"])
    assert all(0.05 < row["mean"] < 1 and row["sd"] is not None for row in table["rungs"])
    text = ladder_table(table)
    assert "not MNIST" in text and max(map(len, text.splitlines()[1:])) <= 62
    page = write_ladder_page(tmp_path).read_text()
    assert "not MNIST" in page and "Taken for another" in page and "What the first layer looks for" in page
    assert "://" not in page.replace("http://www.w3.org", "")

    def no_training(*_: Any, **__: Any) -> None:
        pytest.fail("a finished run was trained again")

    monkeypatch.setattr(ladder, "train", no_training)
    again = run_ladder(chosen, seeds=2, output=tmp_path, length="quick", log=said.append)
    assert again["rungs"] == table["rungs"]


def test_an_ensemble_averages_its_members(
    without_mnist: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "STAND_IN_EPOCHS", 1)
    file = find_config("mnist/1_fully_connected")
    pair = Rung("8", "mnist/1_fully_connected", "two together", None, members=2)
    outcome, config, runs = ladder.run_seed(pair, file, seed=2, output=tmp_path, length="quick")
    assert [run.name for run in runs] == ["rung_7_seed_3", "rung_7_seed_4"] and config.RNG_SEED == 3
    assert 0.1 < outcome.test < 1 and outcome.seed == 2


def test_the_fast_schedule_keeps_lambda_and_the_rate_of_an_image() -> None:
    for number in ("1", "4", "7"):
        file = find_config(next(rung.config for rung in RUNGS if rung.number == number))
        full, fast = (rung_config(file, seed=1, length=length) for length in ("full", "fast"))
        assert fast.TRAIN.IMS_PER_BATCH * fast.TRAIN.EVAL_ITERS == 50_000
        decays = [c.SOLVER.WEIGHT_DECAY / c.TRAIN.IMS_PER_BATCH for c in (full, fast)]
        assert decays[0] == pytest.approx(decays[1]) and full.CLASSIFIER == fast.CLASSIFIER
    assert rung_config(find_config("mnist/1_fully_connected"), seed=1, length="fast").SOLVER.MAX_EPOCHS == 15


def test_quick_takes_the_beginning_of_mnist(shared: Path) -> None:
    config: Config = rung_config(find_config("mnist/2_one_convolution"), seed=4, length="quick")
    assert config.TRAIN.DATASETS == ("mnist_train[:5000]",) and config.RNG_SEED == 4
    assert config.CLASSIFIER.LAYERS[0] == "conv 20 5x5" and config.TRAIN.EVAL_ITERS == 500
