"""The original command lines, as its users typed them, on photographs of COCO and of Penn-Fudan.

Every line stands here as text and is run from the top of the checkout. Below the data root the photographs have the
names that the originals' lines and configurations mean (coco_2014_train, coco_2014_minival, ...). Networks are the
baselines' own with narrow layers, set by pairs at the end of the line; nothing learns in one step, so the tests look at
what is written, not at how good it is. They build on each other's files, in order.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hotcoco import mask as coco_mask
from PIL import Image

from detectune.pickles import load_pickle

SMALL = (
    "NUM_GPUS 1 MODEL.DEVICE cpu DATA_LOADER.NUM_THREADS 0 RESNETS.WIDTH_MULTIPLIER 0.125 FPN.DIM 16 "
    "FAST_RCNN.MLP_HEAD_DIM 32 MRCNN.DIM_REDUCED 16 KRCNN.CONV_HEAD_DIM 16 TRAIN.WEIGHTS '' TRAIN.FREEZE_AT 0 "
    "TRAIN.SCALES (96,) TRAIN.MAX_SIZE 160 TRAIN.BATCH_SIZE_PER_IM 16 TRAIN.RPN_PRE_NMS_TOP_N 50 "
    "TRAIN.RPN_POST_NMS_TOP_N 20 TEST.SCALE 96 TEST.MAX_SIZE 160 TEST.RPN_PRE_NMS_TOP_N 50 TEST.RPN_POST_NMS_TOP_N 20 "
    "TEST.SCORE_THRESH 0.0 TEST.DETECTIONS_PER_IM 5 SOLVER.MAX_ITER 1 SOLVER.STEPS [0] SOLVER.BASE_LR 0.0001"
)
MASK = "configs/12_2017_baselines/e2e_mask_rcnn_R-50-FPN_1x.yaml"
KEYPOINT = "configs/12_2017_baselines/e2e_keypoint_rcnn_R-50-FPN_1x.yaml"
RPN = "configs/12_2017_baselines/rpn_R-50-FPN_1x.yaml"
FAST = "configs/12_2017_baselines/fast_rcnn_R-50-FPN_1x.yaml"
MINIVAL = 6  # photographs of the made-up minival

Say = Callable[..., str]


@pytest.fixture(scope="module")
def place(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data sets by their original names, below `data`."""
    folder = tmp_path_factory.mktemp("photographs")
    mini, coco = shared / "data/coco_mini", folder / "data/coco"
    (coco / "annotations").mkdir(parents=True)
    for name, source in (
        ("coco_train2014", "train2017"),
        ("coco_val2014", "val2017"),
        ("coco_test2017", "val2017"),
    ):
        (coco / name).symlink_to(mini / source)
    for kind in ("instances", "person_keypoints"):
        train = json.loads((mini / f"annotations/{kind}_train2017.json").read_text())
        val = json.loads((mini / f"annotations/{kind}_val2017.json").read_text())
        with_people = {a["image_id"] for a in val["annotations"] if a["category_id"] == 1}
        ids = sorted(with_people)[:MINIVAL]
        parts = {
            "train2014": train,
            "minival2014": only(val, ids),
            "valminusminival2014": only(
                val, [image["id"] for image in val["images"] if image["id"] not in ids]
            ),
        }
        for part, content in parts.items():
            (coco / f"annotations/{kind}_{part}.json").write_text(json.dumps(content))
    images = only(val, ids)["images"]
    classes = json.loads((mini / "annotations/instances_val2017.json").read_text())["categories"]
    for part, chosen in (("test2017", images), ("test-dev2017", images[::2])):
        unlabelled = {"images": chosen, "categories": classes}
        (coco / f"annotations/image_info_{part}.json").write_text(json.dumps(unlabelled))
    return folder


def only(document: dict, ids: list[int]) -> dict:
    """The part of a COCO document that is about some images."""
    kept = set(ids)
    return document | {
        "images": [image for image in document["images"] if image["id"] in kept],
        "annotations": [a for a in document["annotations"] if a["image_id"] in kept],
    }


