"""Files and overrides become configurations, or one message that names every mistake."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from detectune.config.catalogue import KNOBS, find_knobs, nearest_key
from detectune.config.knob import Knob
from detectune.config.load import Config, ConfigError, dump_diff, dump_yaml, load_config
from detectune.config.rules import contradictions

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes train.yaml into the working directory, so that messages begin with that name."""
    monkeypatch.chdir(tmp_path)

    def write_file(text: str) -> Path:
        Path("train.yaml").write_text(textwrap.dedent(text), encoding="utf-8")
        return Path("train.yaml")

    return write_file


def problems(path: Path | str | None, *words: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, words)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_values_of_a_file_and_defaults_around_them(write: Write) -> None:
    config = load_config(
        write("SOLVER:\n  BASE_LR: 1e-3\n  STEPS: [0, 10]\nTEST:\n  SOFT_NMS: {ENABLED: true}\n")
    )
    assert config.diff() == {"SOLVER.STEPS": ([], [0, 10]), "TEST.SOFT_NMS.ENABLED": (False, True)}
    assert config.source == "train.yaml" and config.notices == ()


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "---\n", "{}", "TRAIN:\n  # all commented out\n", "DATASETS:\n"]
)
def test_an_empty_file_has_all_defaults(text: str, write: Write) -> None:
    assert load_config(write(text)) == Config() == load_config(None)


def test_a_key_may_be_written_with_its_path(write: Write) -> None:
    assert load_config(write("SOLVER.BASE_LR: 0.5\n")).SOLVER.BASE_LR == 0.5


