"""Caffe's weights files, written here by Google's own protocol buffers from the numbers of the fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from detectune.errors import WeightsError
from detectune.weights.caffe import read_caffemodel, to_detectron_blobs

TYPES = {"float": 2, "int64": 3, "int32": 5, "string": 9, "message": 11, "double": 1, "enum": 5}
MESSAGES: dict[str, list[tuple[str, int, str, str, bool]]] = {  # name, number, type, message, repeated
    "BlobShape": [("dim", 1, "int64", "", True)],
    "BlobProto": [
        ("num", 1, "int32", "", False), ("channels", 2, "int32", "", False), ("height", 3, "int32", "", False),
        ("width", 4, "int32", "", False), ("data", 5, "float", "", True), ("shape", 7, "message", "BlobShape", False),
        ("double_data", 8, "double", "", True),
    ],
    "LayerParameter": [
        ("name", 1, "string", "", False), ("type", 2, "string", "", False), ("bottom", 3, "string", "", True),
        ("blobs", 7, "message", "BlobProto", True),
    ],
    "V1LayerParameter": [
        ("name", 4, "string", "", False), ("type", 5, "enum", "", False), ("blobs", 6, "message", "BlobProto", True),
    ],
    "NetParameter": [
        ("name", 1, "string", "", False), ("layers", 2, "message", "V1LayerParameter", True),
        ("layer", 100, "message", "LayerParameter", True),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def net_parameter() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="caffe_subset.proto", package="caffe", syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, of, repeated in fields:
            field = message.field.add(
                name=field_name, number=number, label=3 if repeated else 1, type=TYPES[kind]
            )
            if of:
                field.type_name = f".caffe.{of}"
            if kind in ("float", "double", "int64") and repeated:
                field.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def add(net: Any, name: str, kind: str, *arrays: np.ndarray) -> None:
    layer = net.layer.add(name=name, type=kind, bottom=["below"])
    for array in arrays:
        blob = layer.blobs.add()
        blob.shape.dim.extend(array.shape)
        blob.data.extend(array.reshape(-1).tolist())


def written(net: Any, path: Path) -> Path:
    path.write_bytes(net.SerializeToString())
    return path


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_residual_network_becomes_detectrons_blobs(net_parameter: Any, tmp_path: Path) -> None:
    net = net_parameter(name="ResNet")
    net.layer.add(name="input", type="Input")
    weight, fc, bias = numbers(4, 3, 7, 7), numbers(10, 8, seed=1), numbers(10, seed=2)
    mean, variance = numbers(4, seed=3), numbers(4, seed=4) ** 2 + 0.5
    gamma, beta = numbers(4, seed=5), numbers(4, seed=6)
    add(net, "res4b11_branch2c", "Convolution", weight)  # without a bias
    add(net, "bn4b11_branch2c", "BatchNorm", mean * 2, variance * 2, np.array([2.0], np.float32))
    add(net, "scale4b11_branch2c", "Scale", gamma, beta)
    add(net, "res2a_branch1", "Convolution", weight, numbers(4, seed=7))
    add(net, "fc1000", "InnerProduct", fc, bias)
    blobs = to_detectron_blobs(read_caffemodel(written(net, tmp_path / "net.caffemodel")))
    assert set(blobs) == {
        "res4_11_branch2c_w", "res4_11_branch2c_b", "res4_11_branch2c_bn_s", "res4_11_branch2c_bn_b",
        "res2_0_branch1_w", "res2_0_branch1_b", "fc1000_w", "fc1000_b",
    }  # fmt: skip
    np.testing.assert_array_equal(blobs["res4_11_branch2c_w"], weight)
    np.testing.assert_array_equal(blobs["res4_11_branch2c_b"], 0)
    np.testing.assert_array_equal(blobs["fc1000_w"], fc)
    np.testing.assert_array_equal(blobs["fc1000_b"], bias)
    x = numbers(5, 4, seed=8)
    expected = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    found = x * blobs["res4_11_branch2c_bn_s"] + blobs["res4_11_branch2c_bn_b"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_first_version_of_the_format_is_read(net_parameter: Any, tmp_path: Path) -> None:
    net = net_parameter()
    layer = net.layers.add(name="fc6", type=14)  # InnerProduct
    weight = numbers(2, 6)
    layer.blobs.add(num=1, channels=1, height=2, width=6, data=weight.reshape(-1).tolist())
    layer.blobs.add(num=1, channels=1, height=1, width=2, double_data=[0.5, -1.5])
    blobs = to_detectron_blobs(read_caffemodel(written(net, tmp_path / "old.caffemodel")))
    np.testing.assert_array_equal(blobs["fc6_w"], weight)
    assert blobs["fc6_b"].tolist() == [0.5, -1.5] and blobs["fc6_b"].dtype == np.float32


def test_what_cannot_be_converted_is_named(net_parameter: Any, tmp_path: Path) -> None:
    alone = net_parameter()
    add(alone, "bn1", "BatchNorm", numbers(4), numbers(4), numbers(1))
    with pytest.raises(WeightsError, match="bn1"):
        to_detectron_blobs(read_caffemodel(written(alone, tmp_path / "a.caffemodel")))
    strange = net_parameter()
    add(strange, "p1", "PReLU", numbers(4))
    with pytest.raises(WeightsError, match="p1 is a PReLU"):
        to_detectron_blobs(read_caffemodel(written(strange, tmp_path / "b.caffemodel")))
    with pytest.raises(WeightsError, match="no weights in this file"):
        read_caffemodel(written(net_parameter(name="empty"), tmp_path / "c.caffemodel"))


@pytest.mark.parametrize("keep", [0.3, 0.99])
def test_cut_off_files_are_named(net_parameter: Any, tmp_path: Path, keep: float) -> None:
    net = net_parameter(name="ResNet")
    add(net, "conv1", "Convolution", numbers(4, 3, 7, 7))
    path = written(net, tmp_path / "cut.caffemodel")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(WeightsError, match=r"cut\.caffemodel"):
        read_caffemodel(path)
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(WeightsError, match=r"no \.caffemodel"):
        read_caffemodel(path)
    with pytest.raises(WeightsError, match="cannot be opened"):
        read_caffemodel(tmp_path / "absent.caffemodel")
