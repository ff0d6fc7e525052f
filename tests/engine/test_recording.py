"""What a person sees while a run goes on, and what TensorBoard gets."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_engine import install, tiny_config

from detectune.engine import starting
from detectune.engine.recording import ProgressHook, describe_row
from detectune.engine.trainer import train

ROW = {"lr": 0.02, "loss": 1.25, "loss_rpn_cls": 0.5, "loss_mask": 0.75, "images_per_second": 12.34}


def test_a_row_on_one_line() -> None:
    assert describe_row(ROW) == "lr 0.02  loss 1.250  (rpn_cls 0.500  mask 0.750)  12.3 images/s"


def test_without_a_terminal_each_row_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    said: list[str] = []
    train(tiny_config(SOLVER__WARM_UP_ITERS=0), output_dir=tmp_path, log=said.append)
    lines = [line for line in said if "loss" in line]
    assert [line.split()[0] for line in lines] == ["3/12", "6/12", "9/12", "12/12"]
    assert all("lr 0.05" in line and "images/s" in line and line.endswith("left") for line in lines)


def test_on_a_terminal_there_is_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160)
    monkeypatch.setattr(
        starting, "ProgressHook", lambda lr_change_threshold: ProgressHook(
            lr_change_threshold=lr_change_threshold, console=console
        ),
    )  # fmt: skip
    said: list[str] = []
    train(tiny_config(SOLVER__WARM_UP_ITERS=0), output_dir=tmp_path, log=said.append)
    assert "12/12" in screen.getvalue() and "images/s" in screen.getvalue()
    assert not [line for line in said if "loss" in line]


def test_tensorboard_has_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    train(tiny_config(), output_dir=tmp_path, log=lambda _: None)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [point.step for point in events.Scalars("train/loss")] == [3, 6, 9, 12]
    assert events.Scalars("tiny_val/bbox/AP")[0].value == 0.5
    assert {"train/lr", "train/loss_rpn_cls", "tiny_val/val/loss"} <= set(events.Tags()["scalars"])