def test_all_mistakes_are_named_at_once_in_the_order_of_the_file(write: Write) -> None:
    file = write("""\
        # a comment
        SOLVER:
          BASE_LRR: 0.1
          BASE_LR: -1
          MAX_ITER: many
          LR_POLICY: stepp
          STEPS: [0, -5]
          STEPS: [0, 5]
          LRS:
          BETAS: [0.9]
        SOLVR: {BASE_LR: 1}
        MODEL:
          MASK_ON: 1
          DEVICE: gpu
        TRAIN:
          SCALES: 600
          DATASETS: shapes_train
          FREEZE_AT: 1
        TEST: 5
        """)
    found = problems(file, "SOLVER.MOMENTUM=3", "NUM_GPU=2")
    expected = [
        "train.yaml:3: SOLVER.BASE_LRR is unknown; did you mean SOLVER.BASE_LR?",
        "train.yaml:4: SOLVER.BASE_LR must be a number > 0, not -1.",
        "train.yaml:5: SOLVER.MAX_ITER must be an integer >= 1, not 'many'.",
        "train.yaml:6: SOLVER.LR_POLICY='stepp' is unknown; did you mean step? Otherwise choose one of: step, steps_",
        "train.yaml:7: SOLVER.STEPS[1] must be an integer >= 0, not -5.",
        "train.yaml:8: SOLVER.STEPS is given twice; the first is on line 7.",
        "train.yaml:9: SOLVER.LRS has no value; it must be a list of numbers > 0.",
        "train.yaml:10: SOLVER.BETAS has the wrong length; it must be a list of numbers >= 0 and < 1, such as",
        "train.yaml:11: SOLVR is unknown; did you mean SOLVER?",
        "train.yaml:13: MODEL.MASK_ON must be True or False, not 1.",
        "train.yaml:14: MODEL.DEVICE='gpu' is unknown. Where to compute: `auto`",
        "train.yaml:16: TRAIN.SCALES must be a list of integers > 0, not 600; write [600].",
        "train.yaml:17: TRAIN.DATASETS must be a list of texts, not 'shapes_train'; write [shapes_train].",
        "train.yaml:18: TRAIN.FREEZE_AT must be one of: 0, 2, 3, 4, 5, not 1.",
        "train.yaml:19: TEST is a section and cannot be 5; set one of its keys, such as TEST.WEIGHTS.",
        "override NUM_GPU=2: NUM_GPU is unknown; did you mean NUM_GPUS?",
        "override SOLVER.MOMENTUM=3: SOLVER.MOMENTUM must be a number >= 0 and < 1, not 3.",
    ]
    assert len(found) == len(expected)
    for sentence, beginning in zip(found, expected, strict=True):
        assert sentence.startswith(beginning)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SOLVER:\n  STEPS: [0,\n", "train.yaml:3:1: "),
        (
            "SOLVER:\n\tBASE_LR: 1\n",
            "train.yaml:2:1: a tab stands where only spaces may; indent with spaces.",
        ),
        (
            "SOLVER:\n  BASE_LR: 1\n    MAX_ITER: 2\n",
            "train.yaml:3:13: a key with a value cannot stand here;",
        ),
        (
            "TRAIN:\n  WEIGHTS: @here\n",
            "train.yaml:2:12: found character '@' that cannot start any token; put quotes",
        ),
        ("TRAIN:\n  WEIGHTS: 'x\n", "train.yaml:3:1: found unexpected end of stream"),
        ("NUM_GPUS: *x\n", "train.yaml:1:11: found undefined alias 'x'"),
        ("NUM_GPUS: 1\n---\nNUM_GPUS: 2\n", "train.yaml:2:1: a second document begins;"),
        ("NUM_GPUS: 1\nOUTPUT_DIR: a\x01b\n", "train.yaml:2: the character '\\x01' is not allowed in YAML."),
        (
            "- 1\n- 2\n",
            "train.yaml: a configuration is a mapping such as SOLVER: {BASE_LR: 0.01}, but this is a list.",
        ),
        (
            "hello",
            "train.yaml: a configuration is a mapping such as SOLVER: {BASE_LR: 0.01}, but this is a single",
        ),
        ("NUM_GPUS: &x [*x]\n", "train.yaml:1: an alias stands inside its own anchor."),
        ("NUM_GPUS: !mine 3\n", "train.yaml:1: the tag !mine is not known; write plain values."),
        ("NUM_GPUS: !!int three\n", "train.yaml:1: 'three' does not fit its tag !!int."),
        ("? [a]\n: 1\n", "train.yaml:1: a key must be a plain word"),
        ("SOLVER:\n  NUM_GPUS: 2\n", "train.yaml:2: SOLVER.NUM_GPUS is unknown; did you mean NUM_GPUS?"),
        (
            "TEST:\n  SOFT_NMS:\n    XYZ: 1\n",
            "train.yaml:3: TEST.SOFT_NMS.XYZ is unknown; TEST.SOFT_NMS has ENABLED",
        ),
        ("XYZ: 1\n", "train.yaml:1: XYZ is unknown; `detectune knobs` lists all keys."),
        ("NUM_GPUS: ~\n", "train.yaml:1: NUM_GPUS has no value; it must be an integer >= 1."),
        ("SOLVER: {BASE_LR: .nan}\n", "train.yaml:1: SOLVER.BASE_LR must be a number > 0, not nan."),
        ("SOLVER: {MAX_ITER: 10.5}\n", "train.yaml:1: SOLVER.MAX_ITER must be an integer >= 1, not 10.5."),
        (
            "PIXEL_MEANS: [[[1, 2]]]\n",
            "train.yaml:1: PIXEL_MEANS has the wrong length; it must be a list of numbers",
        ),
        (
            "CASCADE: {BBOX_REG_WEIGHTS: [1.0]}\n",
            "train.yaml:1: CASCADE.BBOX_REG_WEIGHTS[0] must be a list, such as [10.0, 10.0, 5.0, 5.0], not 1.0.",
        ),
        (
            "CASCADE: {BBOX_REG_WEIGHTS: [[1.0, 2.0]]}\n",
            "train.yaml:1: CASCADE.BBOX_REG_WEIGHTS has the wrong length; it must be a list of lists of numbers > 0",
        ),
    ],
)
def test_one_clear_sentence_for_each_mistake(text: str, expected: str, write: Write) -> None:
    (found,) = problems(write(text))
    assert found.startswith(expected)


def test_a_broken_file_does_not_hide_broken_overrides(write: Write) -> None:
    first, second = problems(write("SOLVER: ["), "NUM_GPUS=0")
    assert first.startswith("train.yaml:1:") and second.startswith("override NUM_GPUS=0: ")


def test_aliases_and_merge_keys(write: Write) -> None:
    config = load_config(
        write("""\
        TRAIN: &common
          MAX_SIZE: 500
          DATASETS: &sets [a, b]
        TEST:
          <<: *common
          MAX_SIZE: 600
        """)
    )
    assert config.TEST.DATASETS == config.TRAIN.DATASETS == ("a", "b")
    assert (config.TRAIN.MAX_SIZE, config.TEST.MAX_SIZE) == (500, 600)


