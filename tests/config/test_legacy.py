"""Detectron's files, in the spellings that they have, and the dumps inside its checkpoints."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from detectune.config.catalogue import KNOBS
from detectune.config.legacy import DEPRECATED_KEYS, RENAMED_FUNCTIONS, RENAMED_KEYS, modern_value
from detectune.config.load import Config, ConfigError, load_config

DEFAULTS = Config().flat()


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "golden/detectron/defaults.json").read_text())


@pytest.fixture(scope="module")
def original_files(shared: Path) -> dict[str, dict[str, Any]]:
    return json.loads((shared / "golden/detectron/yaml_values.json").read_text())


def plain(value: Any) -> str:
    return repr(value) if isinstance(value, bool | int | float) or value == "" else str(value)


def spelt_as_blocks(value: Any, indent: str) -> str:
    """Lists as `- member` lines, texts without quotes."""
    if isinstance(value, list):
        return "".join(f"\n{indent}- {plain(member)}" for member in value) or " []"
    return " " + plain(value)


def spelt_in_flow(value: Any, indent: str) -> str:
    return " " + json.dumps(value)


def spelt_as_tuples(value: Any, indent: str) -> str:
    """Python tuples without quotes around them, which YAML takes for texts; numbers are quoted."""
    if isinstance(value, list):
        return f" {tuple(value)!r}"
    return f" {value!r}" if isinstance(value, str | bool) else f" '{value!r}'"


def spelt_as_bytes(value: Any, indent: str) -> str:
    """What Python 2's texts became: b'...', alone and inside tuples."""
    if isinstance(value, list):
        return f" {tuple(v.encode() if isinstance(v, str) else v for v in value)!r}"
    return f" {value.encode()!r}" if isinstance(value, str) else f" {value!r}"


def spelt_with_tags(value: Any, indent: str) -> str:
    """What Python's YAML library dumped."""
    if isinstance(value, list):
        return " !!python/tuple [" + ", ".join(json.dumps(member) for member in value) + "]"
    return f" !!python/unicode {json.dumps(value)}" if isinstance(value, str) else f" {value!r}"


def write(values: Mapping[str, Any], spelt: Callable[[Any, str], str], indent: str = "") -> str:
    text = ""
    for name in dict.fromkeys(key.partition(".")[0] for key in values):
        below = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(name + ".")}
        if below:
            text += f"{indent}{name}:\n{write(below, spelt, indent + '  ')}"
        else:
            text += f"{indent}{name}:{spelt(values[name], indent)}\n"
    return text


def as_held(key: str, value: Any) -> Any:
    if isinstance(value, str):
        return RENAMED_FUNCTIONS.get(value, value)
    return tuple(value) if isinstance(DEFAULTS[key], tuple) else value


def inferred(values: Mapping[str, Any]) -> dict[str, Any]:
    """What Detectron's assert_and_infer_cfg adds."""
    rpn = values.get("MODEL.RPN_ONLY", False) or values.get("MODEL.FASTER_RCNN", False)
    one_stage = values.get("RETINANET.RETINANET_ON", False)
    return ({"RPN.RPN_ON": True} if rpn else {}) | (
        {"TEST.PRECOMPUTED_PROPOSALS": False} if rpn or one_stage else {}
    )


