"""Two and more gloo processes on the CPU: the numbers of one process with the whole batch, and all end together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import Processes

from detectune.data.proposal_files import Proposals, proposals_to_bytes
from detectune.data.shapes import make_shapes
from detectune.engine.distributed import ALONE, check_devices, joined, share_outputs, to_common_shape
from detectune.engine.launching import LOST, judge
from detectune.engine.run_directory import RunDirectory
from detectune.engine.testing import merge_parts
from detectune.errors import DataError, UserError
from detectune.structures import Batch, Detections, ImageBatch, ImageInfo, Targets
from detectune.weights.native import load_weights


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes(tmp_path_factory.mktemp("answers")) as started:
        yield started


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_weights(run_dir / "model_final.safetensors")[0]


def losses_of(run_dir: Path, rows: slice = slice(None)) -> list[float]:
    """Every loss and gradient norm of the training rows, in order."""
    found = [row for row in RunDirectory(run_dir).read_metrics() if row["kind"] == "train"][rows]
    names = sorted(name for name in found[0] if name.startswith("loss") or name == "gradient_norm")
    return [row[name] for row in found for name in names]


def assert_same_run(one: Path, other: Path) -> None:
    """Losses, gradients and final weights agree to 1e-5; a difference of rounding only."""
    assert losses_of(other) == pytest.approx(losses_of(one), rel=1e-5)
    for name, value in weights_of(one).items():
        torch.testing.assert_close(weights_of(other)[name], value, rtol=1e-5, atol=1e-6, msg=name)


EVERYTHING = {
    "TRAIN__LOG_ITERS": 1, "SOLVER__ACCUMULATE": 2, "SOLVER__CLIP_GRADIENT_NORM": 0.1, "SOLVER__EMA_DECAY": 0.9,
    "TRAIN__EVAL_ITERS": 5, "SOLVER__REFERENCE_BATCH": 8,
}  # fmt: skip


@pytest.mark.parametrize(("size", "images"), [(2, 2), (4, 1)])
def test_several_processes_equal_one_with_the_whole_batch(
    processes: Processes, tmp_path: Path, size: int, images: int
) -> None:
    changes = EVERYTHING | {"TRAIN__IMS_PER_BATCH": 4}
    whole = processes.run("tiny", size=1, out=str(tmp_path / "whole"), changes=changes, hooks=[])
    changes |= {"TRAIN__IMS_PER_BATCH": images}
    parts = processes.run("tiny", size=size, out=str(tmp_path / "parts"), changes=changes, hooks=[])
    assert all(part["iterations"] == whole[0]["iterations"] for part in parts)
    assert all(part["metrics"] == parts[0]["metrics"] for part in parts) and "val/loss" in parts[0]["metrics"]
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert parts[0]["said"] and not any(part["said"] for part in parts[1:])
    assert f"NUM_GPUS: {size}" in (tmp_path / "parts" / "config.yaml").read_text()
    rows = RunDirectory(tmp_path / "parts").read_metrics()
    assert next(row["epoch"] for row in rows if row["kind"] == "train") == pytest.approx(8 / 10)


def test_a_run_is_continued_exactly_also_by_another_number_of_processes(
    processes: Processes, tmp_path: Path
) -> None:
    def run(out: str, size: int, images: int, hooks: list[Any]) -> list[dict[str, Any]]:
        changes = EVERYTHING | {"TRAIN__IMS_PER_BATCH": images}
        return processes.run("tiny", size=size, out=str(tmp_path / out), changes=changes, hooks=hooks)

    run("whole", 2, 2, [])
    crash = [(0, 9, "crash")]
    for out in ("same", "fewer", "refused"):
        cut = run(out, 2, 2, crash)
        assert cut[0]["error"] == "ConnectionAbortedError" and cut[1]["error"] == "ProcessLostError"
    run("same", 2, 2, [])
    final = [(tmp_path / name / "model_final.safetensors").read_bytes() for name in ("whole", "same")]
    assert final[0] == final[1]
    said = run("fewer", 1, 4, [])[0]["said"]
    assert any("iteration 8" in line for line in said)
    assert_same_run(tmp_path / "whole", tmp_path / "fewer")
    refused = run("refused", 1, 2, [])[0]
    assert refused["error"] == "UserError" and "NUM_GPUS was 2, is 1" in refused["message"]


def test_a_killed_process_ends_the_others(processes: Processes, tmp_path: Path) -> None:
    answers = processes.run("tiny", size=3, out=str(tmp_path), changes={}, hooks=[(1, 6, "kill")])
    assert answers[1] == {}
    assert [answers[rank]["error"] for rank in (0, 2)] == ["ProcessLostError"] * 2
    assert (tmp_path / "checkpoints/iter_0000005.pt").exists()


def test_what_stops_one_process_stops_all_and_is_told_once(processes: Processes, tmp_path: Path) -> None:
    def run(name: str, **arguments: Any) -> list[dict[str, Any]]:
        known: dict[str, Any] = {"changes": {"TRAIN__SNAPSHOT_ITERS": 1000}, "hooks": []}
        return processes.run("tiny", size=2, out=str(tmp_path / name), **(known | arguments))

    bad = run("poisoned", hooks=[(1, 5, "poison")])
    assert [answer["error"] for answer in bad] == ["NonFiniteLossError"] * 2
    assert [answer["told"] for answer in bad] == [False, True], "the process with the loss tells of it"
    assert "photo_5_2.jpg" in bad[1]["message"] and "photo_5_0.jpg" not in bad[1]["message"]

    broken = run("broken", broken=(1, 3))
    assert [(answer["error"], answer["told"]) for answer in broken] == [
        ("DataError", False),
        ("DataError", True),
    ]
    assert [path.name for path in (tmp_path / "broken/checkpoints").glob("*.pt")] == ["iter_0000003.pt"]

    ended = run("ended", hooks=[(1, 7, "terminate")])
    assert [answer["error"] for answer in ended] == ["TrainingInterruptedError"] * 2
    assert all("SIGTERM after iteration 7" in answer["message"] for answer in ended)
    assert (tmp_path / "ended/checkpoints/iter_0000007.pt").exists()

    stopped = run("stopped", hooks=[(1, 4, "stop")])
    assert [(answer["iterations"], answer["stopped"]) for answer in stopped] == [
        (4, "process 1 has seen enough")
    ] * 2
    assert (tmp_path / "stopped/model_final.safetensors").exists()

    with RunDirectory(tmp_path / "held").held():
        held = run("held")
    assert [answer["error"] for answer in held] == ["OutputError"] * 2
    assert [answer["told"] for answer in held] == [True, False]


SMALL = {
    "TRAIN.DATASETS": ["mine"], "TEST.DATASETS": ["mine"], "TRAIN.SCALES": [64, 80, 96], "TEST.SCALE": 96,
    "RESNETS.WIDTH_MULTIPLIER": 0.125, "FPN.DIM": 16, "FAST_RCNN.MLP_HEAD_DIM": 32, "MRCNN.DIM_REDUCED": 16,
    "TRAIN.RPN_POST_NMS_TOP_N": 50, "TEST.RPN_POST_NMS_TOP_N": 20, "TRAIN.BATCH_SIZE_PER_IM": 32,
    "TRAIN.RPN_BATCH_SIZE_PER_IM": 32, "SOLVER.MAX_ITER": 5, "TRAIN.EVAL_ITERS": 0, "TRAIN.LOG_ITERS": 1,
    "DATA_LOADER.NUM_THREADS": 0, "MODEL.DEVICE": "cpu", "TEST.IMS_PER_BATCH": 2, "TRAIN.ASPECT_GROUPING": False,
    "RESNETS.NORM": "group", "GROUP_NORM.NUM_GROUPS": 4, "SOLVER.OPTIMIZER": "sgd", "SOLVER.BASE_LR": 0.01,
    "SOLVER.PRECISION": "fp32",
}  # fmt: skip


def make_proposals(annotations: Path) -> None:
    """A file of proposals for the images of `annotations`, of very different numbers."""
    rng = np.random.default_rng(3)
    ids = [image["id"] for image in json.loads(annotations.read_text())["images"]]
    boxes = []
    for number in range(len(ids)):
        low = rng.uniform(0, 60, (40 + 60 * number, 2))
        boxes.append(np.concatenate((low, low + rng.uniform(10, 34, low.shape)), 1).astype(np.float32))
    scores = [np.linspace(1, 0, len(own), dtype=np.float32) for own in boxes]
    content = proposals_to_bytes(Proposals(ids, boxes, scores), ".pkl")
    annotations.with_name(FREE).write_bytes(content)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a narrow Mask R-CNN on six images, of three sizes in training."""
    paths = make_shapes(
        tmp_path_factory.mktemp("shapes"), split="train", num_images=6, image_size=(96, 96), seed=1
    )
    make_proposals(paths.annotations)
    return SMALL | {
        "DATASETS": {"mine": {"images": str(paths.images), "annotations": str(paths.annotations)}}
    }