def test_an_alias_bomb_is_refused(write: Write) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert any("aliases unfold to more than" in sentence for sentence in problems(write("\n".join(lines))))


def test_files_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    write("")
    assert problems("trian.yaml") == ("trian.yaml: there is no such file. Did you mean train.yaml?",)
    (missing,) = problems("configs/deep/x.yaml")
    assert "Not even the folder configs/deep exists" in missing and str(tmp_path) in missing
    (folder,) = problems(tmp_path)
    assert (
        folder
        == f"{tmp_path}: this is a folder, not a YAML file. The YAML files in {tmp_path} are train.yaml."
    )
    Path("train.yaml").write_bytes(b"OUTPUT_DIR: caf\xe9\n")
    assert problems("train.yaml") == (
        "train.yaml: byte 15 is not UTF-8, so this is no YAML text; save the file as UTF-8.",
    )
    Path("train.yaml").write_bytes("\ufeffOUTPUT_DIR: caf\u00e9\r\n".encode())
    assert load_config("train.yaml").OUTPUT_DIR == "caf\u00e9"


def test_contradictions_point_at_the_line_that_set_the_key(write: Write) -> None:
    file = write("MODEL:\n  NUM_CLASSES: -1\n  MASK_ON: True\n")
    (found,) = problems(file)
    assert found.startswith("train.yaml:3: MODEL.MASK_ON is True but MRCNN.ROI_MASK_HEAD is empty")
    (found,) = problems(None, "MODEL.MASK_ON=True")
    assert found.startswith("override MODEL.MASK_ON=True: MODEL.MASK_ON is True but")


# --- overrides


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["SOLVER.BASE_LR=1e-3"], "SOLVER.BASE_LR", 0.001),
        (["SOLVER.BASE_LR", "1e-3"], "SOLVER.BASE_LR", 0.001),
        (["SOLVER.BASE_LR=2"], "SOLVER.BASE_LR", 2.0),
        (["MODEL.NUM_CLASSES", "-1"], "MODEL.NUM_CLASSES", -1),
        (["SOLVER.BASE_LR=0.1", "SOLVER.BASE_LR=0.2"], "SOLVER.BASE_LR", 0.2),
        (["SOLVER.NESTEROV=True"], "SOLVER.NESTEROV", True),
        (["SOLVER.NESTEROV=on"], "SOLVER.NESTEROV", True),
        (["SOLVER.STEPS=[0, 5]"], "SOLVER.STEPS", [0, 5]),
        (["SOLVER.STEPS=(0, 30000)"], "SOLVER.STEPS", [0, 30000]),
        (["SOLVER.STEPS=0,5"], "SOLVER.STEPS", [0, 5]),
        (["SOLVER.STEPS=[]"], "SOLVER.STEPS", []),
        (["TRAIN.DATASETS=('coco_2014_train',)"], "TRAIN.DATASETS", ("coco_2014_train",)),
        (["TRAIN.DATASETS='a','b'"], "TRAIN.DATASETS", ("a", "b")),
        (["TRAIN.DATASETS", "[a, b]"], "TRAIN.DATASETS", ("a", "b")),
        (["TRAIN.WEIGHTS=b'w.pkl'"], "TRAIN.WEIGHTS", "w.pkl"),
        (["TRAIN.WEIGHTS=a=b: @c"], "TRAIN.WEIGHTS", "a=b: @c"),
        (["TRAIN.WEIGHTS="], "TRAIN.WEIGHTS", ""),
        (["OUTPUT_DIR=2024"], "OUTPUT_DIR", "2024"),
        (["OUTPUT_DIR", "a=b"], "OUTPUT_DIR", "a=b"),
        (["SOLVER={MAX_ITER: 7}"], "SOLVER.MAX_ITER", 7),
    ],
)
def test_overrides_in_every_spelling(words: list[str], key: str, value: Any) -> None:
    found = load_config(None, words).flat()[key]
    assert found == value and type(found) is type(value)


