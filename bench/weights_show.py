"""How long `detectune weights show` takes for each kind of file, in a process of its own: python bench/weights_show.py

Each file holds a Mask R-CNN R-50-FPN for COCO (44 million numbers), the pickle of Detectron its momentum as well.
Written to bench/results/weights_show.json: the best and the median of five calls, start of Python included.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from detectune.cli.loading import load_for_command
from detectune.models.build import build_detector
from detectune.weights.writing import detectron2_pickle, detectron2_pth, detectron_pickle, torchvision_pth

RUNS = 5
LIMIT = 2.0  # seconds


def main() -> None:
    config = load_for_command("12_2017_baselines/e2e_mask_rcnn_R-50-FPN_1x", None, options=())
    torch.manual_seed(0)
    state = build_detector(config).state_dict()
    trained = {name: value for name, value in state.items() if ".norm." not in name}
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Callable[[Path], object]] = {
            "detectune.safetensors": lambda path: save_file(state, path),
            "detectron.pkl": lambda path: path.write_bytes(
                detectron_pickle(state, momentum=trained, cfg=config.to_yaml())
            ),
            "detectron2.pkl": lambda path: path.write_bytes(detectron2_pickle(state)),
            "detectron2.pth": lambda path: path.write_bytes(detectron2_pth(state)),
            "torchvision.pth": lambda path: path.write_bytes(torchvision_pth(state)),
            "before_1.6.pth": lambda path: torch.save(state, path, _use_new_zipfile_serialization=False),
        }
        rows = {}
        for name, write in files.items():
            path = Path(folder) / name
            write(path)
            rows[name] = measure(path)
            path.unlink()
            print(name, rows[name], flush=True)
    result = {
        "command": "python bench/weights_show.py",
        "machine": f"{platform.machine()}, loaded by other work",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "limit_s": LIMIT,
        "files": rows,
    }
    target = Path(__file__).parent / "results" / "weights_show.json"
    target.write_text(json.dumps(result, indent=2) + "\n")


def measure(path: Path) -> dict[str, float]:
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "detectune", "weights", "show", str(path)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds.append(time.perf_counter() - start)
    return {
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "best_s": round(min(seconds), 2),
        "median_s": round(statistics.median(seconds), 2),
    }


if __name__ == "__main__":
    main()
