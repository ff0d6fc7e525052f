"""LVIS's average precision (Gupta et al. 2019, arXiv:1908.03195, section 2.3) of boxes and masks.

Not every image was searched for every class: a class is judged on the images that have it or are known to lack it, and
where only some of its objects were annotated, detections that match none count neither way. At most 300 detections an
image count. APr, APc and APf are means over rare, common and frequent classes. The arithmetic is hotcoco's, as of
the lvis library. What is undefined is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hotcoco import COCO, LVISEval, LVISResults

from detectune.evaluation.coco import CocoResult, mean_known, precision_curves, quiet
from detectune.structures import ClassInfo

NAMES = {
    "AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "APs", "APm": "APm", "APl": "APl", "APr": "APr", "APc": "APc",
    "APf": "APf", "AR300": "AR@300", "ARs": "ARs@300", "ARm": "ARm@300", "ARl": "ARl@300",
}  # fmt: skip
MOST = 300


def evaluate_lvis(
    document: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    class_info: ClassInfo,
    iou_types: Sequence[str] = ("bbox", "segm"),
) -> CocoResult:
    """Compare result rows with LVIS's own document, whose images say for which classes they were searched."""
    counts = dict.fromkeys(class_info.category_ids, 0)
    for annotation in document["annotations"]:
        counts[annotation["category_id"]] += 1
    found = dict.fromkeys(class_info.category_ids, 0)
    for row in rows:
        found[row["category_id"]] += 1
    per_class: dict[str, dict[str, float | int | None]] = {
        name: {"num_objects": counts[number], "num_detections": found[number]}
        for name, number in zip(class_info.names, class_info.category_ids, strict=True)
    }
    metrics: dict[str, float | None] = {}
    curves: dict[str, dict[str, Any]] = {}
    with quiet():
        ground = COCO(dict(document))
    for task in iou_types:
        if not rows:  # every class that is there has an AP of zero
            defined = 0.0 if document["annotations"] else None
            metrics |= {f"{task}/{name}": defined for name in ("AP", "AP50", "AP75", "AR300")}
            for name in class_info.names:
                zero = 0.0 if per_class[name]["num_objects"] else None
                per_class[name] |= {f"{task}/AP": zero, f"{task}/AP50": zero}
            continue
        with quiet():
            results = LVISResults(ground, [dict(row) for row in rows], max_dets=MOST)
            evaluation: Any = LVISEval(ground, results, task)
            evaluation.run()
        told = evaluation.get_results()
        metrics |= {f"{task}/{ours}": _defined(told[theirs]) for ours, theirs in NAMES.items()}
        order = [list(evaluation.params.catIds).index(number) for number in class_info.category_ids]
        precision = np.asarray(evaluation.eval["precision"])[:, :, order, 0, 0]  # [T, R, K]
        for k, name in enumerate(class_info.names):
            per_class[name][f"{task}/AP"] = mean_known(precision[:, :, k])
            per_class[name][f"{task}/AP50"] = mean_known(precision[0, :, k])
        curves[task] = precision_curves(precision, class_info)
    return CocoResult(metrics, per_class, curves)


def _defined(value: float) -> float | None:
    return float(value) if value > -1 else None