def test_overrides_win_over_the_file_and_mix(write: Write) -> None:
    file = write("SOLVER: {BASE_LR: 0.5, MAX_ITER: 10, GAMMA: 0.5}\n")
    solver = load_config(file, ["SOLVER.BASE_LR", "0.25", "SOLVER.MAX_ITER=20"]).SOLVER
    assert (solver.BASE_LR, solver.MAX_ITER, solver.GAMMA) == (0.25, 20, 0.5)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["SOLVER.BASE_LR=-1"], ["override SOLVER.BASE_LR=-1: SOLVER.BASE_LR must be a number > 0, not -1."]),
        (["--num-gpus", "2"], ["override --num-gpus: this looks like an option"]),
        (
            ["--quick", "NUM_GPUS=0"],
            ["override --quick: this looks", "override NUM_GPUS=0: NUM_GPUS must be"],
        ),
        (["-x=2"], ["override -x=2: this looks like an option"]),
        (["NUM_GPUS"], ["override NUM_GPUS: the value is missing; write NUM_GPUS=VALUE or NUM_GPUS VALUE."]),
        (["NUM_GPUS", "VIS=True"], ["override NUM_GPUS: the value is missing"]),
        (["NUM_GPUS="], ["override NUM_GPUS=: NUM_GPUS has no value; it must be an integer >= 1."]),
        (["NUM_GPUS=null"], ["override NUM_GPUS=null: NUM_GPUS has no value"]),
        (
            ["TRAIN.WEIGHTS=null"],
            ["override TRAIN.WEIGHTS=null: TRAIN.WEIGHTS has no value; it must be a text."],
        ),
        (["NUM_GPUS = 2"], ["override NUM_GPUS = 2: write KEY=VALUE without spaces"]),
        (["=2"], ["override =2: write KEY=VALUE"]),
        (["other.yaml"], ["override other.yaml: other.yaml is unknown; `detectune knobs` lists all keys."]),
        (
            ["SOLVER.BASE_LRR=1"],
            ["override SOLVER.BASE_LRR=1: SOLVER.BASE_LRR is unknown; did you mean SOLVER.BASE_LR?"],
        ),
        (["SOLVER.STEPS=[0"], ["override SOLVER.STEPS=[0: '[0' is no valid value: "]),
        (["SOLVER=5"], ["override SOLVER=5: SOLVER is a section and cannot be 5"]),
        (["SOLVER.BASE_LR.X=5"], ["override SOLVER.BASE_LR.X=5: SOLVER.BASE_LR.X is unknown"]),
    ],
)
def test_mistakes_in_overrides(words: list[str], expected: list[str]) -> None:
    found = problems(None, *words)
    assert len(found) == len(expected)
    for sentence, beginning in zip(found, expected, strict=True):
        assert sentence.startswith(beginning)


def test_with_overrides_makes_a_new_validated_tree(write: Write) -> None:
    config = load_config(write("SOLVER: {BASE_LR: 0.5}\nDATASETS: {a: {images: i, annotations: j}}\n"))
    changed = config.with_overrides({"SOLVER.MAX_ITER": 7, "SOLVER.STEPS": (0, 5), "TEST": {"NMS": 0.25}})
    assert (changed.SOLVER.BASE_LR, changed.SOLVER.MAX_ITER, changed.SOLVER.STEPS) == (0.5, 7, [0, 5])
    assert changed.TEST.NMS == 0.25
    assert changed.source == "train.yaml" and changed.DATASETS == config.DATASETS
    assert config.SOLVER.MAX_ITER == 40000, "the first one did not change"
    with pytest.raises(ConfigError) as caught:
        config.with_overrides({"SOLVER.MAX_ITER": 0.5, "SOLVER.BASE_LRR": 1, "SOLVER.LR_POLICY": None})
    assert [sentence.partition(":")[0] for sentence in caught.value.problems] == [
        "override SOLVER.BASE_LRR=1",
        "override SOLVER.LR_POLICY=None",
        "override SOLVER.MAX_ITER=0.5",
    ]
    with pytest.raises(ConfigError, match=r"SOLVER\.STEPS must start at 0"):
        config.with_overrides({"SOLVER.LR_POLICY": "steps_with_decay", "SOLVER.STEPS": [5]})
    steps = [0, 5]
    held = config.with_overrides({"SOLVER.STEPS": steps})
    steps.append(9)
    assert held.SOLVER.STEPS == [0, 5], "no list is shared with the caller"


