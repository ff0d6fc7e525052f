"""A study on a Ray cluster of two nodes on this machine; one is killed half way, the study ends on the other.

python bench/study_ray.py --folder /tmp/study_ray --output bench/results/study_ray.json
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from detectune.config.best_metric import best_metric
from detectune.config.load import load_config
from detectune.tuner.history import History
from detectune.tuner.ray_pool import RayPool
from detectune.tuner.session import run_study
from detectune.tuner.space import Entry
from detectune.tuner.spec import Request, complete

DIGITS: dict[str, Any] = {
    "MODEL.TYPE": "classifier", "MODEL.DEVICE": "cpu", "CLASSIFIER.LAYERS": ["dense 16", "relu", "softmax 10"],
    "SOLVER.MAX_ITER": 200, "SOLVER.WARM_UP_ITERS": 0, "SOLVER.LR_POLICY": "cosine_decay",
    "TRAIN.DATASETS": ["digits_train"], "TEST.DATASETS": ["digits_val"], "TRAIN.IMS_PER_BATCH": 20,
    "TRAIN.EVAL_ITERS": 100, "TRAIN.SNAPSHOT_ITERS": 20,
}  # fmt: skip
TRIALS = 8
ray: Any = importlib.import_module("ray")  # it is typed in parts only


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    base = load_config(None, DIGITS)
    request = Request(
        knobs=[Entry("SOLVER.BASE_LR", {}, ""), Entry("SOLVER.MOMENTUM", {}, "")], trials=TRIALS
    )
    spec = complete(request, base, default_name="ray", default_metric=best_metric(base))
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    said: list[str] = []
    killed: dict[str, Any] = {}
    began = time.monotonic()

    def kill_half_way(history: History) -> None:
        if len(history.complete) >= TRIALS // 2 and not killed:
            killed["after_complete"] = len(history.complete)
            killed["running"] = [trial.number for trial in history.trials if trial.state == "running"]
            cluster.remove_node(
                second, allow_graceful=False
            )  # SIGKILL; the study ends on the node that is left

    history = run_study(
        spec, base, given.folder, workers=2, log=said.append, changed=kill_half_way,
        make_pool=lambda: RayPool(cluster.address, 2),
    )  # fmt: skip
    result: dict[str, Any] = {
        "killed": killed,
        "said": said,
        "states": [trial.state for trial in history.trials],
        "attempts": [trial.attempts for trial in history.trials],
        "wall_seconds": round(time.monotonic() - began, 1),
        "command": "python bench/study_ray.py",
        "ray": ray.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "note": "loaded machine: times are rough",
    }
    ray.shutdown()
    cluster.shutdown()
    assert result["states"] == ["complete"] * TRIALS and killed, result
    given.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
