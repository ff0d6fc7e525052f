"""Public weights by name: where Detectron, detectron2 and torchvision keep them. Facts from their model zoos.

detectron/35861858                                     a model of MODEL_ZOO.md, by its id; or .../R-50, a body
detectron2://COCO-Detection/faster_rcnn_R_50_FPN_3x    a model of detectron2's zoo; a full path works too
catalog://Caffe2Detectron/COCO/35858933/NAME            detectron2's name for Detectron's models, by their id; or
                                                       catalog://ImageNetPretrained/MSRA/R-50, a body
torchvision/MaskRCNN_ResNet50_FPN_Weights.COCO_V1      as torchvision calls its weights
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from detectune.errors import WeightsError

DETECTRON = "https://dl.fbaipublicfiles.com/detectron/"
DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"
TORCHVISION = "https://download.pytorch.org/models/"

# id, configuration, then what the trainer put behind it: time and a random word
_DETECTRON_RUNS = """
35998355 rpn_R-50-C4_1x 08_00_43.njH5oD9L
35998814 rpn_R-50-FPN_1x 08_06_03.Axg0r179
35998887 rpn_R-101-FPN_1x 08_07_07.vzhHEs0V
35998956 rpn_X-101-64x4d-FPN_1x 08_08_41.Seh0psKz
36760102 rpn_X-101-32x8d-FPN_1x 06_00_16.RWeBAniO
36224013 fast_rcnn_R-50-C4_1x 08_22_00.vHd5BeBP
36224046 fast_rcnn_R-50-C4_2x 08_22_57.XFxNqEnL
36225147 fast_rcnn_R-50-FPN_1x 08_39_09.L3obSdQ2
36225249 fast_rcnn_R-50-FPN_2x 08_40_18.zoChak1f
36228880 fast_rcnn_R-101-FPN_1x 09_25_03.tZuHkSpl
36228933 fast_rcnn_R-101-FPN_2x 09_26_27.jkOUTrrk
36226250 fast_rcnn_X-101-64x4d-FPN_1x 08_54_22.u0LaxQsC
36226326 fast_rcnn_X-101-64x4d-FPN_2x 08_55_54.2F7MP1CD
37119777 fast_rcnn_X-101-32x8d-FPN_1x 06_38_03.d5N36egm
37121469 fast_rcnn_X-101-32x8d-FPN_2x 07_03_53.EPrHk63L
36224121 mask_rcnn_R-50-C4_1x 08_24_37.wdU8r5Jo
36224151 mask_rcnn_R-50-C4_2x 08_25_34.RSN5CVSH
36225401 mask_rcnn_R-50-FPN_1x 08_42_04.MocEgrRW
36225732 mask_rcnn_R-50-FPN_2x 08_43_08.gDqBz9zS
36229407 mask_rcnn_R-101-FPN_1x 09_38_04.zbVPo8ZE
36229740 mask_rcnn_R-101-FPN_2x 09_39_00.Z7O7zOEC
36226382 mask_rcnn_X-101-64x4d-FPN_1x 08_56_59.rUCejrBN
36672114 mask_rcnn_X-101-64x4d-FPN_2x 08_58_13.aNWCi3U7
37121516 mask_rcnn_X-101-32x8d-FPN_1x 07_04_58.CbM22DZg
37121596 mask_rcnn_X-101-32x8d-FPN_2x 07_05_48.TL22uFaK
35857197 e2e_faster_rcnn_R-50-C4_1x 01_33_49.iAX0mXvW
35857281 e2e_faster_rcnn_R-50-C4_2x 01_34_56.ScPH0Z4r
35857345 e2e_faster_rcnn_R-50-FPN_1x 01_36_30.cUF7QR7I
35857389 e2e_faster_rcnn_R-50-FPN_2x 01_37_22.KSeq0b5q
35857890 e2e_faster_rcnn_R-101-FPN_1x 01_38_50.sNxI7sX7
35857952 e2e_faster_rcnn_R-101-FPN_2x 01_39_49.JPwJDh92
35858015 e2e_faster_rcnn_X-101-64x4d-FPN_1x 01_40_54.1xc565DE
35858198 e2e_faster_rcnn_X-101-64x4d-FPN_2x 01_41_46.CX2InaoG
36761737 e2e_faster_rcnn_X-101-32x8d-FPN_1x 06_31_39.5MIHi1fZ
36761786 e2e_faster_rcnn_X-101-32x8d-FPN_2x 06_33_22.VqFNuxk6
35858791 e2e_mask_rcnn_R-50-C4_1x 01_45_57.ZgkA7hPB
35858828 e2e_mask_rcnn_R-50-C4_2x 01_46_47.HBThTerB
35858933 e2e_mask_rcnn_R-50-FPN_1x 01_48_14.DzEQe4wC
35859007 e2e_mask_rcnn_R-50-FPN_2x 01_49_07.By8nQcCH
35861795 e2e_mask_rcnn_R-101-FPN_1x 02_31_37.KqyEK4tT
35861858 e2e_mask_rcnn_R-101-FPN_2x 02_32_51.SgT4y1cO
36494496 e2e_mask_rcnn_X-101-64x4d-FPN_1x 07_50_11.fkwVtEvg
35859745 e2e_mask_rcnn_X-101-64x4d-FPN_2x 02_00_30.ESWbND2w
36761843 e2e_mask_rcnn_X-101-32x8d-FPN_1x 06_35_59.RZotkLKI
36762092 e2e_mask_rcnn_X-101-32x8d-FPN_2x 06_37_59.DM5gJYRF
37129812 e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x 09_35_36.8pzTQKYK
36768636 retinanet_R-50-FPN_1x 08_29_48.t4zc9clc
36768677 retinanet_R-50-FPN_2x 08_30_38.sgZIQZQ5
36768744 retinanet_R-101-FPN_1x 08_31_38.5poQe1ZB
36768840 retinanet_R-101-FPN_2x 08_33_29.grtM0RTf
36768875 retinanet_X-101-64x4d-FPN_1x 08_34_37.FSXgMpzP
36768907 retinanet_X-101-64x4d-FPN_2x 08_35_40.pF3nzPpu
36769563 retinanet_X-101-32x8d-FPN_1x 08_42_05.06JTK6vJ
36769641 retinanet_X-101-32x8d-FPN_2x 08_42_55.sUPnwXI5
35998996 rpn_person_only_R-50-FPN_1x 08_10_08.0ZWmJm6F
35999521 rpn_person_only_R-101-FPN_1x 08_20_33.1OkqMmqP
35999553 rpn_person_only_X-101-64x4d-FPN_1x 08_21_33.ghFzzArr
36760438 rpn_person_only_X-101-32x8d-FPN_1x 06_04_23.M2oJlDPW
37651787 keypoint_rcnn_R-50-FPN_1x 20_00_48.UiwJsTXB
37651887 keypoint_rcnn_R-50-FPN_s1x 20_01_40.FDjUQ7VX
37651996 keypoint_rcnn_R-101-FPN_1x 20_02_37.eVXnKM2Q
37652016 keypoint_rcnn_R-101-FPN_s1x 20_03_32.z86wT97d
37731079 keypoint_rcnn_X-101-64x4d-FPN_1x 16_40_56.wj7Hg7lX
37731142 keypoint_rcnn_X-101-64x4d-FPN_s1x 16_41_54.e1sD4Frh
37730253 keypoint_rcnn_X-101-32x8d-FPN_1x 16_34_24.3G9OcQuR
37731010 keypoint_rcnn_X-101-32x8d-FPN_s1x 16_39_51.xt1oMzRk
37697547 e2e_keypoint_rcnn_R-50-FPN_1x 08_42_54.kdzV35ao
37697714 e2e_keypoint_rcnn_R-50-FPN_s1x 08_44_03.qrQ0ph6M
37697946 e2e_keypoint_rcnn_R-101-FPN_1x 08_45_06.Y14KqbST
37698009 e2e_keypoint_rcnn_R-101-FPN_s1x 08_45_57.YkrJgP6O
37732355 e2e_keypoint_rcnn_X-101-64x4d-FPN_1x 16_56_16.yv4t4W8N
37732415 e2e_keypoint_rcnn_X-101-64x4d-FPN_s1x 16_57_48.Spqtq3Sf
37792158 e2e_keypoint_rcnn_X-101-32x8d-FPN_1x 16_54_16.LgZeo40k
37732318 e2e_keypoint_rcnn_X-101-32x8d-FPN_s1x 16_55_09.Lx8H5JVu
48616381 e2e_mask_rcnn_R-50-FPN_2x_gn 0416.13_23_38.bTlTI97Q
48616724 e2e_mask_rcnn_R-101-FPN_2x_gn 0416.13_26_34.GLnri4GR
48734751 e2e_mask_rcnn_R-50-FPN_3x_gn 0417.09_54_59.nwCTtPVk
48734779 e2e_mask_rcnn_R-101-FPN_3x_gn 0417.09_55_23.HMtcR8wg
"""

_DETECTRON_BODIES = {
    "R-50": "MSRA/R-50.pkl",
    "R-101": "MSRA/R-101.pkl",
    "X-101-64x4d": "FBResNeXt/X-101-64x4d.pkl",
    "X-101-32x8d": "20171220/X-101-32x8d.pkl",
    "X-152-32x8d-IN5k": "25093814/X-152-32x8d-IN5k.pkl",
    "R-50-GN": "47261647/R-50-GN.pkl",
    "R-101-GN": "47592356/R-101-GN.pkl",
}

# name, run, first digits of the file's MD5 digest
_DETECTRON2_RUNS = """
COCO-Detection/faster_rcnn_R_50_C4_1x 137257644 721ade
COCO-Detection/faster_rcnn_R_50_DC5_1x 137847829 51d356
COCO-Detection/faster_rcnn_R_50_FPN_1x 137257794 b275ba
COCO-Detection/faster_rcnn_R_50_C4_3x 137849393 f97cb7
COCO-Detection/faster_rcnn_R_50_DC5_3x 137849425 68d202
COCO-Detection/faster_rcnn_R_50_FPN_3x 137849458 280758
COCO-Detection/faster_rcnn_R_101_C4_3x 138204752 298dad
COCO-Detection/faster_rcnn_R_101_DC5_3x 138204841 3e0943
COCO-Detection/faster_rcnn_R_101_FPN_3x 137851257 f6e8b1
COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x 139173657 68b088
COCO-Detection/retinanet_R_50_FPN_1x 190397773 bfca0b
COCO-Detection/retinanet_R_50_FPN_3x 190397829 5bd44e
COCO-Detection/retinanet_R_101_FPN_3x 190397697 971ab9
COCO-Detection/rpn_R_50_C4_1x 137258005 450694
COCO-Detection/rpn_R_50_FPN_1x 137258492 02ce48
COCO-Detection/fast_rcnn_R_50_FPN_1x 137635226 e5f7ce
COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x 137259246 9243eb
COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x 137260150 4f86c3
COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x 137260431 a54504
COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x 137849525 4ce675
COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x 137849551 84107b
COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x 137849600 f10217
COCO-InstanceSegmentation/mask_rcnn_R_101_C4_3x 138363239 a2914c
COCO-InstanceSegmentation/mask_rcnn_R_101_DC5_3x 138363294 0464b7
COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x 138205316 a3ec72
COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x 139653917 2d9806
COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x 137261548 04e291
COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x 137849621 a6e10b
COCO-Keypoints/keypoint_rcnn_R_101_FPN_3x 138363331 997cc7
COCO-Keypoints/keypoint_rcnn_X_101_32x8d_FPN_3x 139686956 5ad38f
LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x 144219072 571f7c
LVISv0.5-InstanceSegmentation/mask_rcnn_R_101_FPN_1x 144219035 824ab5
LVISv0.5-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_1x 144219108 5e3439
Cityscapes/mask_rcnn_R_50_FPN 142423278 af9cf5
PascalVOC-Detection/faster_rcnn_R_50_C4 142202221 b1acc2
Misc/cascade_mask_rcnn_R_50_FPN_1x 138602847 e9d89b
Misc/cascade_mask_rcnn_R_50_FPN_3x 144998488 480dd8
Misc/cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv 18131413 e76410
Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5 138602867 65c703
Misc/mask_rcnn_R_50_FPN_3x_dconv_c3-c5 144998336 821d0b
Misc/mask_rcnn_R_50_FPN_3x_gn 138602888 dc5d9e
Misc/mask_rcnn_R_50_FPN_3x_syncbn 169527823 3b3c51
Misc/scratch_mask_rcnn_R_50_FPN_9x_syncbn 184226666 5ce33e
Misc/scratch_mask_rcnn_R_50_FPN_3x_gn 138602908 01ca85
Misc/scratch_mask_rcnn_R_50_FPN_9x_gn 183808979 da7b4c
Detectron1-Comparisons/faster_rcnn_R_50_FPN_noaug_1x 137781054 7ab50c
Detectron1-Comparisons/mask_rcnn_R_50_FPN_noaug_1x 137781281 62ca52
Detectron1-Comparisons/keypoint_rcnn_R_50_FPN_1x 137781195 cce136
"""

# the file's name ends with the first digits of its SHA-256 digest
_TORCHVISION_FILES = {
    "FasterRCNN_ResNet50_FPN_Weights.COCO_V1": "fasterrcnn_resnet50_fpn_coco-258fb6c6",
    "FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1": "fasterrcnn_resnet50_fpn_v2_coco-dd69338a",
    "MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1": "maskrcnn_resnet50_fpn_v2_coco-73cbd019",
    "MaskRCNN_ResNet50_FPN_Weights.COCO_V1": "maskrcnn_resnet50_fpn_coco-bf2d0c1e",
    "KeypointRCNN_ResNet50_FPN_Weights.COCO_LEGACY": "keypointrcnn_resnet50_fpn_coco-9f466800",
    "KeypointRCNN_ResNet50_FPN_Weights.COCO_V1": "keypointrcnn_resnet50_fpn_coco-fc266e95",
    "RetinaNet_ResNet50_FPN_Weights.COCO_V1": "retinanet_resnet50_fpn_coco-eeacb38b",
    "RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1": "retinanet_resnet50_fpn_v2_coco-5905b1c5",
    "ResNet18_Weights.IMAGENET1K_V1": "resnet18-f37072fd",
    "ResNet34_Weights.IMAGENET1K_V1": "resnet34-b627a593",
    "ResNet50_Weights.IMAGENET1K_V1": "resnet50-0676ba61",
    "ResNet50_Weights.IMAGENET1K_V2": "resnet50-11ad3fa6",
    "ResNet101_Weights.IMAGENET1K_V1": "resnet101-63fe2227",
    "ResNet101_Weights.IMAGENET1K_V2": "resnet101-cd907fc2",
    "ResNet152_Weights.IMAGENET1K_V1": "resnet152-394f9c45",
    "ResNet152_Weights.IMAGENET1K_V2": "resnet152-f82ba261",
    "ResNeXt101_32X8D_Weights.IMAGENET1K_V1": "resnext101_32x8d-8ba56ff5",
    "ResNeXt101_32X8D_Weights.IMAGENET1K_V2": "resnext101_32x8d-110c445d",
    "ResNeXt101_64X4D_Weights.IMAGENET1K_V1": "resnext101_64x4d-173b62eb",
}
_SHA256_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")
_MD5_IN_NAME = re.compile(r"/model_(?:final|\d+)_([0-9a-f]{6})\.pkl$")


@dataclass(frozen=True)
class KnownWeights:
    """Public weights: where they lie, and which of our packaged configurations they belong to ('' for bodies)."""

    name: str
    address: str
    config: str = ""


def find_known(name: str) -> KnownWeights | None:
    """What a name such as detectron/35861858 stands for; None where it is no such name.

    Raises:
        WeightsError: if it begins like one but is not known; names the nearest.
    """
    if name.startswith("detectron2://"):
        return _of_detectron2(name, name.removeprefix("detectron2://"))
    if name.startswith("detectron2/"):
        return _of_detectron2(name, name.removeprefix("detectron2/"))
    if name.startswith("catalog://"):
        parts = name.removeprefix("catalog://").split("/")
        of_a_model = parts[:2] == ["Caffe2Detectron", "COCO"] and len(parts) > 2
        return _of_detectron(name, parts[2] if of_a_model else parts[-1])
    if name.startswith("detectron/"):
        return _of_detectron(name, name.removeprefix("detectron/"))
    if name.startswith("torchvision/"):
        wanted = name.removeprefix("torchvision/")
        if wanted not in _TORCHVISION_FILES:
            raise _unknown(name, wanted, _TORCHVISION_FILES, "torchvision/")
        file = _TORCHVISION_FILES[wanted]
        config = f"torchvision/{file.partition('_coco-')[0]}" if "_coco-" in file else ""
        return KnownWeights(name, f"{TORCHVISION}{file}.pth", config)
    return None


def known_names() -> list[str]:
    """Every name that `find_known` knows."""
    detectron = [f"detectron/{line.split()[0]}" for line in _lines(_DETECTRON_RUNS)]
    bodies = [f"detectron/{body}" for body in _DETECTRON_BODIES]
    detectron2 = [f"detectron2://{line.split()[0]}" for line in _lines(_DETECTRON2_RUNS)]
    return [*detectron, *bodies, *detectron2, *(f"torchvision/{name}" for name in _TORCHVISION_FILES)]


def digest_in(address: str) -> tuple[str, str] | None:
    """The kind and the first digits of the digest that an address holds, where its server has that custom."""
    for root, kind, pattern in (
        (TORCHVISION, "sha256", _SHA256_IN_NAME),
        (DETECTRON2, "md5", _MD5_IN_NAME),
    ):
        match = pattern.search(address) if address.startswith(root) else None
        if match is not None:
            return kind, match[1]
    return None


def _of_detectron(name: str, wanted: str) -> KnownWeights:
    if wanted in _DETECTRON_BODIES:
        return KnownWeights(name, f"{DETECTRON}ImageNetPretrained/{_DETECTRON_BODIES[wanted]}")
    runs = {line.split()[0]: line.split()[1:] for line in _lines(_DETECTRON_RUNS)}
    if wanted not in runs:
        raise _unknown(name, wanted, [*runs, *_DETECTRON_BODIES], "detectron/")
    config, stamp = runs[wanted]
    kind = (
        "rpn"
        if config == "rpn_R-50-C4_1x"
        else "retinanet"
        if config.startswith("retinanet")
        else "generalized_rcnn"
    )
    data = "keypoints_coco_2014" if "keypoint" in config or "person" in config else "coco_2014"
    result = f"output/train/{data}_train%3A{data}_valminusminival/{kind}/model_final.pkl"
    if config.endswith("_gn"):
        run = f"GN/{wanted}/04_2018_gn_baselines/{config}_{stamp}"
        return KnownWeights(name, f"{DETECTRON}{run}/{result}", f"04_2018_gn_baselines/{config}")
    run = f"{wanted}/12_2017_baselines/{config}.yaml.{stamp}"
    return KnownWeights(name, f"{DETECTRON}{run}/{result}", f"12_2017_baselines/{config}")


def _of_detectron2(name: str, wanted: str) -> KnownWeights:
    if wanted.endswith((".pkl", ".pth")):  # a path below detectron2's own address
        return KnownWeights(name, DETECTRON2 + wanted)
    runs = {line.split()[0]: line.split()[1:] for line in _lines(_DETECTRON2_RUNS)}
    wanted = wanted.removesuffix(".yaml")
    if wanted not in runs:
        raise _unknown(name, wanted, runs, "detectron2://")
    run, digest = runs[wanted]
    stem = "0039999" if run == "18131413" else "final"
    return KnownWeights(name, f"{DETECTRON2}{wanted}/{run}/model_{stem}_{digest}.pkl")


def _lines(table: str) -> list[str]:
    return table.strip().splitlines()


def _unknown(name: str, wanted: str, known: object, prefix: str) -> WeightsError:
    names = [str(one) for one in known]  # type: ignore[attr-defined]
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.3)
    hint = f" Did you mean {prefix}{near[0]}?" if near else ""
    return WeightsError(
        f"{name} is no known name of public weights; {len(names)} begin with {prefix}, "
        f"such as {prefix}{names[0]}.{hint}"
    )
