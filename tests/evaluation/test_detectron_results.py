"""detections.pkl: its layout, and that nothing is lost on the way there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detectune.errors import DataError
from detectune.evaluation.detectron_results import (
    detections_pickle,
    pack_detections,
    read_detections_pickle,
    task_rows,
    unpack_detections,
)
from detectune.pickles import dump_pickle
from detectune.structures import ClassInfo

INFO = ClassInfo(("person", "bicycle"), (1, 7), keypoint_names=("nose", "ear"))


def row(image_id: int, label: int, bbox: list[float], score: float, **more: Any) -> dict[str, Any]:
    return {
        "image_id": image_id, "label": label, "category_id": INFO.category_ids[label - 1],
        "category_name": INFO.names[label - 1], "bbox": bbox, "score": score, **more,
    }  # fmt: skip


ROWS = [
    row(5, 1, [1.0, 2.0, 10.0, 4.0], 0.75, segmentation={"size": [8, 9], "counts": "04h1"},
        keypoints=[1.0, 2.0, 0.5, 4.0, 5.0, 0.25], keypoint_logits=[3.5, -1.5]),
    row(3, 2, [0.5, 0.5, 1.0, 1.0], 0.5, segmentation={"size": [8, 9], "counts": "0h2"},
        keypoints=[0.0] * 6, keypoint_logits=[0.0, 1.0]),
    row(5, 1, [0.0, 0.0, 2.0, 2.0], 0.25, segmentation={"size": [8, 9], "counts": "1h1"},
        keypoints=[9.0] * 6, keypoint_logits=[0.125, 0.125]),
]  # fmt: skip


def through_a_file(rows: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    content = pack_detections(rows, image_ids=[5, 3, 4], num_classes=3, config_yaml="NUM_GPUS: 1\n")
    path.write_bytes(detections_pickle(content))
    return read_detections_pickle(path)


def test_cells_are_classes_by_images_of_rising_id(tmp_path: Path) -> None:
    content = through_a_file(ROWS, tmp_path / "detections.pkl")
    boxes = content["all_boxes"]
    assert [len(images) for images in boxes] == [3, 3, 3] and boxes[0] == [[], [], []]
    # Inclusive corners: a box of 10 by 4 pixels at (1, 2) ends at (10, 5).
    assert boxes[1][2].tolist() == [[1, 2, 10, 5, 0.75], [0, 0, 1, 1, 0.25]]
    assert boxes[2][0].tolist() == [[0.5, 0.5, 0.5, 0.5, 0.5]]
    assert boxes[1][0].shape == (0, 5) and boxes[1][2].dtype == np.float32
    assert content["all_segms"][1][2] == [ROWS[0]["segmentation"], ROWS[2]["segmentation"]]
    assert content["all_keyps"][1][2][0].tolist() == [[1, 4], [2, 5], [3.5, -1.5], [0.5, 0.25]]
    assert content["cfg"] == "NUM_GPUS: 1\n"


def test_there_and_back(tmp_path: Path) -> None:
    content = through_a_file(ROWS, tmp_path / "detections.pkl")
    back = unpack_detections(content, image_ids=[3, 4, 5], class_info=INFO, source="detections.pkl")
    assert sorted(back, key=lambda r: -r["score"]) == ROWS


def test_boxes_alone_have_neither_masks_nor_keypoints(tmp_path: Path) -> None:
    bare = [{k: v for k, v in r.items() if k not in ("segmentation", "keypoints")} for r in ROWS]
    content = through_a_file(bare, tmp_path / "detections.pkl")
    assert content["all_segms"] == content["all_keyps"] == [[[], [], []]] * 3
    back = unpack_detections(content, image_ids=[3, 4, 5], class_info=INFO, source="x")
    assert len(back) == 3 and not any({"segmentation", "keypoints"} & set(r) for r in back)
    # Detectron leaves whole tasks empty as []: classes without a list of images.
    content |= {"all_segms": [[], [], []], "all_keyps": [[], [], []]}
    assert unpack_detections(content, image_ids=[3, 4, 5], class_info=INFO, source="x") == back


def test_other_data_sets_and_files_are_named(tmp_path: Path) -> None:
    content = through_a_file(ROWS, tmp_path / "detections.pkl")
    with pytest.raises(DataError, match="2 classes and 3 images, but the data set has 2 classes and 2"):
        unpack_detections(content, image_ids=[3, 4], class_info=INFO, source="detections.pkl")
    with pytest.raises(DataError, match="has 1 classes"):
        unpack_detections(content, image_ids=[3, 4, 5], class_info=ClassInfo(("a",), (1,)), source="x")
    (tmp_path / "other.pkl").write_bytes(dump_pickle({"blobs": {}}))
    with pytest.raises(DataError, match=r"other\.pkl.*no all_boxes, all_segms, all_keyps"):
        read_detections_pickle(tmp_path / "other.pkl")


def test_files_of_single_tasks_are_what_cocos_server_takes() -> None:
    tasks = task_rows([*ROWS, row(4, 1, [0.0, 0.0, 1.0, 1.0], 0.1)])
    assert {name: len(rows) for name, rows in tasks.items()} == {
        "bbox": 4,
        "segmentations": 3,
        "keypoints": 3,
    }
    assert tasks["keypoints"][0] == {
        "image_id": 5, "category_id": 1, "score": 0.75, "keypoints": [1.0, 2.0, 1, 4.0, 5.0, 1],
    }  # fmt: skip
    assert task_rows([]) == {}
