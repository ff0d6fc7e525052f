"""Testing on data sets with rules of their own, and on proposals: what is measured and which files are left."""

from __future__ import annotations

import importlib.machinery
import json
import pickle
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hotcoco import mask as coco_mask
from PIL import Image
from torch import Tensor, nn

from detectune.cli.results import ap_table
from detectune.config.best_metric import check_best_metric
from detectune.config.load import load_config
from detectune.config.tree import Config
from detectune.data.formats import read_places
from detectune.data.loader import build_loader
from detectune.data.proposal_files import read_proposals
from detectune.data.shapes import DatasetPaths
from detectune.engine.dataset_evaluation import evaluate_dataset, uses_eleven_points
from detectune.engine.testing import test as run_test
from detectune.errors import DataError, UserError
from detectune.report.page import write_report
from detectune.structures import Detections, ImageBatch

OBJECTS = {
    "000001": [("dog", (1, 1, 20, 30), 0), ("cat", (30, 5, 58, 38), 0)],
    "000002": [("dog", (5, 5, 50, 35), 0), ("dog", (52, 2, 59, 12), 1)],
}
TRUTH = {1: [(12, [0, 0, 20, 30]), (8, [29, 4, 58, 38])], 2: [(12, [4, 4, 50, 35])]}


class Told(nn.Module):
    """A detector that is told what to find: {image id: [(label, box)]}, original frame, continuous."""

    def __init__(self, boxes: dict[int, list[tuple[int, list[float]]]], *, inclusive: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.boxes = boxes
        self.inclusive = inclusive

    def predict(self, images: ImageBatch) -> list[Detections]:
        found = []
        for info in images.infos:
            rows = self.boxes.get(info.image_id, [])
            boxes: Tensor = torch.tensor([box for _, box in rows], dtype=torch.float32).reshape(-1, 4)
            boxes = boxes - torch.tensor([0.0, 0, 1, 1]) * self.inclusive
            scale = torch.tensor([info.scale_x, info.scale_y] * 2)
            labels = torch.tensor([label for label, _ in rows], dtype=torch.int64)
            scores = torch.linspace(0.9, 0.5, len(rows)) if rows else torch.zeros(0)
            found.append(Detections(boxes * scale, scores, labels))
        return found


def make_kit(root: Path) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name, objects in OBJECTS.items():
        inside = "".join(
            f"<object><name>{n}</name><difficult>{d}</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
            f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
            for n, b, d in objects
        )
        (root / f"Annotations/{name}.xml").write_text(
            f"<annotation><size><width>60</width><height>40</height></size>{inside}</annotation>"
        )
        Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(root / f"JPEGImages/{name}.jpg")
    (root / "ImageSets/Main/test.txt").write_text("000001\n000002\n")


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_kit(tmp_path / "data/VOCdevkit/VOC2007")
    monkeypatch.setenv("DETECTUNE_DATA", str(tmp_path / "data"))
    return tmp_path


def config_of(**more) -> Config:
    keys = {
        "TEST.DATASETS": ["voc_2007_test"],
        "TEST.SCALE": 40,
        "TEST.MAX_SIZE": 100,
        "DATA_LOADER.NUM_THREADS": 0,
        "MODEL.DEVICE": "cpu",
    }
    return load_config(None, keys | more)


@pytest.mark.parametrize("dialect", ["detectron", "detectron2"])
def test_voc_by_its_own_rules(kit: Path, dialect: str):
    """The difficult dog is found too: VOC does not mind, COCO's rules count it as wrong."""
    found = {**TRUTH, 2: [(12, [51, 1, 59, 12]), *TRUTH[2]]}
    config = config_of(**{"MODEL.GEOMETRY": dialect})
    model = Told(found, inclusive=dialect == "detectron")
    metrics = run_test(config, output_dir=kit, model=model, log=lambda _: None)
    assert metrics == {"bbox/AP": 1.0, "bbox/AP50": 1.0, "bbox/AP75": 1.0}
    folder = kit / "evaluation/voc_2007_test"
    lines = (folder / "voc/comp4_det_test_dog.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["000001", "000002", "000002"]
    assert [float(v) for v in lines[0].split()[2:]] == pytest.approx([1, 1, 20, 30], abs=0.11)
    assert len(list((folder / "voc").iterdir())) == 20
    assert json.loads((folder / "metrics.json").read_text())["per_class"]["cat"]["bbox/AP50"] == 1
    assert "voc_2007_test, 2 images" in ap_table(kit)[0]

    by_coco = run_test(
        config.with_overrides({"TEST.FORCE_JSON_DATASET_EVAL": True}),
        output_dir=kit / "coco",
        model=model,
        log=lambda _: None,
    )
    assert by_coco["bbox/AP50"] < 1 and "bbox/AR100" in by_coco
    assert not (kit / "coco/evaluation/voc_2007_test/voc").exists()


def test_result_files_of_parallel_tests(kit: Path):
    config = config_of(**{"TEST.COMPETITION_MODE": False})
    for _ in range(2):
        run_test(config, output_dir=kit, model=Told(TRUTH, inclusive=False), log=lambda _: None)
    names = [path.name for path in (kit / "evaluation/voc_2007_test/voc").glob("*_dog.txt")]
    assert len(set(names)) == 2 and all(
        name.startswith("comp4_") and not name.startswith("comp4_det") for name in names
    )


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("voc_2007_test", "VOC2012", True),
        ("voc_2012_val", "VOC2007", False),
        ("mine", "VOC2007/ImageSets", True),
        ("mine", "VOC2012/ImageSets", False),
        ("mine", "data", False),
        ("mine", "20071234", False),
    ],
)
def test_year_of_the_rule(name: str, folder: str, expected: bool):
    place = DatasetPaths(Path("x"), Path(folder) / "test.txt", "voc")
    assert uses_eleven_points(name, place) is expected