# --- data sets of one's own


def test_paths_of_data_sets_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "project", tmp_path / "here"
    (home / "beside").mkdir(parents=True)
    (here / "local").mkdir(parents=True)
    (here / "beside").mkdir()
    monkeypatch.chdir(here)
    file = home / "train.yaml"
    file.write_text(
        "DATASETS:\n  cells: {images: beside, annotations: local}\n  other: {images: /x, annotations: no}\n"
    )
    config = load_config(file)
    assert config.DATASETS["cells"] == {"images": str(home / "beside"), "annotations": str(here / "local")}
    assert config.DATASETS["other"] == {"images": "/x", "annotations": str(home / "no")}
    changed = load_config(
        file, ["DATASETS.cells.images=beside", "DATASETS.a.b={images: x, annotations: y.json}"]
    )
    assert changed.DATASETS["cells"]["images"] == str(here / "beside"), (
        "typed paths mean the working directory"
    )
    assert changed.DATASETS["cells"]["annotations"] == str(here / "local")
    assert changed.DATASETS["a.b"] == {"images": str(here / "x"), "annotations": str(here / "y.json")}
    one = config.with_overrides({"DATASETS.cells.images": "beside"}).DATASETS
    assert one == {name: changed.DATASETS[name] for name in ("cells", "other")}
    assert config.with_overrides({"DATASETS": {}}).DATASETS == {}
    (tmp_path / "root/no").mkdir(parents=True)
    rooted = load_config(file, [f"ROOT_DIR={tmp_path / 'root'}"])
    assert rooted.DATASETS["other"]["annotations"] == str(tmp_path / "root/no")


def test_mistakes_in_data_sets(write: Write) -> None:
    file = write("""\
        DATASETS:
          cells: {images: a}
          foo: 3
          bar:
            images: 3
            annotations: q
            split: z
        """)
    form = "a data set is {images: folder, annotations: file.json}."
    assert problems(file, "DATASETS.cat.images=x", "DATASETS.cat.n=1", "DATASETS.dog=4") == (
        f"train.yaml:2: DATASETS.cells.annotations is missing; {form}",
        f"train.yaml:3: DATASETS.foo cannot be 3; {form}",
        f"train.yaml:5: DATASETS.bar.images must be a text, not 3; {form}",
        f"train.yaml:7: DATASETS.bar.split is unknown; {form}",
        f"override DATASETS.dog=4: DATASETS.dog cannot be 4; {form}",
        f"override DATASETS.cat.n=1: DATASETS.cat.annotations is missing; {form}",
        f"override DATASETS.cat.n=1: DATASETS.cat.n is unknown; {form}",
    )


# --- YAML out and in again


def members(described: Knob) -> st.SearchStrategy[Any]:
    """Legal members of a sequence, or legal values of a plain knob, by type, bounds and choices alone."""
    if described.choices is not None:
        return st.sampled_from(described.choices)
    kind, limits = described.element or described.type, described.range
    low = next((b for b in (limits.ge, limits.gt) if b is not None), None) if limits else None
    high = next((b for b in (limits.le, limits.lt) if b is not None), None) if limits else None
    if kind == "bool":
        return st.booleans()
    if kind == "int":
        numbers = st.integers(
            math.ceil(low) if low is not None else -9, int(high) if high is not None else 10**9
        )
    elif kind == "float":
        numbers = st.floats(low, high, allow_nan=False, allow_infinity=False)
    else:
        return st.text(max_size=12)
    return numbers.filter(lambda number: limits is None or number in limits)


def values_of(described: Knob) -> st.SearchStrategy[Any]:
    plain = members(described)
    if described.element is None:
        return plain
    field = Config.model_fields
    for name in described.key.split(".")[:-1]:
        field = field[name].annotation.model_fields
    arguments = get_args(field[described.key.rpartition(".")[2]].annotation)
    if get_origin(field[described.key.rpartition(".")[2]].annotation) is dict:
        return st.dictionaries(st.text(min_size=1, max_size=12), plain, max_size=3)
    if (
        get_origin(field[described.key.rpartition(".")[2]].annotation) is tuple
        and arguments[-1] is not Ellipsis
    ):
        return st.tuples(*[plain] * len(arguments))
    return st.lists(plain, min_size=1, max_size=4)


