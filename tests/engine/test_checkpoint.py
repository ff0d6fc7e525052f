"""Checkpoint files: what is written comes back, damage is told, a disk that refuses costs nothing saved."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_engine import install, tiny_config

from detectune.engine.checkpoint import (
    DamagedCheckpointError,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    newest_valid,
    prune_checkpoints,
    save_checkpoint,
)
from detectune.engine.hooks import Hook
from detectune.engine.running import Run
from detectune.engine.trainer import train
from detectune.errors import OutputError

STATE: dict[str, Any] = {
    "iteration": 3,
    "model": {"w": torch.arange(100_000.0)},
    "note": "text",
    "list": [1, 2.5, None, (True, "x")],
}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 3)
    save_checkpoint(path, STATE)
    loaded = load_checkpoint(path)
    assert path.name == "iter_0000003.pt"
    assert torch.equal(loaded["model"]["w"], STATE["model"]["w"])
    assert {k: v for k, v in loaded.items() if k != "model"} == {
        k: v for k, v in STATE.items() if k != "model"
    }
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("keep", [0, 5, 15, 1000, 200_000, -1])
def test_a_file_cut_short_is_told(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "iter_0000001.pt"
    save_checkpoint(path, STATE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedCheckpointError, match="cut short"):
        load_checkpoint(path)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.9])
def test_one_flipped_bit_is_told(tmp_path: Path, place: float) -> None:
    path = tmp_path / "iter_0000001.pt"
    save_checkpoint(path, STATE)
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 20))] ^= 4
    path.write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match="checksum"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "iter_0000001.pt"
    save_checkpoint(path, {"x": Evil()})
    with pytest.raises(DamagedCheckpointError, match="asks for more than plain values"):
        load_checkpoint(path)
    assert not (tmp_path / "owned").exists()


def test_the_newest_good_one_is_taken_and_the_others_named(tmp_path: Path) -> None:
    for iteration in (2, 10, 9_999_999, 10_000_000):
        save_checkpoint(checkpoint_path(tmp_path, iteration), {"iteration": iteration})
    (tmp_path / "iter_x.pt").write_text("not one of ours")
    assert [p.name for p in list_checkpoints(tmp_path)][-1] == "iter_10000000.pt"
    (tmp_path / "iter_10000000.pt").write_bytes(b"")
    said: list[str] = []
    found = newest_valid(tmp_path, log=said.append)
    assert found is not None and found[1] == {"iteration": 9_999_999}
    assert len(said) == 1 and "iter_10000000.pt is damaged" in said[0]
    assert newest_valid(tmp_path / "none", log=said.append) is None


def test_only_the_last_are_kept(tmp_path: Path) -> None:
    for iteration in range(5):
        save_checkpoint(checkpoint_path(tmp_path, iteration), {})
    prune_checkpoints(tmp_path, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["iter_0000003.pt", "iter_0000004.pt"]
    prune_checkpoints(tmp_path, keep=0)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["iter_0000004.pt"]


@pytest.fixture
def small_files() -> Iterator[None]:
    """The system lets no file grow beyond 20 kB: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_refused_write_names_the_file_and_leaves_the_old_one(tmp_path: Path, small_files: None) -> None:
    path = tmp_path / "iter_0000001.pt"
    save_checkpoint(path, {"iteration": 1})
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"iter_0000001\.pt cannot be written: the file would be larger"):
        save_checkpoint(path, STATE)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB; mounting one takes root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_intact(
    tiny_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FillDisk(Hook):
        def after_step(self, run: Run) -> None:
            if run.iteration == 6:
                free = os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_frsize
                (tiny_disk / "filler").write_bytes(b"x" * free)

    install(monkeypatch)
    run_dir = tiny_disk / "run"
    with pytest.raises(OutputError, match="cannot be written: the disk is full") as caught:
        train(tiny_config(), output_dir=run_dir, log=lambda _: None, hooks=[FillDisk()])
    assert str(run_dir) in str(caught.value) and "same command again" in str(caught.value)
    (tiny_disk / "filler").unlink()
    assert newest_valid(run_dir / "checkpoints", log=lambda _: None) is not None
    train(tiny_config(), output_dir=run_dir, log=lambda _: None)
    train(tiny_config(), output_dir=tmp_path / "whole", log=lambda _: None)
    name = "model_final.safetensors"
    assert (run_dir / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
