"""Two machines as two network namespaces joined by a cable: torchrun in each, against one process with the whole batch.

    sudo python bench/machines.py

The namespaces share no address, loopback included, so that whatever reaches the other side goes over the cable. Needs
Linux, the right to make namespaces and `ip` (iproute2); what was made is taken down at the end. A narrow Mask R-CNN
learns three steps on generated images; losses and AP are compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from alternation import write_result
from detectune.config.load import load_config
from detectune.data.shapes import make_shapes
from detectune.engine.run_directory import RunDirectory
from detectune.engine.trainer import train

ROOT = Path(__file__).resolve().parent.parent
HOSTS = {
    "detectune_a": ("cable_a", "10.77.0.1"),
    "detectune_b": ("cable_b", "10.77.0.2"),
}  # name -> device, address
PORT = 29500
SECONDS = 600
SMALL = {
    "RESNETS.WIDTH_MULTIPLIER": 0.125, "FPN.DIM": 16, "FAST_RCNN.MLP_HEAD_DIM": 32, "MRCNN.DIM_REDUCED": 16,
    "RESNETS.NORM": "group", "GROUP_NORM.NUM_GROUPS": 4, "SOLVER.OPTIMIZER": "sgd", "SOLVER.BASE_LR": 0.01,
    "SOLVER.MAX_ITER": 3, "SOLVER.PRECISION": "fp32", "TRAIN.EVAL_ITERS": 0, "TRAIN.LOG_ITERS": 1,
    "DATA_LOADER.NUM_THREADS": 0, "MODEL.DEVICE": "cpu", "TEST.SCORE_THRESH": 0.0, "TRAIN.DATASETS": ["mine"],
    "TEST.DATASETS": ["mine"], "TRAIN.SCALES": [96], "TEST.SCALE": 96,
}  # fmt: skip


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def plug_in() -> None:
    """Two namespaces and the cable between them."""
    (one, (device_one, _)), (other, (device_other, _)) = HOSTS.items()
    for name in (one, other):
        ip("netns", "add", name)
    ip("link", "add", device_one, "netns", one, "type", "veth", "peer", "name", device_other, "netns", other)
    for name, (device, address) in HOSTS.items():
        ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
        ip("-n", name, "link", "set", device, "up")
        ip("-n", name, "link", "set", "lo", "up")


def unplug() -> None:
    for name in HOSTS:
        subprocess.run(["ip", "netns", "delete", name], check=False)


def train_on_both(config: Path, output: Path) -> list[str]:
    """What torchrun printed in each namespace, after a run of both together."""
    meeting = f"{HOSTS['detectune_a'][1]}:{PORT}"
    started = [
        subprocess.Popen(
            [
                "ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
                "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting, "--rdzv-id", "bench",
                "--rdzv-conf", f"is_host={int(address in meeting)}", "--local-addr", address,
                "-m", "detectune", "train", str(config), "--output", str(output),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            # torchrun and gloo look up the machine's name, which here leads to the loopback
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": device},
        )
        for name, (device, address) in HOSTS.items()
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=SECONDS)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    if any(process.returncode for process in started):
        raise RuntimeError("\n".join(said))
    return said


def numbers_of(run: Path) -> dict[str, float]:
    """Every loss of every step, and the AP at the end."""
    return {
        f"{row['kind']} {row['iteration']} {name}": value
        for row in RunDirectory(run).read_metrics()
        for name, value in row.items()
        if name.startswith(("loss", "bbox/AP", "segm/AP")) and value is not None
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        paths = make_shapes(folder / "shapes", split="train", num_images=8, image_size=(96, 96), seed=1)
        place = {"images": str(paths.images), "annotations": str(paths.annotations)}
        keys: dict[str, Any] = SMALL | {"DATASETS": {"mine": place}, "TRAIN.IMS_PER_BATCH": 2}
        config = load_config(ROOT / "configs/getting_started/shapes.yaml", keys)
        (folder / "machines.yaml").write_text(config.to_yaml())
        try:
            plug_in()
            train_on_both(folder / "machines.yaml", folder / "two")
        finally:
            unplug()
        train(
            config.with_overrides({"TRAIN.IMS_PER_BATCH": 4}), output_dir=folder / "one", log=lambda _: None
        )
        one, two = numbers_of(folder / "one"), numbers_of(folder / "two")
    if one.keys() != two.keys():
        raise RuntimeError(f"other rows: {one.keys() ^ two.keys()}")
    largest = max(abs(two[name] - value) / max(abs(value), 1e-12) for name, value in one.items())
    print(f"{len(one)} losses and APs; the largest relative difference is {largest:.1e}")
    write_result(
        "machines", {"numbers": len(one), "largest_relative_difference": largest, "one": one, "two": two}
    )


if __name__ == "__main__":
    main()