DRAWN = [
    described
    for described in KNOBS.values()
    if described.key
    not in (
        "PIXEL_MEANS",
        "EXPECTED_RESULTS",
        "DATASETS",
        "MODEL.DEVICE",
        "TRAIN.BEST_METRIC",
        "CASCADE.BBOX_REG_WEIGHTS",
    )
]


@st.composite
def override_sets(draw: st.DrawFn) -> dict[str, Any]:
    chosen = draw(st.lists(st.sampled_from(DRAWN), min_size=1, max_size=4, unique_by=lambda k: k.key))
    return {described.key: draw(values_of(described)) for described in chosen}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(overrides=override_sets())
def test_any_legal_configuration_survives_yaml(overrides: dict[str, Any], tmp_path: Path) -> None:
    try:
        config = load_config(None, overrides)
    except ConfigError as error:
        # Values are drawn key by key, so that some contradict each other; nothing else may be wrong.
        assert not any(" must be " in sentence and " not " in sentence for sentence in error.problems), error
        assume(False)
    file = tmp_path / "again.yaml"
    for text in (dump_yaml(config), dump_diff(config)):
        file.write_text(text, encoding="utf-8")
        again = load_config(file)
        assert again == config and again.flat() == config.flat()
        assert contradictions(again) == []


PIECES = [
    *(
        "SOLVER:",
        "TRAIN:",
        "DATASETS:",
        "PIXEL_MEANS: ",
        "BASE_LR: ",
        "\n",
        "  ",
        "- ",
        "? ",
        ": ",
        ",",
        "[",
        "]",
        "{",
        "}",
    ),
    *(
        "&x ",
        "*x",
        "<<: ",
        "abc",
        "1",
        "0x",
        "1e999",
        "-.inf",
        "null",
        "'",
        '"',
        "|",
        "#",
        "\t",
        "%YAML 1.1\n---\n",
        "~1",
    ),
    *("!!python/tuple ", "!!python/int ", "!!binary ", "!!set ", "!!float ", "!!python/name:numpy.ndarray "),
    *(
        "!!python/object/apply:numpy.core.multiarray.scalar ",
        "!!python/object/apply:numpy.dtype ",
        "args: ",
        "state: ",
    ),
    *("!!python/object/new:a.AttrDict ", "dictitems: "),
]
WORDS = [
    *(
        "SOLVER.STEPS",
        "SOLVER.STEPS=",
        "DATASETS=",
        "DATASETS=[1]",
        "DATASETS={a: 1}",
        "DATASETS.a=",
        "DATASETS.a.b=",
    ),
    *(
        "DATASETS.=",
        "TRAIN.DATASETS=",
        "PIXEL_MEANS=",
        "EXPECTED_RESULTS=",
        "TRAIN.FREEZE_AT=",
        "MODEL.DEVICE=",
        "SOLVER=",
    ),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.lists(st.sampled_from(PIECES), max_size=20).map("".join) | st.text(max_size=20))
def test_no_text_whatever_causes_anything_but_a_message(text: str, tmp_path: Path) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_config(file)
    except ConfigError as error:
        assert error.problems and all(problem.startswith(str(file)) for problem in error.problems)


@settings(max_examples=150, deadline=None)
@given(
    words=st.lists(
        st.text(max_size=8)
        | st.builds(
            str.__add__, st.sampled_from(WORDS), st.text("[]{}(),:'\"b1e-.~ nulTrue!&*", max_size=10)
        ),
        max_size=4,
    )
)
def test_no_words_whatever_cause_anything_but_a_message(words: list[str]) -> None:
    try:
        load_config(None, words)
    except ConfigError as error:
        assert error.problems and all(problem.startswith("override ") for problem in error.problems)


def test_the_dump_is_complete_and_quiet(write: Write) -> None:
    config = load_config(
        None, {"SOLVER.STEPS": [0, 10], "PIXEL_MEANS": [[[1.0, 2.0, 3.0]]], "TRAIN.WEIGHTS": "1e-3"}
    )
    text = config.to_yaml()
    for key in KNOBS:
        assert f"{key.rpartition('.')[2]}:" in text
    assert "  STEPS: [0, 10]\n" in text and "PIXEL_MEANS: [[[1.0, 2.0, 3.0]]]\n" in text
    again = load_config(write(text))
    assert again == config and again.notices == ()
    assert dump_diff(Config()) == "{}\n" and load_config(write(dump_diff(Config()))) == Config()