FREE = "proposals.pkl"  # made beside the images
POSES = {
    "MODEL.MASK_ON": False, "MODEL.KEYPOINTS_ON": True,
    "KRCNN.ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_roi_pose_head_v1convX", "KRCNN.NUM_STACKED_CONVS": 1,
    "KRCNN.CONV_HEAD_DIM": 16, "KRCNN.CONV_HEAD_KERNEL": 3, "KRCNN.OKS_SIGMAS": [0.1, 0.1, 0.1],
    "KRCNN.ROI_XFORM_METHOD": "RoIAlign", "KRCNN.ROI_XFORM_RESOLUTION": 7, "KRCNN.ROI_XFORM_SAMPLING_RATIO": 2,
    "KRCNN.USE_DECONV_OUTPUT": True, "KRCNN.UP_SCALE": 2, "KRCNN.HEATMAP_SIZE": 28,
    "KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH": 0,
}  # fmt: skip
BOXES = {"MODEL.MASK_ON": False}
RETINANET = BOXES | {
    "MODEL.TYPE": "retinanet", "MODEL.FASTER_RCNN": False, "RETINANET.RETINANET_ON": True, "RPN.RPN_ON": False,
    "FPN.MULTILEVEL_ROIS": False, "FPN.RPN_MIN_LEVEL": 3, "FPN.RPN_MAX_LEVEL": 5, "FPN.COARSEST_STRIDE": 32,
    "RETINANET.NUM_CONVS": 1,
}  # fmt: skip
C5 = BOXES | {
    "MODEL.CONV_BODY": "ResNet.add_ResNet18_conv5_body", "FPN.FPN_ON": False, "FPN.MULTILEVEL_ROIS": False,
    "FPN.MULTILEVEL_RPN": False, "RPN.SIZES": [16, 32, 64], "RESNETS.RES5_DILATION": 2,
}  # fmt: skip
FAMILIES = {
    "Mask R-CNN, detectron": {"MODEL.GEOMETRY": "detectron"},
    "Mask R-CNN, detectron2": {"MODEL.GEOMETRY": "detectron2"},
    "Mask R-CNN, torchvision": {"MODEL.GEOMETRY": "torchvision"},
    "keypoints, detectron": POSES | {"MODEL.GEOMETRY": "detectron"},
    "keypoints, torchvision": POSES | {"MODEL.GEOMETRY": "torchvision"},
    "keypoints by regions": POSES
    | {
        "KRCNN.NORMALIZE_BY_VISIBLE_KEYPOINTS": False,
        "KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH": 5,  # 8 and 6 in the whole batches, less in a part
    },
    "RetinaNet, detectron": RETINANET | {"MODEL.GEOMETRY": "detectron"},
    "RetinaNet, detectron2": RETINANET | {"MODEL.GEOMETRY": "detectron2"},
    "RetinaNet, torchvision": RETINANET | {"MODEL.GEOMETRY": "torchvision"},
    "cascade": BOXES | {"MODEL.CASCADE_ON": True, "MODEL.CLS_AGNOSTIC_BBOX_REG": True},
    "R-FCN": C5 | {"MODEL.TYPE": "rfcn"},
    "proposals": BOXES | {"MODEL.RPN_ONLY": True},
    "Fast R-CNN": BOXES | {"MODEL.FASTER_RCNN": False, "RPN.RPN_ON": False, "TRAIN.PROPOSAL_FILES": [FREE]},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_equal_one(
    processes: Processes, root: Path, small: dict[str, Any], tmp_path: Path, family: str
) -> None:
    """Every loss with its own way to be divided, and every draw, for parts of unequal content."""
    config = str(root / "configs/getting_started/shapes.yaml")
    settings = small | {"SOLVER.MAX_ITER": 2, "TEST.DATASETS": []} | FAMILIES[family]
    if settings.get("TRAIN.PROPOSAL_FILES"):
        settings["TRAIN.PROPOSAL_FILES"] = [
            str(Path(small["DATASETS"]["mine"]["annotations"]).with_name(FREE))
        ]
    for name, size, images in (("one", 1, 4), ("two", 2, 2)):
        changes = settings | {"TRAIN.IMS_PER_BATCH": images}
        answers = processes.run("train", size=size, out=str(tmp_path / name), config=config, changes=changes)
        assert not any("error" in answer for answer in answers), answers
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_a_test_finds_the_same_with_any_number_of_processes(
    processes: Processes, root: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    config = str(root / "configs/getting_started/shapes.yaml")
    changes = small | {"SOLVER.MAX_ITER": 2, "TRAIN.IMS_PER_BATCH": 2, "TEST.SCORE_THRESH": 0.0}
    processes.run("train", size=1, out=str(tmp_path), config=config, changes=changes)
    weights = str(tmp_path / "model_final.safetensors")
    found = {}
    for size in (1, 2, 3):
        out = str(tmp_path / str(size))
        answers = processes.run("test", size=size, out=out, config=config, changes=changes, weights=weights)
        files = tmp_path / str(size) / "evaluation" / "mine"
        found[size] = (files / "detections.json").read_text()
        assert all(answer["metrics"] == answers[0]["metrics"] for answer in answers)
        assert json.loads((files / "metrics.json").read_text())["num_images"] == 6
    assert found[1] == found[2] == found[3] and len(json.loads(found[1])) > 6

    known: dict[str, Any] = {"config": config, "changes": changes, "weights": weights, "out": str(tmp_path)}
    processes.run("test", size=1, **known, records=(2, 5))
    some = json.loads((tmp_path / "evaluation" / "mine" / "metrics.json").read_text())
    assert some["num_images"] == 3 and 0 < some["num_detections"] < len(json.loads(found[1]))
    nothing = processes.run("test", size=1, **known, records=(6, 9))[0]
    assert nothing["error"] == "DataError" and "no images in the range 6 to 9" in nothing["message"]


def test_an_image_tested_twice_is_named() -> None:
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    first, second = (ImageInfo(number, f"photo_{number}.jpg", 8, 8) for number in (1, 2))
    assert list(merge_parts([[(first, none)], [(second, none)]])) == [1, 2]
    with pytest.raises(DataError, match=r"photo_2.jpg \(id 2\) was tested twice"):
        merge_parts([[(first, none), (second, none)], [(second, none)]])


def test_padding_to_a_common_shape_changes_no_content() -> None:
    pixels = torch.arange(24, dtype=torch.uint8).view(1, 3, 2, 4)
    targets = Targets(
        torch.ones(1, 1, 4), torch.ones(1, 1, dtype=torch.int64), torch.zeros(1, 1).bool(),
        torch.ones(1, 1).bool(), torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, dtype=torch.int64),
        keypoints=torch.ones(1, 1, 5, 3),
    )  # fmt: skip
    batch = Batch(ImageBatch(pixels, torch.tensor([[2, 4]]), (ImageInfo(1, "a", 2, 4),)), targets)
    padded = to_common_shape(batch, 5, 6, 3)
    assert padded.images.tensor.shape == (1, 3, 5, 6) and torch.equal(
        padded.images.tensor[..., :2, :4], pixels
    )
    assert int(padded.images.tensor.sum()) == int(pixels.sum())
    assert padded.targets is not None and padded.targets.edges is not None
    assert padded.targets.boxes.shape == (1, 3, 4) and padded.targets.edges.shape == (1, 3, 3, 4)
    assert padded.targets.valid.tolist() == [[True, False, False]]
    assert padded.targets.keypoints is not None and padded.targets.keypoints.shape == (1, 3, 5, 3)
    assert to_common_shape(batch, 2, 4, 1).images.tensor is pixels
    without = to_common_shape(Batch(batch.images), 5, 6, 3)
    assert without.targets is None


def test_alone_nothing_is_combined() -> None:
    loss = torch.tensor(2.0, requires_grad=True)
    returned = {"loss_cls": loss, "count_cls": torch.tensor(3), "stat_x": torch.tensor(1.0)}
    losses, values = share_outputs(returned, ALONE)
    assert losses["loss_cls"] is loss and set(values) == {"loss_cls", "stat_x"}
    with joined(device="cpu", num_processes=1) as team:
        assert team is ALONE


def test_more_devices_than_there_are_and_a_program_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="NUM_GPUS=2 needs as many processes: run `detectune train`"):
        joined(device="cpu", num_processes=2).__enter__()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"NUM_GPUS=4, but this machine has 1 GPU: set NUM_GPUS=1"):
        check_devices("auto", 4)
    with pytest.raises(UserError, match=r"MODEL.DEVICE=cuda:0 names one GPU, but 2 processes"):
        check_devices("cuda:0", 2)
    check_devices("cuda:0", 1)
    check_devices("cpu", 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no GPU that torch can use"):
        check_devices("auto", 2)


@pytest.mark.parametrize(
    ("codes", "told", "code"),
    [
        (
            {0: LOST, 1: -9},
            "Process 1 was ended by the system with SIGKILL, most often for lack of memory",
            1,
        ),
        ({0: -15, 1: -11, 2: LOST}, "Process 1 was ended by the system with SIGSEGV;", 1),
        ({0: 2, 1: 2}, "", 2),
        ({0: LOST, 1: 2}, "", 2),
        ({0: 1, 1: LOST, 2: -15}, "", 1),
        ({0: 143, 1: 143}, "", 143),
        ({0: LOST, 1: LOST}, "lost touch", 1),
        ({0: LOST, 1: -15}, "SIGTERM", 143),
    ],
)
def test_how_processes_ended_is_judged_by_the_cause(codes: dict[int, int], told: str, code: int) -> None:
    message, judged = judge(codes)
    assert judged == code and (told in message if told else message == "")