@pytest.fixture
def say(place: Path, shared: Path, root: Path, tool, capsys, monkeypatch: pytest.MonkeyPatch) -> Say:
    """say("python tools/reval.py ...") runs a line from the top of the checkout and returns what it printed."""
    monkeypatch.setenv("DETECTUNE_DATA", str(place / "data"))
    names = {"OUT": place / "out", "DEMO": shared / "data/detectron_demo", "SMALL": SMALL, "PLACE": place}

    def run(text: str, **more: object) -> str:
        python, script, *words = shlex.split(text.format(**names, **more))
        assert python == "python" and script.startswith("tools/")
        capsys.readouterr()
        code = tool(Path(script).stem, *words, cwd=root)
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    return run


def test_the_tutorials_line_in_a_process_of_its_own(
    place: Path, root: Path, line, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = place / "tutorial"
    words = (
        "--cfg configs/getting_started/tutorial_1gpu_e2e_faster_rcnn_R-50-FPN.yaml --multi-gpu-testing "
        f"OUTPUT_DIR {out} {SMALL}"
    )
    monkeypatch.setenv("DETECTUNE_DATA", str(place / "data"))
    done = line("train_net", *shlex.split(words), cwd=root)
    assert done.returncode == 0, done.stderr
    assert (out / "train/coco_2014_train/generalized_rcnn/model_final.safetensors").is_file()
    boxes = load_pickle(out / "test/coco_2014_minival/generalized_rcnn/detections.pkl")["all_boxes"]
    assert len(boxes) == 81 and all(len(images) == MINIVAL for images in boxes)


def test_train_net_skips_the_test(place: Path, say: Say) -> None:
    say(f"python tools/train_net.py --cfg {MASK} --skip-test OUTPUT_DIR {{OUT}} {{SMALL}}")
    trained = place / "out/train/coco_2014_train:coco_2014_valminusminival/generalized_rcnn"
    assert (trained / "model_final.safetensors").is_file() and not (place / "out/test").exists()
    (place / "mask.safetensors").symlink_to(trained / "model_final.safetensors")
    (place / "mask.yaml").symlink_to(trained / "config.yaml")


def test_test_net(place: Path, say: Say) -> None:
    weights = "TEST.WEIGHTS {PLACE}/mask.safetensors NUM_GPUS 1 OUTPUT_DIR {OUT} {SMALL}"
    said = say(f"python tools/test_net.py --cfg {MASK} --vis --wait {weights}")
    assert "box" in said and "mask" in said
    drawn = list((place / "out/test/evaluation/coco_2014_minival/drawn").iterdir())
    assert len(drawn) == MINIVAL
    say(f"python tools/test_net.py --cfg {MASK} --multi-gpu-testing --range 2 5 {weights}")
    folder = place / "out/test/coco_2014_minival/generalized_rcnn"
    whole, part = (
        load_pickle(folder / f"{name}.pkl")["all_boxes"] for name in ("detections", "detection_range_2_5")
    )
    for one, other in zip(whole[1:], part[1:], strict=True):
        for a, b in zip(one[2:5], other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
    assert sum(len(cell) for images in whole[1:] for cell in images) == 5 * MINIVAL


def test_reval_and_visualize_results(place: Path, say: Say) -> None:
    folder = "{OUT}/test/coco_2014_minival/generalized_rcnn"
    said = say(f"python tools/reval.py {folder} --dataset coco_2014_minival")
    measured = json.loads((place / "out/test/evaluation/coco_2014_minival/metrics.json").read_text())[
        "metrics"
    ]
    rows = {row.split()[0]: row.split()[1] for row in said.splitlines() if row.startswith(("box ", "mask "))}
    assert rows == {"box": f"{measured['bbox/AP']:.3f}", "mask": f"{measured['segm/AP']:.3f}"}
    say(
        f"python tools/visualize_results.py --dataset coco_2014_minival --detections {folder}/detections.pkl "
        "--thresh 0.0 --output-dir {OUT}/seen"
    )
    assert len(list((place / "out/seen/vis").iterdir())) == MINIVAL


def test_infer_simple_takes_a_folder_and_an_image(place: Path, shared: Path, say: Say) -> None:
    line = (
        "python tools/infer_simple.py --cfg {PLACE}/mask.yaml --image-ext jpg --wts {PLACE}/mask.safetensors"
    )
    say(
        f"{line} --output-dir {{OUT}}/all --always-out --output-ext png --thresh 0.9 --kp-thresh 2.0 {{DEMO}}"
    )
    photos = sorted(photo.name for photo in (shared / "data/detectron_demo").glob("*.jpg"))
    assert sorted(f.name for f in (place / "out/all").iterdir()) == [f"{name}.png" for name in photos]
    said = say(f"{line} --output-dir {{OUT}}/none --thresh 0.999 {{DEMO}}/{photos[0]}")
    assert "nothing found" in said and not (place / "out/none").exists()
    say(f"{line} --output-dir {{OUT}}/one --thresh 0.0 {{DEMO}}/{photos[0]}")
    assert (place / f"out/one/{photos[0]}.pdf").read_bytes().startswith(b"%PDF")


def test_infer_joins_models_on_one_photograph(place: Path, shared: Path, say: Say) -> None:
    """Masks of one model, keypoints of another, and a third that asks a proposal network where to look."""
    minival = "TRAIN.DATASETS \"('coco_2014_minival',)\""
    given = (
        """TRAIN.PROPOSAL_FILES '("{OUT}_rpn/test/coco_2014_minival/generalized_rcnn/rpn_proposals.pkl",)'"""
    )
    for name, line in (
        ("keypoint", f"--cfg {KEYPOINT} --skip-test"),
        ("rpn", f"--cfg {RPN}"),
        ("fast", f"--cfg {FAST} --skip-test"),
    ):
        more = "" if name == "keypoint" else minival + (f" {given}" if name == "fast" else "")
        say(f"python tools/train_net.py {line} OUTPUT_DIR {{OUT}}_{name} {{SMALL}} {more}")
        (trained,) = (place / f"out_{name}/train").glob("*/*/model_final.safetensors")
        (place / f"{name}.safetensors").symlink_to(trained)
        (place / f"{name}.yaml").symlink_to(trained.parent / "config.yaml")
    photo = sorted((shared / "data/detectron_demo").glob("*.jpg"))[1]
    pairs = " ".join(
        f"{{PLACE}}/{name}.safetensors {{PLACE}}/{name}.yaml" for name in ("keypoint", "mask", "fast")
    )
    networks = "--rpn-pkl {PLACE}/rpn.safetensors --rpn-cfg {PLACE}/rpn.yaml"
    say(f"python tools/infer.py --im {photo} {networks} --output-dir {{OUT}}/joined {pairs}")
    assert (place / f"out/joined/{photo.name}.pdf").read_bytes().startswith(b"%PDF")


def test_results_for_the_server(place: Path, say: Say) -> None:
    """Photographs without annotations are tested, and of the results those on test-dev are kept."""
    data = "TEST.DATASETS \"('coco_2017_test',)\" TEST.WEIGHTS {PLACE}/mask.safetensors OUTPUT_DIR {OUT}"
    say(f"python tools/test_net.py --cfg {MASK} {data} {{SMALL}}")
    results = place / "out/test/coco_2017_test/generalized_rcnn/bbox_coco_2017_test_results.json"
    say(f"python tools/generate_testdev_from_test.py --json {results} --output-dir {{OUT}}/server")
    rows = json.loads(results.read_text())
    kept = json.loads((place / "out/server/bbox_coco_2017_test_results_test-dev.json").read_text())
    dev = json.loads((place / "data/coco/annotations/image_info_test-dev2017.json").read_text())["images"]
    ids = {image["id"] for image in dev}
    assert kept == [row for row in rows if row["image_id"] in ids] and 0 < len(kept) < len(rows)


def test_selective_search_for_fast_rcnn(place: Path, say: Say) -> None:
    """Boxes of a MATLAB file (written by scipy) become proposals that test_net tests a Fast R-CNN on."""
    truth = json.loads((place / "data/coco/annotations/instances_minival2014.json").read_text())
    cells = np.empty((1, MINIVAL), dtype=object)
    for i, image in enumerate(sorted(truth["images"], key=lambda image: image["id"])):
        boxes = [a["bbox"] for a in truth["annotations"] if a["image_id"] == image["id"]]
        x, y, w, h = np.array(boxes).reshape(-1, 4).T
        cells[0, i] = np.stack((y + 1, x + 1, y + h, x + w), axis=1)
    scipy.io.savemat(place / "boxes.mat", {"boxes": cells})
    say("python tools/convert_selective_search.py coco_2014_minival {PLACE}/boxes.mat {PLACE}/boxes.pkl")
    given = load_pickle(place / "boxes.pkl")
    assert sum(map(len, given["boxes"])) == len(truth["annotations"])
    proposals = """TEST.PROPOSAL_FILES '("{PLACE}/boxes.pkl",)'"""
    weights = "TEST.WEIGHTS {PLACE}/fast.safetensors"
    say(f"python tools/test_net.py --cfg {FAST} {weights} OUTPUT_DIR {{OUT}}_fast {{SMALL}} {proposals}")
    assert (place / "out_fast/test/coco_2014_minival/generalized_rcnn/detections.pkl").is_file()


def test_weights_of_coco_go_on_in_the_form_of_cityscapes(place: Path, shared: Path, say: Say) -> None:
    """Penn-Fudan's pedestrians laid out as Cityscapes is, converted, and a step of the mask model on them."""
    lay_out_as_cityscapes(shared / "data/penn_fudan", place / "data/cityscapes")
    say(
        "python tools/convert_cityscapes_to_coco.py --dataset cityscapes_instance_only "
        "--datadir {PLACE}/data/cityscapes --outdir {PLACE}/data/cityscapes/annotations"
    )
    say(
        "python tools/convert_coco_model_to_cityscapes.py --coco_model {PLACE}/mask.safetensors "
        "--convert_func cityscapes_to_coco --output {PLACE}/street.safetensors"
    )
    pairs = (
        "TRAIN.DATASETS \"('cityscapes_fine_instanceonly_seg_train',)\" "
        "TEST.DATASETS \"('cityscapes_fine_instanceonly_seg_val',)\" MODEL.NUM_CLASSES 9"
    )
    small = SMALL.replace("TRAIN.WEIGHTS ''", "TRAIN.WEIGHTS {PLACE}/street.safetensors")
    said = say(f"python tools/train_net.py --cfg {MASK} {pairs} {small} OUTPUT_DIR {{OUT}}_street")
    assert "Detectron's result files" in said
    folder = place / "out_street/test/cityscapes_fine_instanceonly_seg_val/generalized_rcnn"
    assert len(load_pickle(folder / "detections.pkl")["all_segms"]) == 9


def lay_out_as_cityscapes(source: Path, target: Path) -> None:
    """Three photographs of each part, their persons as pictures of instance ids."""
    for split in ("train", "val"):
        document = json.loads((source / f"instances_{split}.json").read_text())
        for image in document["images"][:3]:
            height, width = image["height"], image["width"]
            ids = np.zeros((height, width), np.uint16)
            own = [a for a in document["annotations"] if a["image_id"] == image["id"]]
            for number, annotation in enumerate(own):
                rles = coco_mask.frPyObjects(annotation["segmentation"], height, width)
                ids[coco_mask.decode(coco_mask.merge(rles)) == 1] = 24000 + number
            name = f"penn/penn_{image['id']:06d}_000019"
            for kind in ("leftImg8bit", "gtFine"):
                (target / kind / split / "penn").mkdir(parents=True, exist_ok=True)
            Image.fromarray(ids).save(target / "gtFine" / split / f"{name}_gtFine_instanceIds.png")
            with Image.open(source / "images" / image["file_name"]) as photo:
                photo.convert("RGB").save(target / "leftImg8bit" / split / f"{name}_leftImg8bit.png")


@pytest.mark.slow
def test_the_network_becomes_a_program_for_a_photograph(place: Path, shared: Path, say: Say) -> None:
    photo = sorted((shared / "data/detectron_demo").glob("*.jpg"))[0]
    said = say(
        f"python tools/convert_pkl_to_pb.py --cfg {MASK} --out_dir {{OUT}}/program --test_img {photo} "
        "--device cpu TEST.WEIGHTS {PLACE}/mask.safetensors {SMALL}"
    )
    assert (
        "the program finds what the detector does" in said and (place / "out/program/detectron.pt2").is_file()
    )