PROPOSED = {1: [(1, [0, 0, 20, 30]), (1, [28, 4, 58, 38]), (1, [3, 3, 8, 8])], 2: [(1, [4, 4, 50, 35])]}


@pytest.mark.parametrize("dialect", ["detectron", "detectron2"])
def test_a_network_that_only_proposes(kit: Path, dialect: str):
    config = config_of(**{"MODEL.RPN_ONLY": True, "MODEL.GEOMETRY": dialect, "TEST.CLASS_SPECIFIC_AR": True})
    model = Told(PROPOSED, inclusive=dialect == "detectron")
    metrics = run_test(config, output_dir=kit, model=model, log=lambda _: None)
    assert metrics["proposal/AR10"] == 1
    assert metrics["proposal/class_AR1000"] > 0.9
    folder = kit / "evaluation/voc_2007_test"
    theirs = pickle.loads((folder / "rpn_proposals.pkl").read_bytes())
    assert theirs["ids"] == [1, 2] and "RPN_ONLY: true" in theirs["cfg"]
    np.testing.assert_allclose(theirs["boxes"][0][0], [0, 0, 19, 29], atol=1e-4)
    for suffix in (".pkl", ".npz"):
        got = read_proposals(folder / f"rpn_proposals{suffix}")
        np.testing.assert_allclose(got.boxes[1], [[4, 4, 49, 34]], atol=1e-4)
        np.testing.assert_allclose(got.scores[0], [0.9, 0.7, 0.5], atol=1e-6)
    written = json.loads((folder / "metrics.json").read_text())
    assert written["num_detections"] == 4 and written["per_class"]["dog"]["num_objects"] == 2
    assert json.loads((folder / "detections.json").read_text()) == []
    table = ap_table(kit)[0]
    assert "AR1000" in table and "class_AR10" in table
    assert "voc_2007_test" in write_report(kit).read_text()


def test_its_proposals_are_those_of_the_next_model(kit: Path):
    config = config_of(**{"MODEL.RPN_ONLY": True})
    run_test(config, output_dir=kit, model=Told(PROPOSED, inclusive=False), log=lambda _: None)
    for suffix in (".pkl", ".npz"):
        file = kit / f"evaluation/voc_2007_test/rpn_proposals{suffix}"
        later = config_of(**{"TEST.PROPOSAL_FILES": [str(file)], "MODEL.GEOMETRY": "detectron2"})
        batch = next(iter(build_loader(later, training=False)))
        expected = torch.tensor([box for _, box in PROPOSED[1]], dtype=torch.float32)
        valid = batch.images.proposals_valid[0]
        torch.testing.assert_close(batch.images.proposals[0, valid], expected, atol=1e-3, rtol=0)


def test_best_metric_of_proposals():
    assert (
        check_best_metric("", has_masks=False, has_keypoints=False, only_proposals=True) == "proposal/AR1000"
    )
    assert (
        check_best_metric("val/loss", has_masks=False, has_keypoints=False, only_proposals=True) == "val/loss"
    )
    with pytest.raises(UserError, match="only proposes"):
        check_best_metric("bbox/AP", has_masks=False, has_keypoints=False, only_proposals=True)
    with pytest.raises(UserError, match="not measured"):
        check_best_metric("proposal/AR100", has_masks=False, has_keypoints=False)


