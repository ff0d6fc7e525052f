"""Detectron's old spellings, in this one file: names that changed, keys that are gone, values written as Python.

Detectron read every string as a Python literal when it could, so that its files hold tuples as `(0, 60000)` and
texts as `b'...'`; its checkpoints hold whole configurations dumped with Python tags. All of it becomes plain values
here, by tables and `ast.literal_eval`; nothing is executed and no class is looked up.
"""

from __future__ import annotations

import ast
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from detectune.config.arithmetic import arithmetic
from detectune.config.knob import Knob

# Old key -> (present key, what else has to change).
RENAMED_KEYS: dict[str, tuple[str, str]] = {
    "EXAMPLE.RENAMED.KEY": ("EXAMPLE.KEY", ""),  # Detectron's own example, so that the table is whole
    "MODEL.PS_GRID_SIZE": ("RFCN.PS_GRID_SIZE", ""),
    "MODEL.ROI_HEAD": ("FAST_RCNN.ROI_BOX_HEAD", ""),
    "MRCNN.MASK_HEAD_NAME": ("MRCNN.ROI_MASK_HEAD", ""),
    "TRAIN.DATASET": (
        "TRAIN.DATASETS",
        "write a list: coco_2014_train becomes [coco_2014_train], and names joined by a colon become its entries",
    ),
    "TRAIN.PROPOSAL_FILE": (
        "TRAIN.PROPOSAL_FILES",
        "write a list: path/to/file becomes [path/to/file], and paths joined by a colon become its entries",
    ),
    "TEST.DATASET": ("TEST.DATASETS", "write a list: coco_2014_minival becomes [coco_2014_minival]"),
    "TEST.PROPOSAL_FILE": ("TEST.PROPOSAL_FILES", "write a list: path/to/file becomes [path/to/file]"),
    "TEST.SCALES": ("TEST.SCALE", "write one integer: (600,) becomes 600"),
}

# Keys that Detectron accepted and ignored with a warning -> what to use instead.
DEPRECATED_KEYS: dict[str, str] = {
    "FINAL_MSG": "nothing to set, the log says when a run ends",
    "MODEL.DILATION": "use RESNETS.RES5_DILATION",
    "ROOT_GPU_ID": "choose the GPU with MODEL.DEVICE, such as cuda:1",
    "RPN.ON": "MODEL.FASTER_RCNN and MODEL.RPN_ONLY decide whether there is an RPN",
    "TEST.NUM_TEST_IMAGES": "every image of TEST.DATASETS is tested; name a smaller data set to test fewer",
    "TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED": "MODEL.BBOX_REG_WEIGHTS brings the targets to unit variance",
    "TRAIN.DROPOUT": "no head drops activations; regularise with SOLVER.WEIGHT_DECAY",
    "USE_GPU_NMS": "suppression runs where the network runs, see MODEL.DEVICE",
}

RENAMED_FUNCTIONS: dict[str, str] = {
    "head_builder.add_roi_2mlp_head": "fast_rcnn_heads.add_roi_2mlp_head",
} | {
    f"mask_rcnn_heads.ResNet_mask_rcnn_fcn_head_{kind}": f"mask_rcnn_heads.mask_rcnn_fcn_head_{kind}"
    for kind in ("v0up", "v0upshare", "v1up", "v1up4convs")
}

YAML_1_1_BOOLS = {"yes": True, "on": True, "no": False, "off": False}
QUOTED = re.compile(r"""[bBuU]?(['"]).*\1""", re.DOTALL)


def modern_value(value: Any, knob: Knob) -> Any:
    """The value as a present-day file would hold it; what cannot be read comes back unchanged, to be refused.

    Texts that are Python literals are read, bytes decoded, numpy values unpacked, renamed functions renamed, words
    of YAML 1.1 for true and false understood where a bool is wanted, and numbers written out where a text is wanted.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    value = _without_bytes(value)
    if isinstance(value, str):
        value = _unquoted(value) if knob.type == "str" else literal(value)
        value = _without_bytes(value)
    if isinstance(value, str):
        value = RENAMED_FUNCTIONS.get(value, value)
        if knob.type == "bool":
            value = YAML_1_1_BOOLS.get(value.lower(), value)
    elif knob.type == "str" and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if knob.key == "PIXEL_MEANS" and _is_row(value):
        value = [[list(value)]]  # Detectron's array broadcast over the image either way
    return value


def literal(text: str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # Python's opinion on backslashes in somebody's path
            value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float | str | bytes | tuple | list | dict | None) else text


def _unquoted(text: str) -> str:
    """A text without quotes around it, however many: what Detectron wrote as "'coco'" or "b'coco'"."""
    while QUOTED.fullmatch(text):
        inner = _without_bytes(literal(text))
        if not isinstance(inner, str) or inner == text:
            break
        text = inner
    return text


def _without_bytes(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    if isinstance(value, list | tuple):
        return type(value)(_without_bytes(member) for member in value)
    return value


def _is_row(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(member, int | float) for member in value)
    )


def infer(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that Detectron sets by itself, whatever the file says; `values` maps full keys to values."""
    inferred: dict[str, Any] = {}
    if values["MODEL.RPN_ONLY"] or values["MODEL.FASTER_RCNN"]:
        inferred["RPN.RPN_ON"] = True
    if inferred.get("RPN.RPN_ON", values["RPN.RPN_ON"]) or values["RETINANET.RETINANET_ON"]:
        inferred["TEST.PRECOMPUTED_PROPOSALS"] = False
    return inferred


