"""How Detectron puts images into blobs and mirrors keypoints, from its own records."""

from __future__ import annotations

import numpy as np
import torch

from detectune.data.classes import flip_permutation
from detectune.data.collate import Sample, collate, single_image, split_images
from detectune.data.transforms import Objects
from detectune.structures import ImageInfo

NOTHING = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), [], [], None)
DEFAULTS = {"FPN.FPN_ON": False, "FPN.COARSEST_STRIDE": 32}


def stride_of(cfg: dict) -> int:
    keys = DEFAULTS | cfg
    return keys["FPN.COARSEST_STRIDE"] if keys["FPN.FPN_ON"] else 1


def test_images_of_a_batch_are_padded_right_and_below(golden) -> None:
    cases = golden("blob", "blob.im_list_to_blob")
    assert {stride_of(case.cfg) for case in cases} == {1, 32}
    for case in cases:
        images = [torch.from_numpy(case.inputs[f"im{i}"]).permute(2, 0, 1) for i in range(len(case.inputs))]
        samples = [Sample(image, NOTHING, ImageInfo(0, "", *image.shape[1:])) for image in images]
        batch = collate(samples, stride=stride_of(case.cfg), masks=False, keypoints=False).images
        np.testing.assert_array_equal(batch.tensor.numpy(), case.outputs["blob"], err_msg=case.name)
        for one, image in zip(split_images(batch, stride=1), images, strict=True):
            assert torch.equal(one.tensor[0], image)


def test_one_image_and_its_padded_size(golden) -> None:
    for case in golden("blob", "blob.get_image_blob"):
        image = single_image(
            case.inputs["image"], short_side=case.params["target_scale"], max_size=case.params["target_max_size"],
            style="detectron", stride=stride_of(case.cfg),
        )  # fmt: skip
        height, width, scale = case.outputs["im_info"][0].tolist()
        assert list(image.tensor.shape) == case.meta["out_json"]["blob_shape"], case.name
        assert tuple(image.tensor.shape[2:]) == (height, width)
        assert image.infos[0].scale_x == image.infos[0].scale_y == case.meta["out_json"]["im_scale"]
        assert np.float32(image.infos[0].scale_x) == np.float32(scale)


def test_keypoints_and_their_mirror(golden) -> None:
    (case,) = golden("keypoints", "keypoints.get_keypoints")
    names, pairs = case.meta["out_json"]["names"], case.meta["out_json"]["flip_map"]
    both = pairs | {right: left for left, right in pairs.items()}
    assert [names[i] for i in flip_permutation(names)] == [both.get(name, name) for name in names]