@pytest.mark.parametrize(
    "spelt", [spelt_as_blocks, spelt_in_flow, spelt_as_tuples, spelt_as_bytes, spelt_with_tags]
)
def test_the_87_original_files_load_with_exactly_their_values(
    spelt: Callable[[Any, str], str], original_files: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    assert len(original_files) == 87
    file = tmp_path / "original.yaml"
    for name, values in original_files.items():
        file.write_text(write(values, spelt))
        config = load_config(file)
        expected = DEFAULTS | inferred(values) | {key: as_held(key, value) for key, value in values.items()}
        found = config.flat()
        assert found == expected, name
        assert {key: type(value) for key, value in found.items()} == {
            key: type(value) for key, value in DEFAULTS.items()
        }, name
        assert config.notices == (), name


def test_dumps_inside_checkpoints_load(shared: Path) -> None:
    files = sorted((shared / "golden/detectron").glob("*/saved_cfg.yaml"))
    assert len(files) == 3
    for file in files:
        record = json.loads((file.parent / "config.json").read_text())
        config = load_config(file)
        flat = config.flat()
        for key, value in record["merged_values"].items():
            if key not in record["overrides_used_here"]:
                assert flat[key] == as_held(key, value), (file, key)
        assert load_config(None, {k: v for k, v in flat.items() if k in record["merged_values"]}) == config


def test_tables_are_detectrons(golden: dict[str, Any]) -> None:
    renamed = {
        old: new["new_key"] if isinstance(new, dict) else new
        for old, new in golden["renamed_keys_raise_KeyError"].items()
    }
    assert {old: new for old, (new, _) in RENAMED_KEYS.items()} == renamed
    with_advice = {old for old, new in golden["renamed_keys_raise_KeyError"].items() if isinstance(new, dict)}
    assert {old for old, (_, advice) in RENAMED_KEYS.items() if advice} == with_advice
    assert set(DEPRECATED_KEYS) == set(golden["deprecated_keys_ignored_with_warning"])
    assert golden["renamed_functions"] == RENAMED_FUNCTIONS


@pytest.mark.parametrize("old", [old for old in RENAMED_KEYS if not old.startswith("EXAMPLE")])
def test_renamed_keys_are_errors_that_name_the_present_key(old: str, tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    *sections, name = old.split(".")
    lines = [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
    file.write_text("# a comment\n" + "\n".join([*lines, f"{'  ' * len(sections)}{name}: x"]))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    new, advice = RENAMED_KEYS[old]
    assert caught.value.problems[0].startswith(f"{file}:{len(sections) + 2}: {old} was renamed to {new}")
    assert advice in str(caught.value) and len(caught.value.problems) == 1


@pytest.mark.parametrize("old", RENAMED_KEYS)
def test_renamed_keys_are_errors_in_overrides_too(old: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"{old}=x"])
    assert str(caught.value).startswith(f"override {old}=x: {old} was renamed to {RENAMED_KEYS[old][0]};")


def test_deprecated_and_obsolete_keys_are_accepted_and_said_once(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(
        "MATLAB: octave\nUSE_GPU_NMS: True\nMEMONGER: True\nTRAIN:\n  DROPOUT: 0.5\nRPN: {ON: True}\n"
    )
    config = load_config(file, ["ROOT_GPU_ID=1", "MATLAB=octave"])
    said = "\n".join(config.notices)
    for place in (
        f"{file}:1: MATLAB",
        f"{file}:2: USE_GPU_NMS",
        f"{file}:5: TRAIN.DROPOUT",
        f"{file}:6: RPN.ON",
    ):
        assert place in said
    assert "override ROOT_GPU_ID=1: ROOT_GPU_ID is deprecated" in said
    assert "MEMONGER" not in said, "a key at its default asks for nothing"
    assert len(set(config.notices)) == len(config.notices)
    assert {key for key in config.diff()} == {"MATLAB"}
    assert config.with_overrides({"SOLVER.BASE_LR": 0.5}).notices == config.notices
    assert load_config(file).notices == load_config(file).notices, "no state is kept between loads"


def test_the_rpn_follows_what_switches_it_on() -> None:
    heads = {
        "FAST_RCNN.ROI_BOX_HEAD": "fast_rcnn_heads.add_roi_2mlp_head",
        "MODEL.CONV_BODY": "ResNet.add_ResNet50_conv5_body",
    }
    config = load_config(None, {"MODEL.FASTER_RCNN": True, **heads})
    assert config.RPN.RPN_ON and not config.TEST.PRECOMPUTED_PROPOSALS
    back = config.with_overrides({"MODEL.FASTER_RCNN": False})
    assert not back.RPN.RPN_ON and back.TEST.PRECOMPUTED_PROPOSALS
    assert load_config(None, {"RPN.RPN_ON": True}).RPN.RPN_ON, "an explicit value stays"
    assert not load_config(None, {"RPN.RPN_ON": True}).TEST.PRECOMPUTED_PROPOSALS


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("SOLVER.STEPS", "(0, 60000, 80000)", (0, 60000, 80000)),
        ("SOLVER.STEPS", " [0, 1] ", [0, 1]),
        ("SOLVER.BASE_LR", "0.02", 0.02),
        ("SOLVER.LRS", "(1e-3,)", (1e-3,)),
        ("MODEL.MASK_ON", "True", True),
        ("MODEL.MASK_ON", "yes", True),
        ("MODEL.MASK_ON", "Off", False),
        ("TRAIN.DATASETS", "('a', b'b')", ("a", "b")),
        ("TRAIN.DATASETS", [b"a"], ["a"]),
        ("TRAIN.WEIGHTS", b"w.pkl", "w.pkl"),
        ("TRAIN.WEIGHTS", "b'w.pkl'", "w.pkl"),
        ("TRAIN.WEIGHTS", "u'w.pkl'", "w.pkl"),
        ("TRAIN.WEIGHTS", "\"'w.pkl'\"", "w.pkl"),
        ("TRAIN.WEIGHTS", "it's", "it's"),
        ("TRAIN.WEIGHTS", "'a' and 'b'", "'a' and 'b'"),
        ("TRAIN.WEIGHTS", "(1, 2)", "(1, 2)"),
        ("OUTPUT_DIR", 2024, "2024"),
        ("OUTPUT_DIR", True, True),
        ("SOLVER.MAX_ITER", "open('x')", "open('x')"),
        ("SOLVER.MAX_ITER", "{1, 2}", "{1, 2}"),
        ("SOLVER.MAX_ITER", "(" * 500, "(" * 500),
        ("PIXEL_MEANS", [1.0, 2.0, 3.0], [[[1.0, 2.0, 3.0]]]),
        ("PIXEL_MEANS", "[[[1.0, 2.0, 3.0]]]", [[[1.0, 2.0, 3.0]]]),
    ],
)
def test_old_spellings_of_values(key: str, old: Any, new: Any) -> None:
    found = modern_value(old, KNOBS[key])
    assert found == new and type(found) is type(new)
    assert modern_value(found, KNOBS[key]) == found, "reading again changes nothing"


def test_numpy_values_become_plain_ones() -> None:
    numpy = pytest.importorskip("numpy")
    config = load_config(
        None, {"PIXEL_MEANS": numpy.array([[[1, 2, 3]]]), "SOLVER.BASE_LR": numpy.float64(0.5)}
    )
    assert config.PIXEL_MEANS == [[[1.0, 2.0, 3.0]]] and type(config.SOLVER.BASE_LR) is float


@pytest.mark.parametrize(
    "tag",
    [
        "object/apply:os.system",
        "object/new:subprocess.Popen",
        "object/apply:numpy.load",
        "name:os.system",
        "module:os",
        "object/apply:builtins.eval",
    ],
)
def test_foreign_tags_are_refused_and_never_run(tag: str, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    file = tmp_path / "evil.yaml"
    body = "''" if tag.startswith(("name", "module")) else f"['touch {proof}']"
    file.write_text(f"SOLVER:\n  BASE_LR: !!python/{tag} {body}\n  MAX_ITER: -1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert not proof.exists()
    first, second = caught.value.problems
    assert first.startswith(f"{file}:2: the tag !!python/{tag} is refused")
    assert second.startswith(f"{file}:3: SOLVER.MAX_ITER")


def dumped_array(numbers: bytes, code: str, order: str, shape: str) -> str:
    dtype = (
        f"!!python/object/apply:numpy.dtype {{args: [{code}, 0, 1], state: !!python/tuple [3, '{order}']}}"
    )
    return (
        "!!python/object/apply:numpy.core.multiarray._reconstruct\n  args: []\n"
        f"  state: !!python/tuple [1, !!python/tuple [{shape}], {dtype}, false, "
        f"!!binary {base64.b64encode(numbers).decode()}]\n"
    )


@pytest.mark.parametrize(
    ("code", "order", "form"), [("f8", "<", "<3d"), ("f4", ">", ">3f"), ("i8", "<", "<3q")]
)
def test_dumped_arrays_of_any_byte_order(code: str, order: str, form: str, tmp_path: Path) -> None:
    file = tmp_path / "array.yaml"
    file.write_text("PIXEL_MEANS: " + dumped_array(struct.pack(form, 1, 2, 3), code, order, "1, 1, 3"))
    assert load_config(file).PIXEL_MEANS == [[[1.0, 2.0, 3.0]]]


def test_a_broken_dumped_array_is_named(tmp_path: Path) -> None:
    file = tmp_path / "array.yaml"
    file.write_text("PIXEL_MEANS: " + dumped_array(b"12345", "f8", "<", "1, 1, 3"))
    with pytest.raises(ConfigError, match=r"array\.yaml:1: the numpy value"):
        load_config(file)
