"""Detectron's lines, one after the other as a user types them: train, test, evaluate again, look, export.

The first of them run in processes of their own. The tests of this file build on each other's files, in order.
"""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detectune.config.load import load_config
from detectune.models.build import build_detector
from detectune.pickles import dump_pickle, load_pickle
from detectune.weights.detectron import to_detectron
from detectune.weights.native import load_weights, save_weights

RUN = "out/train/tiny/generalized_rcnn"
TESTED = "out/test/tiny/generalized_rcnn"


@pytest.fixture(scope="module")
def trained(work: Path, line) -> Path:
    """The weights that train_net.py leaves."""
    done = line("train_net", "--cfg", "tiny.yaml", "SOLVER.MAX_ITER", "2", "NUM_GPUS", "1", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "Detectron's result files: " in done.stdout
    return work / RUN / "model_final.safetensors"


def test_train_net_trains_tests_and_writes_detectrons_files(trained: Path, work: Path) -> None:
    assert trained.is_file()
    assert "GEOMETRY: detectron\n" in (work / RUN / "config.yaml").read_text()
    content = load_pickle(work / TESTED / "detections.pkl")
    assert set(content) == {"all_boxes", "all_segms", "all_keyps", "cfg"}
    num_classes = len(json.loads((work / "data/annotations.json").read_text())["categories"]) + 1
    assert len(content["all_boxes"]) == len(content["all_segms"]) == num_classes
    assert all(len(images) == 6 for images in content["all_boxes"])
    assert all(cell == [] for cell in content["all_boxes"][0]), "the background has no boxes"
    found = np.concatenate([cell for images in content["all_boxes"][1:] for cell in images])
    assert found.shape[1] == 5 and len(found) > 0
    masks = sum(len(cell) for images in content["all_segms"] for cell in images)
    assert masks == len(found)
    rows = json.loads((work / TESTED / "bbox_tiny_results.json").read_text())
    assert len(rows) == len(found) and set(rows[0]) == {"image_id", "category_id", "bbox", "score"}
    assert (work / TESTED / "segmentations_tiny_results.json").is_file()


def test_test_net_finds_what_training_found(trained: Path, work: Path, line) -> None:
    before = load_pickle(work / TESTED / "detections.pkl")["all_boxes"]
    shutil.rmtree(work / "out/test")
    # The weights under their old name, as Detectron's users have it in their notes.
    weights = f"{RUN}/model_final.pkl"
    done = line(
        "test_net",
        "--cfg",
        "tiny.yaml",
        "--wait",
        "--vis",
        "TEST.WEIGHTS",
        weights,
        "NUM_GPUS",
        "1",
        cwd=work,
    )
    assert done.returncode == 0, done.stderr
    assert "model_final.safetensors" in done.stderr and "box" in done.stdout
    after = load_pickle(work / TESTED / "detections.pkl")["all_boxes"]
    for one, other in zip(before[1:], after[1:], strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_range_of_images_is_tested_alone(trained: Path, work: Path, tool) -> None:
    assert tool(
        "test_net", "--cfg", "tiny.yaml", "--range", "2", "4", "TEST.WEIGHTS", trained, "NUM_GPUS", "1", cwd=work
    ) == 0  # fmt: skip
    part = load_pickle(work / TESTED / "detection_range_2_4.pkl")["all_boxes"]
    whole = load_pickle(work / TESTED / "detections.pkl")["all_boxes"]
    for one, other in zip(part[1:], whole[1:], strict=True):
        assert len(one) == 2
        for a, b in zip(one, other[2:4], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)  # in other company the images are padded otherwise


def test_reval_repeats_the_numbers_from_the_pickle(trained: Path, work: Path, line) -> None:
    done = line("reval", TESTED, "--dataset", "tiny", "--comp", "--matlab", cwd=work)
    assert done.returncode == 0, done.stderr
    measured = json.loads((work / "out/test/evaluation/tiny/metrics.json").read_text())["metrics"]
    box, mask = (row.split() for row in done.stdout.splitlines() if row.startswith(("box ", "mask ")))
    assert box[1] == f"{measured['bbox/AP']:.3f}" and mask[1] == f"{measured['segm/AP']:.3f}"
    assert float(box[2]) == pytest.approx(measured["bbox/AP50"], abs=6e-4)


def test_saved_detections_are_drawn(trained: Path, work: Path, line) -> None:
    pickle = f"{TESTED}/detections.pkl"
    done = line(
        "visualize_results", "--dataset", "tiny", "--detections", pickle, "--thresh", "0.0", "--output-dir", "drawn",
        "--first", "2", cwd=work,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    drawn = sorted((work / "drawn/vis").iterdir())
    assert len(drawn) == 2
    truth = json.loads((work / "data/annotations.json").read_text())["images"][0]["file_name"]
    original = np.asarray(Image.open(work / "data/images" / truth).convert("RGB")).astype(int)
    assert abs(np.asarray(Image.open(drawn[0])).astype(int) - original).max() > 60, "something is drawn"


def test_infer_simple_draws_a_folder(trained: Path, work: Path, line, shared: Path) -> None:
    photos = work / "photos"
    photos.mkdir()
    for photo in sorted((shared / "data/detectron_demo").glob("*.jpg"))[:2]:
        Image.open(photo).reduce(8).save(photos / photo.name)
    (photos / "notes.txt").write_text("no image")
    done = line(
        "infer_simple", "--cfg", "tiny.yaml", "--output-dir", "photos_drawn", "--image-ext", "jpg", "--wts", trained,
        "--thresh", "0.0", "--output-ext", "png", "--kp-thresh", "1.5", photos, cwd=work,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    drawn = sorted(path.name for path in (work / "photos_drawn").iterdir())
    assert drawn == sorted(f"{photo.name}.png" for photo in photos.glob("*.jpg"))


def test_infer_takes_several_models(trained: Path, work: Path, tool) -> None:
    image = next((work / "photos").glob("*.jpg"))
    assert tool(
        "infer", "--im", image, "--output-dir", "models", trained, "tiny.yaml", trained, "tiny.yaml", cwd=work
    ) == 0  # fmt: skip
    assert (work / "models" / f"{image.name}.pdf").read_bytes().startswith(b"%PDF")


def test_weights_in_detectrons_own_file_find_the_same(trained: Path, work: Path, tool) -> None:
    state, _ = load_weights(trained)
    blobs = {name: value.numpy() for name, value in to_detectron(state).items()}
    cfg = "MODEL: {BBOX_REG_WEIGHTS: [10.0, 10.0, 5.0, 5.0]}\n"  # without it these would be a model of 2017
    (work / "detectron.pkl").write_bytes(dump_pickle({"blobs": blobs, "cfg": cfg}))
    image = next((work / "photos").glob("*.jpg"))
    for weights, folder in ((trained, "by_ours"), (work / "detectron.pkl", "by_theirs")):
        words = (
            "--cfg",
            "tiny.yaml",
            "--output-dir",
            folder,
            "--wts",
            weights,
            "--thresh",
            "0.0",
            "--output-ext",
            "png",
        )
        assert tool("infer_simple", *words, image, cwd=work) == 0
    ours, theirs = (np.asarray(Image.open(work / f / f"{image.name}.png")) for f in ("by_ours", "by_theirs"))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_the_detector_is_exported_and_checked(trained: Path, work: Path, tool, capsys, monkeypatch) -> None:
    monkeypatch.setattr("detectune.engine.export.has_onnx", lambda: False)  # tests/engine has ONNX
    image = next((work / "photos").glob("*.jpg"))
    assert tool(
        "convert_pkl_to_pb", "--cfg", "tiny.yaml", "--out_dir", "program", "--net_name", "net", "--test_img", image,
        "TEST.WEIGHTS", trained, cwd=work,
    ) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "Caffe2 and its .pb files are gone" in said and "5 objects; scores differ by at most" in said
    inputs = json.loads((work / "program/net.json").read_text())["inputs"]
    assert list(inputs) == ["image", "size", "scale"]
    program = torch.export.load(work / "program/net.pt2").module()
    found = program(torch.zeros(1, 3, 64, 90), torch.tensor([128, 180]), torch.tensor([0.5, 0.5]))
    assert list(found) == ["boxes", "scores", "labels", "masks"] and found["masks"].shape[1:] == (28, 28)


def test_proposals_of_one_network_serve_another(work: Path, tool, capsys) -> None:
    if find_spec("detectune.models.proposal_network") is None:
        pytest.skip("networks that only propose cannot be built")
    text = (work / "tiny.yaml").read_text().replace("MASK_ON: true", "MASK_ON: false")
    for name, kind in (("rpn", "RPN_ONLY: true"), ("fast", "FASTER_RCNN: false")):
        (work / f"{name}.yaml").write_text(text.replace("FASTER_RCNN: true", kind))
        config = load_config(work / f"{name}.yaml", ["MODEL.GEOMETRY=detectron"])
        torch.manual_seed(0)
        model = build_detector(config, num_classes=6)
        save_weights(work / f"{name}.safetensors", model.state_dict(), {"geometry": "detectron"})
    photo = next((work / "photos").glob("*.jpg"))
    networks = ("--rpn-pkl", "rpn.safetensors", "--rpn-cfg", "rpn.yaml")
    pair = ("fast.safetensors", "fast.yaml")
    assert tool("infer", "--im", photo, "--output-dir", "given", *networks, *pair, cwd=work) == 0
    assert (work / "given" / f"{photo.name}.pdf").is_file()
    assert tool("infer", "--im", photo, "--output-dir", "given", *pair, cwd=work) == 2
    assert "come without any" in capsys.readouterr().err