def test_scores_by_class(write: Write) -> None:
    """Names are texts whatever they look like; a later mapping replaces an earlier one; mistakes are said by name."""
    file = write("TEST: {SCORE_THRESH_PER_CLASS: {7: 0.5, no: 0, traffic light: 1.0, a.b: 0.25}}\n")
    config = load_config(file)
    assert config.TEST.SCORE_THRESH_PER_CLASS == {"7": 0.5, "no": 0, "traffic light": 1.0, "a.b": 0.25}
    assert load_config(write(config.to_yaml())) == config
    changed = config.with_overrides(["TEST.SCORE_THRESH_PER_CLASS={cat: 0.3}"])
    assert changed.TEST.SCORE_THRESH_PER_CLASS == {"cat": 0.3}
    knob = KNOBS["TEST.SCORE_THRESH_PER_CLASS"]
    assert (knob.type, knob.element, str(knob.range)) == ("mapping", "float", ">= 0 and <= 1")
    file = write("TEST:\n  SCORE_THRESH_PER_CLASS:\n    cat: 0.5\n    dog: 1.5\n")
    between = "must be a number >= 0 and <= 1"
    form = "must be a mapping from names to numbers >= 0 and <= 1, not 0.5"
    assert problems(file, "TEST.SCORE_THRESH_PER_CLASS={cat: x}", "TEST.NMS=0.5") == (
        f"train.yaml:4: TEST.SCORE_THRESH_PER_CLASS: dog {between}, not 1.5.",
        f"override TEST.SCORE_THRESH_PER_CLASS={{cat: x}}: TEST.SCORE_THRESH_PER_CLASS: cat {between}, not 'x'.",
    )
    assert form in problems(None, "TEST.SCORE_THRESH_PER_CLASS=0.5")[0]


def test_expected_results_and_data_sets_survive_yaml(write: Write) -> None:
    overrides = {
        "EXPECTED_RESULTS": [["coco", "box", "AP", 0.38], ["coco", "mask", "AP", 0.35, 0.01]],
        "DATASETS": {
            "null": {"images": "/a b", "annotations": "/c: d"},
            "1": {"images": "/#", "annotations": "/'"},
        },
    }
    config = load_config(None, overrides)
    assert overrides["DATASETS"] == config.DATASETS
    assert load_config(write(config.to_yaml())) == config


# --- finding keys


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("SOLVER.BASE_LRR", "SOLVER.BASE_LR"),
        ("solver.base_lr", "SOLVER.BASE_LR"),
        ("BASE_LR", "SOLVER.BASE_LR"),
        ("TRAIN.BASE_LR", "SOLVER.BASE_LR"),
        ("TRAIN.MAX_ITERS", "SOLVER.MAX_ITER"),
        ("TRAIN.SCALE", "TRAIN.SCALES"),
        ("TEST.SCALS", "TEST.SCALE"),
        ("TEST.BBOXAUG.SCALES", "TEST.BBOX_AUG.SCALES"),
        ("SOLVR", "SOLVER"),
        ("qqqqqq", None),
    ],
)
def test_the_nearest_key(wrong: str, meant: str | None) -> None:
    assert nearest_key(wrong) == meant


def test_find_knobs() -> None:
    assert list(KNOBS.values()) == find_knobs()
    assert [k.key for k in find_knobs("rpn.rpn_on")] == ["RPN.RPN_ON"]
    assert [k.key for k in find_knobs("rpn.*")] == [key for key in KNOBS if key.startswith("RPN.")]
    assert [k.key for k in find_knobs("lr_pol")] == ["SOLVER.LR_POLICY"]
    assert find_knobs("qqqqqq") == []


def test_loading_imports_neither_torch_nor_numpy() -> None:
    program = (
        "import sys, detectune.config.load as l; l.load_config(None, ['SOLVER.BASE_LR=1']).to_yaml();"
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy')))"
    )
    root = Path(__file__).resolve().parents[2]
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=root, env=os.environ, check=False).returncode == 0
    )