def coco_place(kit: Path, format: str, **image_keys) -> DatasetPaths:
    """The kit's images as a COCO or LVIS file."""
    document = {
        "images": [
            {"id": i, "file_name": f"00000{i}.jpg", "height": 40, "width": 60, **image_keys} for i in (1, 2)
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 4, "bbox": [0, 0, 20, 30], "area": 600, "iscrowd": 0}
        ],
        "categories": [
            {"id": 4, "name": "dog", "frequency": "c"},
            {"id": 6, "name": "cat", "frequency": "r"},
        ],
    }
    if format == "unlabelled":
        del document["annotations"]
    path = kit / f"{format}.json"
    path.write_text(json.dumps(document))
    return DatasetPaths(kit / "data/VOCdevkit/VOC2007/JPEGImages", path, format)


def evaluated(place: DatasetPaths, folder: Path, rows, *, coco_rules: bool = False):
    (records,), info, _ = read_places([place])
    return evaluate_dataset(
        place,
        records,
        rows,
        name="mine",
        class_info=info,
        tasks=["bbox"],
        folder=folder,
        coco_rules=coco_rules,
        plain_names=True,
    )


def test_lvis_asks_only_where_it_was_searched(kit: Path):
    """The second image was not searched for dogs: a dog found there is no mistake by LVIS's rules."""
    place = coco_place(kit, "lvis", neg_category_ids=[], not_exhaustive_category_ids=[])
    rows = [
        {"image_id": 2, "category_id": 4, "bbox": [1, 1, 9, 9], "score": 0.9},
        {"image_id": 1, "category_id": 4, "bbox": [0, 0, 20, 30], "score": 0.8},
    ]
    by_lvis = evaluated(place, kit, rows)
    assert by_lvis.metrics["bbox/AP"] == by_lvis.metrics["bbox/APc"] == pytest.approx(1)
    assert by_lvis.metrics["bbox/APr"] is None
    by_coco = evaluated(place, kit, rows, coco_rules=True)
    assert by_coco.metrics["bbox/AP"] == pytest.approx(0.5) and "bbox/APc" not in by_coco.metrics


def test_images_without_annotations_leave_a_file_for_the_server(kit: Path):
    place = coco_place(kit, "unlabelled")
    row = {"image_id": 2, "category_id": 4, "bbox": [1.0, 1.0, 9.0, 9.0], "score": 0.9, "file_name": "x"}
    result = evaluated(place, kit / "out", [row])
    assert set(result.metrics.values()) == {None}
    written = json.loads((kit / "out/bbox_mine_results.json").read_text())
    assert written == [{key: row[key] for key in ("image_id", "category_id", "bbox", "score")}]


class Library(types.ModuleType):
    """Stands for cityscapesscripts: reads the files as its documentation says and counts what it found."""

    def __init__(self) -> None:
        super().__init__("evalInstanceLevelSemanticLabeling")
        self.args = types.SimpleNamespace()
        self.seen: dict[str, list[tuple[int, float, int]]] = {}

    def getPrediction(self, picture: str, args) -> str:
        frame = Path(picture).name.removesuffix("_gtFine_instanceIds.png")
        (found,) = Path(args.predictionPath).glob(f"{frame}*.txt")
        return str(found)

    def setInstanceLabels(self, args) -> None:
        args.instLabels = ["car", "bicycle"]

    def getGtInstances(self, pictures, args) -> dict:
        return dict.fromkeys(pictures)

    def matchGtWithPreds(self, predictions, pictures, truth, args) -> dict:
        for text, picture in zip(predictions, pictures, strict=True):
            rows = []
            for line in Path(text).read_text().splitlines():
                name, label, score = line.split(" ")
                mask = np.array(Image.open(Path(text).parent / name).convert("L")) != 0
                rows.append((int(label), float(score), int(mask.sum())))
            self.seen[Path(picture).name] = rows
        return truth

    def evaluateMatches(self, matches, args) -> int:
        return len(matches)

    def computeAverages(self, scores, args) -> dict:
        return {"allAp": 0.25, "allAp50%": float("nan"), "classes": {}}


