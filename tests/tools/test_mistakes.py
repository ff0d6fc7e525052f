"""What the lines say when something is wrong: one message, exit code 2, no traceback; and which words they take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detectune.data.coco import read_coco
from detectune.data.coco_names import COCO_CLASSES, COCO_PERSON
from detectune.errors import DataError
from detectune.pickles import dump_pickle, load_pickle
from detectune.weights.native import load_weights, save_weights

TOOLS = [
    "train_net", "test_net", "infer_simple", "infer", "reval", "visualize_results", "generate_testdev_from_test",
    "convert_cityscapes_to_coco", "convert_coco_model_to_cityscapes", "convert_selective_search",
    "pickle_caffe_blobs", "convert_pkl_to_pb",
]  # fmt: skip
MISTAKES = [
    ("train_net", ["--skip-test", "NUM_GPUS", "1"], "give --cfg FILE"),
    ("train_net", ["--cfg", "tiny.yaml", "SOLVER.BASE_LRR", "1"], "did you mean SOLVER.BASE_LR?"),
    ("train_net", ["--cfg", "tiny.yaml", "NUM_GPUS", "1", "--skip-test"], "before the first pair"),
    ("train_net", ["--cfg", "tinny.yaml"], "Did you mean tiny.yaml?"),
    ("test_net", ["--cfg", "tiny.yaml"], "add TEST.WEIGHTS FILE"),
    ("test_net", ["--cfg", "tiny.yaml", "TEST.WEIGHTS", "absent.pkl"], "no weights file absent.pkl"),
    ("test_net", ["--cfg", "tiny.yaml", "--range", "4", "2", "TEST.WEIGHTS", "absent.pkl"], "--range 4 2"),
    ("infer_simple", ["--cfg", "tiny.yaml", "photos"], "no weights"),
    ("infer_simple", ["--cfg", "tiny.yaml", "--wts", "absent.pkl", "photos"], "absent.pkl"),
    ("infer", ["--im", "a.jpg", "model.pkl"], "pairs WEIGHTS CFG"),
    ("infer", ["--im", "a.jpg", "--rpn-pkl", "rpn.pkl", "model.pkl", "tiny.yaml"], "belong together"),
    ("infer", ["--im", "a.jpg", "model.pkl", "tiny.yaml"], "no image a.jpg"),
    ("reval", ["absent", "--dataset", "tiny"], "neither detections.pkl nor detections.json"),
    ("visualize_results", ["--detections", "absent.pkl"], "absent.pkl"),
    ("generate_testdev_from_test", ["--output-dir", "."], "give --json FILE"),
    ("convert_cityscapes_to_coco", ["--dataset", "cityscapes_instance_only"], "--datadir FOLDER"),
    ("convert_coco_model_to_cityscapes", ["--coco_model", "a.pkl"], "--output FILE"),
    ("convert_coco_model_to_cityscapes", ["--coco_model", "a.pkl", "--output", "b.pth"], "must end in .pkl"),
    ("convert_selective_search", ["tiny", "absent.mat", "out.pkl", "--cfg", "tiny.yaml"], "absent.mat"),
    ("pickle_caffe_blobs", ["--prototxt", "a", "--caffemodel", "absent", "--output", "b"], "absent"),
    ("convert_pkl_to_pb", ["--cfg", "tiny.yaml"], "--out_dir FOLDER"),
    (
        "convert_pkl_to_pb",
        ["--cfg", "tiny.yaml", "--out_dir", "x", "TEST.WEIGHTS", "no.pkl"],
        "no file no.pkl",
    ),
]


@pytest.mark.parametrize(("name", "words", "said"), MISTAKES)
def test_a_mistake_is_one_message_and_exit_code_2(work: Path, tool, capsys, name, words, said) -> None:
    assert tool(name, *words, cwd=work) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_explains_itself(work: Path, tool, capsys, name: str) -> None:
    assert tool(name, "--help", cwd=work) == 0
    assert "usage" in capsys.readouterr().out
    assert tool(name, cwd=work) == 2
    assert "usage" in capsys.readouterr().err


def test_there_is_a_line_for_each_tool(root: Path) -> None:
    assert sorted(path.stem for path in (root / "tools").glob("*.py")) == sorted(TOOLS)


def test_debug_shows_the_traceback(work: Path, tool, capsys) -> None:
    assert tool("reval", "absent", "--debug", cwd=work) == 2
    assert "Traceback" in capsys.readouterr().err


def test_weights_for_cityscapes_keep_their_kind(work: Path, tool, tmp_path: Path) -> None:
    scores = np.arange(81 * 3, dtype=np.float32).reshape(81, 3)
    (tmp_path / "coco.pkl").write_bytes(
        dump_pickle({"blobs": {"cls_score_w": scores}, "cfg": "NUM_GPUS: 1\n"})
    )
    words = ("--convert_func", "cityscapes_to_coco_with_rider", "--output")
    name = "convert_coco_model_to_cityscapes"
    assert tool(name, "--coco_model", "coco.pkl", *words, "cs.pkl", cwd=tmp_path) == 0
    content = load_pickle(tmp_path / "cs.pkl")
    rows = [0, 2, 3, 1, 7, 8, 4, 6, 1]
    np.testing.assert_array_equal(content["blobs"]["cls_score_w"], scores[rows])
    assert content["cfg"] == "NUM_GPUS: 1\n"
    state = {"box_head.cls_score.weight": torch.from_numpy(scores), "rpn.conv.bias": torch.zeros(2)}
    save_weights(tmp_path / "coco.safetensors", state, {"format": "detectune", "classes": "{}"})
    assert tool(name, "--coco_model", "coco.safetensors", *words, "cs.safetensors", cwd=tmp_path) == 0
    state, metadata = load_weights(tmp_path / "cs.safetensors")
    np.testing.assert_array_equal(state["box_head.cls_score.weight"].numpy(), scores[rows])
    assert state["rpn.conv.bias"].shape == (2,) and "classes" not in metadata


def test_results_on_test_dev_are_picked(tool, tmp_path: Path) -> None:
    rows = [{"image_id": number, "score": 0.5} for number in (1, 2, 3, 2)]
    (tmp_path / "bbox.json").write_text(json.dumps(rows))
    (tmp_path / "info.json").write_text(json.dumps({"images": [{"id": 2}, {"id": 9}]}))
    words = ("--json", "bbox.json", "--output-dir", "out", "--test-dev", "info.json")
    assert tool("generate_testdev_from_test", *words, cwd=tmp_path) == 0
    assert json.loads((tmp_path / "out/bbox_test-dev.json").read_text()) == [rows[1], rows[3]]


def test_the_names_of_coco_are_those_of_its_files(shared: Path) -> None:
    folder = shared / "data/coco_mini"
    for kind, expected in (("instances", COCO_CLASSES), ("person_keypoints", COCO_PERSON)):
        _, info, _ = read_coco([folder / f"annotations/{kind}_val2017.json"], [folder / "val2017"])
        assert info == expected


def test_detections_of_other_data_are_named(work: Path, tool, capsys, tmp_path: Path) -> None:
    empty = {"all_boxes": [[], []], "all_segms": [[], []], "all_keyps": [[], []], "cfg": ""}
    (tmp_path / "detections.pkl").write_bytes(dump_pickle(empty))
    assert tool("reval", tmp_path, "--dataset", "tiny", "--cfg", "tiny.yaml", cwd=work) == 2
    assert "1 classes and 0 images" in capsys.readouterr().err
    with pytest.raises(DataError):
        load_pickle(tmp_path / "absent.pkl", error=DataError)
