"""Detections in Detectron's files: detections.pkl with everything, and one COCO file for each task.

detections.pkl is a dictionary `all_boxes`, `all_segms`, `all_keyps`, `cfg`. The first three are lists [class][image];
class 0 is the background and stays empty, images stand by rising id. A cell of boxes is float32 [N, 5]: x1, y1, x2,
y2 with the last pixel inside, score; of masks a list of N RLEs; of keypoints a list of N arrays [4, K]: x, y, logit,
probability. Rows are those of `engine.inference.coco_rows`. Knows nothing about configurations; `cfg` is a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectune.errors import DataError
from detectune.pickles import dump_pickle, load_pickle
from detectune.structures import ClassInfo

Row = dict[str, Any]
TASK_FILES = {"bbox": "bbox", "segmentation": "segmentations", "keypoints": "keypoints"}
"""What a row calls a task -> what Detectron's file of it begins with."""


def pack_detections(
    rows: Sequence[Row], *, image_ids: Sequence[int], num_classes: int, config_yaml: str
) -> dict[str, Any]:
    """The content of detections.pkl. `num_classes` counts the background; `image_ids` are all that were tested."""
    place = {image_id: i for i, image_id in enumerate(sorted(image_ids))}
    cells: list[list[list[Row]]] = [[[] for _ in place] for _ in range(num_classes)]
    for row in rows:
        cells[row["label"]][place[row["image_id"]]].append(row)
    boxes: list[list[Any]] = [[_boxes(cell) if k else [] for cell in row] for k, row in enumerate(cells)]
    segms = [[[row["segmentation"] for row in cell if "segmentation" in row] for cell in k] for k in cells]
    keyps = [[[_keypoints(row) for row in cell if "keypoints" in row] for cell in k] for k in cells]
    return {"all_boxes": boxes, "all_segms": segms, "all_keyps": keyps, "cfg": config_yaml}


def unpack_detections(
    content: Mapping[str, Any],
    *,
    image_ids: Sequence[int],
    class_info: ClassInfo,
    source: str,
    keypoint_confidence: str = "bbox",
) -> list[Row]:
    """The inverse of `pack_detections`, for files of ours and of Detectron.

    Keypoints are ranked by what `keypoint_confidence` names (KRCNN.KEYPOINT_CONFIDENCE: bbox, logit or prob).

    Raises:
        DataError: if the file counts other classes or images than the data set, or has no logits to rank by.
    """
    place = {"bbox": None, "logit": 2, "prob": 3}[keypoint_confidence]
    boxes, segms, keyps = content["all_boxes"], content["all_segms"], content["all_keyps"]
    order = sorted(image_ids)
    if len(boxes) != len(class_info) + 1 or any(len(row) != len(order) for row in boxes[1:]):
        counted = f"{len(boxes) - 1} classes and {len(boxes[-1]) if boxes else 0} images"
        raise DataError(
            f"{source} holds detections of {counted}, but the data set has {len(class_info)} classes and "
            f"{len(order)} images; name the data set that was tested."
        )
    rows: list[Row] = []
    for label in range(1, len(boxes)):
        for i, image_id in enumerate(order):
            found = np.asarray(boxes[label][i], dtype=np.float64).reshape(-1, 5)
            for n, (x1, y1, x2, y2, score) in enumerate(found.tolist()):
                row: Row = {
                    "image_id": image_id,
                    "label": label,
                    "category_id": class_info.category_ids[label - 1],
                    "category_name": class_info.names[label - 1],
                    "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1],
                    "score": score,
                }
                if segms[label] and segms[label][i]:
                    row["segmentation"] = _text_rle(segms[label][i][n])
                if keyps[label] and len(keyps[label][i]):
                    points = np.asarray(keyps[label][i][n], dtype=np.float64)
                    if place is not None:
                        row["keypoint_score"] = _mean_confidence(points[place], keypoint_confidence, source)
                    row["keypoints"] = points[[0, 1, 3]].T.reshape(-1).tolist()
                    if not np.isnan(points[2]).any():  # rows of another system's file have none
                        row["keypoint_logits"] = points[2].tolist()
                rows.append(row)
    return rows


def detections_pickle(content: Mapping[str, Any]) -> bytes:
    """The bytes of detections.pkl, which Detectron can read too."""
    return dump_pickle(dict(content))


def read_detections_pickle(path: Path) -> dict[str, Any]:
    """The content of a detections.pkl.

    Raises:
        DataError: if the file is anything else.
    """
    content = load_pickle(path, what="file of detections", error=DataError)
    missing = [key for key in ("all_boxes", "all_segms", "all_keyps") if key not in dict_of(content)]
    if missing:
        raise DataError(f"{path}: this is no detections.pkl of Detectron: it has no {', '.join(missing)}.")
    return dict_of(content)


def dict_of(value: Any) -> dict[str, Any]:
    """The value if it is a dictionary, else an empty one."""
    return value if isinstance(value, dict) else {}


def task_rows(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """What COCO's server takes, by the name that Detectron's file begins with; only tasks with detections.

    The third number of a keypoint is 1, as Detectron wrote it; the server does not look at it. The score of keypoints
    is `keypoint_score` where a row has one.
    """
    out: dict[str, list[Row]] = {}
    for row in rows:
        shared = {key: row[key] for key in ("image_id", "category_id", "score")}
        for task, name in TASK_FILES.items():
            if task not in row:
                continue
            value = row[task]
            if task == "keypoints":
                value = [1 if i % 3 == 2 else v for i, v in enumerate(value)]
                shared = shared | {"score": row.get("keypoint_score", row["score"])}
            out.setdefault(name, []).append(shared | {task: value})
    return out


def _boxes(cell: Sequence[Row]) -> np.ndarray:
    table = [(*row["bbox"], row["score"]) for row in cell]
    boxes = np.asarray(table, dtype=np.float64).reshape(-1, 5)
    boxes[:, 2:4] += boxes[:, :2] - 1
    return boxes.astype(np.float32)


def _keypoints(row: Row) -> np.ndarray:
    x, y, probability = np.asarray(row["keypoints"], dtype=np.float32).reshape(-1, 3).T
    logits = row.get("keypoint_logits")
    logit = np.full_like(x, np.nan) if logits is None else np.asarray(logits, dtype=np.float32)
    return np.stack((x, y, logit, probability))


def _mean_confidence(values: np.ndarray, confidence: str, source: str) -> float:
    if np.isnan(values).any():
        raise DataError(
            f"{source} has no {confidence}s of keypoints, by which KRCNN.KEYPOINT_CONFIDENCE={confidence} would rank "
            "them; set it to bbox."
        )
    return float(values.mean())


def _text_rle(rle: Mapping[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}