def cityscapes_case(folder: Path) -> tuple[DatasetPaths, list[dict]]:
    frames = ("ulm_000000_000019", "ulm_000001_000019")
    document = {
        "images": [
            {"id": i, "file_name": f"ulm/{frame}_leftImg8bit.png", "height": 20, "width": 30}
            for i, frame in enumerate(frames, start=1)
        ],
        "annotations": [],
        "categories": [{"id": 1, "name": "bicycle"}, {"id": 2, "name": "car"}],
    }
    (folder / "annotations").mkdir(parents=True)
    path = folder / "annotations/instancesonly_gtFine_val.json"
    path.write_text(json.dumps(document))
    for i, frame in enumerate(frames):
        for kind, suffix in (
            ("leftImg8bit/ulm", "_leftImg8bit.png"),
            ("gtFine/val/ulm", "_gtFine_instanceIds.png"),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 30), i, np.uint8)).save(folder / kind / f"{frame}{suffix}")
    place = DatasetPaths(folder / "leftImg8bit", path, "cityscapes")
    square = np.zeros((20, 30), np.uint8, order="F")
    square[2:8, 3:10] = 1
    rle = coco_mask.encode(square)
    rle = {
        "size": [20, 30],
        "counts": rle["counts"].decode() if isinstance(rle["counts"], bytes) else rle["counts"],
    }
    rows = [
        {"image_id": 2, "category_id": number, "bbox": [3, 2, 7, 6], "score": score, "segmentation": rle}
        for number, score in ((2, 0.75), (1, 0.5))
    ]
    return place, rows


def evaluate_masks(place: DatasetPaths, rows, folder: Path, log, **more):
    (records,), info, _ = read_places([place])
    settings = {"coco_rules": False, "plain_names": True} | more
    return evaluate_dataset(
        place,
        records,
        rows,
        name="city",
        class_info=info,
        tasks=["bbox", "segm"],
        folder=folder,
        log=log,
        **settings,
    )


def test_cityscapes_by_its_own_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    library, said = Library(), []
    package, evaluation = types.ModuleType("cityscapesscripts"), types.ModuleType("evaluation")
    package.__spec__ = importlib.machinery.ModuleSpec("cityscapesscripts", None)
    evaluation.evalInstanceLevelSemanticLabeling = library
    monkeypatch.setitem(sys.modules, "cityscapesscripts", package)
    monkeypatch.setitem(sys.modules, "cityscapesscripts.evaluation", evaluation)
    place, rows = cityscapes_case(tmp_path / "city")
    result = evaluate_masks(place, rows, tmp_path / "out", said.append)
    assert result.metrics["cityscapes/AP"] == 0.25 and result.metrics["cityscapes/AP50"] is None
    assert "segm/AP" in result.metrics and said == []
    assert library.seen == {
        "ulm_000000_000019_gtFine_instanceIds.png": [],
        "ulm_000001_000019_gtFine_instanceIds.png": [(26, 0.75, 42), (33, 0.5, 42)],
    }
    again = evaluate_masks(
        place, rows[:1], tmp_path / "out", said.append
    )  # nothing of the first test is left
    assert again.metrics["cityscapes/AP"] == 0.25
    assert len(library.seen["ulm_000001_000019_gtFine_instanceIds.png"]) == 1
    assert len(list((tmp_path / "out/cityscapes/masks").iterdir())) == 1
    assert (
        "cityscapes/AP"
        not in evaluate_masks(place, rows, tmp_path / "coco", said.append, coco_rules=True).metrics
    )

    def refuse(*_):
        print("ERROR: masks are missing")
        sys.exit(-1)

    library.matchGtWithPreds = refuse
    with pytest.raises(DataError, match="masks are missing"):
        evaluate_masks(place, rows, tmp_path / "out", said.append)


def test_cityscapes_without_library_or_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("detectune.engine.dataset_evaluation.library_is_installed", lambda: False)
    place, rows = cityscapes_case(tmp_path / "city")
    said: list[str] = []
    result = evaluate_masks(place, rows, tmp_path / "out", said.append)
    assert "cityscapes/AP" not in result.metrics and "pip install cityscapesscripts" in said[0]
    assert (tmp_path / "out/cityscapes/ulm_000001_000019_pred.txt").read_text().count("\n") == 2
    (tmp_path / "city/gtFine/val/ulm/ulm_000000_000019_gtFine_instanceIds.png").unlink()
    evaluate_masks(place, rows, tmp_path / "out", said.append)
    assert "1 frames, such as ulm_000000_000019" in said[1]
    shutil.rmtree(tmp_path / "city/gtFine")
    evaluate_masks(place, rows, tmp_path / "out", said.append)
    assert "neither" in said[2]