class UnknownTagError(ValueError):
    """A Python tag that is not among those of Detectron's dumps."""


@dataclass(frozen=True)
class _Dtype:
    """A numpy dtype as it was dumped: kind and bytes ("f8"), byte order ("<")."""

    code: str
    order: str = "<"

    def unpack(self, data: bytes) -> list[Any]:
        """The numbers in a buffer."""
        letter = {"f4": "f", "f8": "d", "i4": "i", "i8": "q", "u1": "B", "b1": "?"}.get(self.code)
        if letter is None:
            raise UnknownTagError(f"numpy values of type {self.code} are not read.")
        order = ">" if self.order == ">" else "<"
        return [number for (number,) in struct.iter_unpack(order + letter, data)]


def read_tagged(tag: str, node: Node, build: Callable[[Node], Any]) -> Any:
    """The plain value of a node with a Python tag, such as `tuple` or `object/apply:numpy.dtype`.

    Args:
        tag: the tag after `!!python/`.
        build: makes the plain value of a node below this one.

    Raises:
        UnknownTagError: for every tag that Detectron's dumps do not have.
    """
    if tag in ("tuple", "list") and isinstance(node, SequenceNode):
        members = [build(member) for member in node.value]
        return tuple(members) if tag == "tuple" else members
    if tag in ("str", "unicode", "bytes", "int", "long", "float", "bool", "none") and isinstance(
        node, ScalarNode
    ):
        text = str(node.value)
        return text if tag in ("str", "unicode", "bytes") else literal(text)
    if re.fullmatch(r"object(/new)?:(\w+\.)*AttrDict", tag) and isinstance(node, MappingNode):
        items = [value for key, value in node.value if key.value == "dictitems"]
        return build(items[0]) if items else {}
    if tag == "name:numpy.ndarray":
        return None
    if tag == "object/apply:eval":  # how detectron2 writes anchors: a sum to be done, in a text
        texts = [str(part.value) for part in node.value] if isinstance(node, SequenceNode) else []
        try:
            return arithmetic(*texts)
        except (ValueError, TypeError) as error:
            raise UnknownTagError(f"the text under !!python/{tag} is no plain arithmetic: {error}") from error
    numpy_name = re.fullmatch(
        r"object/apply:numpy\.(?:_?core\.multiarray\.)?(dtype|scalar|_reconstruct)", tag
    )
    if numpy_name is None:
        raise UnknownTagError(f"the tag !!python/{tag} is refused: a configuration holds plain values only.")
    try:
        return _numpy_value(numpy_name[1], *_call(node, build))
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, struct.error) as error:
        raise UnknownTagError(f"the numpy value under !!python/{tag} cannot be read: {error}") from error


def _call(node: Node, build: Callable[[Node], Any]) -> tuple[list[Any], Any]:
    """(arguments, state) of an `object/apply` node."""
    if isinstance(node, SequenceNode):
        return [build(member) for member in node.value], None
    parts = {str(key.value): build(value) for key, value in node.value}
    return list(parts.get("args", [])), parts.get("state")


def _numpy_value(name: str, arguments: list[Any], state: Any) -> Any:
    if name == "dtype":
        return _Dtype(str(arguments[0]), str(state[1]) if state else "<")
    if name == "scalar":
        return arguments[0].unpack(arguments[1])[0]
    _, shape, dtype, column_major, data = state  # what ndarray.__setstate__ takes
    if column_major and len(shape) > 1:
        raise ValueError("it is stored by columns")
    values = dtype.unpack(data)
    for length in reversed(shape[1:]):
        values = [values[start : start + length] for start in range(0, len(values), length)]
    return values
