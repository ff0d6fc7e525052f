"""What the lines of tools/ share: whose geometry, which weights, how several models become one picture."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hotcoco import mask as coco_mask

from detectune.cli.original import existing_weights, load, original_folder, wait_for
from detectune.cli.original_infer import combine, find_images, visible
from detectune.engine.inference import Predictor
from detectune.errors import UserError
from detectune.structures import ClassInfo, Detections, ImageBatch
from detectune.weights.native import save_weights

COCO = ClassInfo(("person", "dog"), (1, 18))
PERSON = ClassInfo(("person",), (1,), keypoint_names=("nose",), keypoint_skeleton=())


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    file = tmp_path / "a.yaml"
    file.write_text("NUM_GPUS: 1\n")
    return file


def test_the_geometry_is_detectrons_unless_somebody_says_otherwise(yaml: Path, tmp_path: Path) -> None:
    assert load(str(yaml), []).config.MODEL.GEOMETRY == "detectron"
    assert load(str(yaml), ["MODEL.GEOMETRY", "torchvision"]).config.MODEL.GEOMETRY == "torchvision"
    weights = tmp_path / "model_final.safetensors"
    save_weights(weights, {"w": torch.zeros(1)}, {"geometry": "torchvision"})
    assert load(str(yaml), [], weights=str(weights)).config.MODEL.GEOMETRY == "torchvision"
    old_name = str(weights.with_suffix(".pkl"))
    assert load(str(yaml), ["TEST.WEIGHTS", old_name]).config.MODEL.GEOMETRY == "torchvision"
    yaml.write_text("MODEL: {GEOMETRY: detectron2}\n")  # even though it is the default
    assert load(str(yaml), [], weights=str(weights)).config.MODEL.GEOMETRY == "detectron2"


def test_weights_under_their_old_name_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = tmp_path / "model_final.safetensors"
    assert existing_weights(str(tmp_path / "model_final.pkl")) == tmp_path / "model_final.pkl"
    ours.touch()
    assert existing_weights(str(tmp_path / "model_final.pkl")) == ours
    assert "model_final.safetensors" in capsys.readouterr().err
    (tmp_path / "model_final.pkl").touch()
    assert existing_weights(str(tmp_path / "model_final.pkl")) == tmp_path / "model_final.pkl"


def test_folders_are_detectrons(yaml: Path) -> None:
    config = load(str(yaml), ["OUTPUT_DIR", "/out", "MODEL.TYPE", "generalized_rcnn"]).config
    folder = original_folder(config, ["coco_2014_train", "coco_2014_valminusminival"], training=True)
    assert folder == Path("/out/train/coco_2014_train:coco_2014_valminusminival/generalized_rcnn")
    assert original_folder(config, ["a"], training=False) == Path("/out/test/a/generalized_rcnn")


def test_waiting_ends_when_the_file_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, naps = tmp_path / "model.pkl", []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            file.touch()

    monkeypatch.setattr("detectune.cli.original.time.sleep", nap)
    wait_for(file, seconds=0.5)
    assert naps == [0.5] * 3


def test_wait_is_a_flag_or_takes_an_answer(root: Path) -> None:
    with_answers = runpy.run_path(str(root / "tools/test_net.py"))["with_answers"]
    assert with_answers(["--wait", "TEST.WEIGHTS", "w"]) == ["--wait=true", "TEST.WEIGHTS", "w"]
    assert with_answers(["--wait", "false", "--vis"]) == ["--wait", "false", "--vis"]
    assert with_answers(["--vis", "--wait"]) == ["--vis", "--wait"]  # argparse knows what it means at the end


def found(boxes: list[list[float]], labels: list[int], **more: object) -> Detections:
    return Detections(
        torch.tensor(boxes).reshape(-1, 4), torch.linspace(0.9, 0.1, len(labels)), torch.tensor(labels), **more
    )  # fmt: skip


def rle(pixels: int) -> dict[str, object]:
    canvas = np.zeros((6, 6), dtype=np.uint8, order="F")
    canvas[0, :pixels] = 1
    return coco_mask.encode(canvas)


def test_models_of_other_classes_meet_by_name_and_overlap() -> None:
    """Boxes of the last model; masks of the first and keypoints of the second go to the boxes they belong to."""
    masks = found(
        [[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 10]], [1, 2, 2], rles=[rle(1), rle(2), rle(3)]
    )
    points = torch.tensor([[[5.0, 5.0, 7.0, 0.5]]])
    persons = found([[1, 0, 10, 10]], [1], keypoints=points)
    last = found([[0, 0, 10, 9], [20, 21, 30, 30], [50, 50, 60, 60]], [1, 2, 1])
    merged, info = combine([(masks, COCO), (persons, PERSON), (last, COCO)])
    assert merged.boxes.equal(last.boxes) and merged.labels.equal(last.labels)
    areas = [coco_mask.area(r) for r in merged.rles]
    assert areas == [1, 2, 0]
    assert merged.keypoints[0].equal(points[0])
    assert info.names == COCO.names and info.keypoint_names == ("nose",)
    seen = visible(merged, thresh=0.0, kp_thresh=2.0)
    assert (seen.keypoints[:, 0, 2] > 0).tolist() == [True, False, False]


def test_one_model_or_empty_finds_stay_as_they_are() -> None:
    nothing = found([], [])
    assert combine([(nothing, COCO)])[0] is nothing
    with_mask = found([[0, 0, 5, 5]], [1], rles=[rle(2)])
    assert combine([(nothing, PERSON), (with_mask, COCO)])[0].rles == with_mask.rles
    merged, _ = combine([(with_mask, COCO), (nothing, COCO)])
    assert len(merged) == 0 and merged.rles == []


def test_points_of_small_logits_are_not_drawn() -> None:
    points = torch.tensor([[[5.0, 5.0, 1.5, 0.5], [1.0, 1.0, 2.5, 0.5]]])
    given = found([[0, 0, 10, 10]], [1], keypoints=points)
    seen = visible(given, thresh=0.5, kp_thresh=2.0)
    assert (seen.keypoints[0, :, 2] > 0).tolist() == [False, True]
    assert given.keypoints.equal(torch.tensor([[[5.0, 5.0, 1.5, 0.5], [1.0, 1.0, 2.5, 0.5]]]))
    assert len(visible(given, thresh=0.95, kp_thresh=2.0)) == 0


def test_images_are_found_by_their_ending(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.jpg", "c.png"):
        (tmp_path / name).touch()
    assert [path.name for path in find_images(tmp_path, "jpg")] == ["a.jpg", "b.jpg"]
    assert find_images(tmp_path / "c.png", "jpg") == [tmp_path / "c.png"]
    with pytest.raises(UserError, match=r"\*\.bmp"):
        find_images(tmp_path, ".bmp")
    with pytest.raises(UserError, match="absent"):
        find_images(tmp_path / "absent", "jpg")


def test_given_proposals_reach_the_network_in_its_own_pixels(yaml: Path) -> None:
    seen: list[ImageBatch] = []

    class Seeing(torch.nn.Linear):
        def predict(self, images: ImageBatch) -> list[Detections]:
            seen.append(images)
            return [found([], [])]

    words = ["TEST.SCALE", "20", "TEST.MAX_SIZE", "40", "MODEL.NUM_CLASSES", "3", "MODEL.DEVICE", "cpu"]
    predictor = Predictor(load(str(yaml), words).config, model=Seeing(1, 1))
    image = np.zeros((10, 12, 3), dtype=np.uint8)
    predictor(image, torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 9.0, 9.0]]))
    images = seen[0]
    assert images.proposals.tolist() == [[[2.0, 4.0, 6.0, 8.0], [0.0, 0.0, 18.0, 18.0]]]
    assert images.proposals_valid.tolist() == [[True, True]]
    predictor(image)
    assert seen[1].proposals is None
