"""`detectune knobs`, `config` and `schema`, as a person and as a program read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from detectune.cli.config import config, schema
from detectune.cli.knobs import explain, knobs
from detectune.config.catalogue import KNOBS
from detectune.config.load import ConfigError, load_config
from detectune.errors import OutputError, UserError

FIELDS = ["key", "default", "type", "doc", "unit", "range", "kind", "stage", "search", "source"]
ROOT = Path(__file__).resolve().parents[2]

Capture = pytest.CaptureFixture[str]


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def test_json_lists_all_keys_with_all_fields(capsys: Capture) -> None:
    knobs(None, json_output=True)
    listed = strict(capsys.readouterr().out)
    assert [record["key"] for record in listed] == list(KNOBS)
    for record in listed:
        assert list(record) == FIELDS
        knob = KNOBS[record["key"]]
        assert (record["type"], record["kind"], record["stage"]) == (knob.type, knob.kind, knob.stage)


def test_json_of_one_key_is_a_list_too(capsys: Capture) -> None:
    knobs("SOLVER.LR_POLICY", json_output=True)
    (record,) = strict(capsys.readouterr().out)
    assert record["default"] == "step" and record["source"].startswith("Detectron")
    assert record["range"] == {"choices": list(KNOBS["SOLVER.LR_POLICY"].choices or ())}
    assert record["search"] == {"choices": ["steps_with_decay", "cosine_decay", "one_cycle"]}
    knobs("solver.base_lr", json_output=True)
    (record,) = strict(capsys.readouterr().out)
    assert record["range"] == {"gt": 0} and record["search"] == {"low": 0.0001, "high": 0.1, "scale": "log"}
    knobs("MATLAB", json_output=True)
    assert "Obsolete: " in strict(capsys.readouterr().out)[0]["doc"]


@pytest.mark.usefixtures("pipe")
def test_in_a_pipe_each_key_has_one_line(capsys: Capture) -> None:
    knobs(None, json_output=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" = ")[0] for line in lines] == list(KNOBS)
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("columns", [48, 60, 99, 100, 140])
def test_lines_fit_the_terminal_and_keys_stay_whole(
    columns: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    knobs(None, json_output=False)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= columns
    words = set(shown.split())
    assert set(KNOBS) <= words
    assert f"{len(KNOBS)} keys." in shown


@pytest.mark.parametrize("columns", [60, 100])
def test_every_key_is_explained_within_the_width(columns: int) -> None:
    for knob in KNOBS.values():
        lines = explain(knob, width=columns)
        assert lines[0] == knob.key
        assert max(map(len, lines)) <= columns, knob.key
        told = " ".join(" ".join(lines).split())
        for said in (
            knob.doc,
            knob.kind,
            knob.source,
            knob.unit or "",
            knob.obsolete or "",
            str(knob.range or ""),
        ):
            assert said in told, (knob.key, said)


def test_an_explanation(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    knobs("solver.base_lr", json_output=False)
    shown = capsys.readouterr().out
    for line in (
        "  Default       0.001",
        "  Type          float",
        "  Range         > 0",
        "  On change     train again",
        "  Worth trying  0.0001 to 0.1, logarithmic scale",
        "  In YAML       SOLVER: {BASE_LR: 0.001}",
    ):
        assert line in shown.splitlines()


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("SOLVER.BASE_LRR", "did you mean SOLVER.BASE_LR?"),
        ("momentom", "did you mean SOLVER.MOMENTUM"),
        ("qqqqqq", "`detectune knobs` lists all keys."),
        ("XX.*", "`detectune knobs` lists all keys."),
    ],
)
@pytest.mark.parametrize("json_output", [False, True])
def test_no_match_names_the_nearest(pattern: str, hint: str, json_output: bool) -> None:
    with pytest.raises(UserError) as caught:
        knobs(pattern, json_output=json_output)
    assert str(caught.value).startswith(f"No key matches {pattern}; {hint}")


def test_patterns(capsys: Capture) -> None:
    knobs("test.*_nms*", json_output=True)
    found = [record["key"] for record in strict(capsys.readouterr().out)]
    assert found == [key for key in KNOBS if key.startswith("TEST.") and "_NMS" in key]


def test_config_prints_a_tree_that_loads_back_and_the_differences(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("SOLVER: {BASE_LR: 0.5}\nMATLAB: octave\n")
    config(str(file), ["SOLVER.MAX_ITER=7", "SOLVER.STEPS", "[0, 5]"], json_output=False)
    shown = capsys.readouterr()
    again = tmp_path / "again.yaml"
    again.write_text(shown.out)
    expected = load_config(file, ["SOLVER.MAX_ITER=7", "SOLVER.STEPS=[0, 5]"])
    assert load_config(again) == expected
    assert shown.out.splitlines()[-5:] == [
        "# 4 keys differ from the defaults:",
        '#   MATLAB: "octave"  (default "matlab")',
        "#   SOLVER.BASE_LR: 0.5  (default 0.001)",
        "#   SOLVER.STEPS: [0, 5]  (default [])",
        "#   SOLVER.MAX_ITER: 7  (default 40000)",
    ]
    assert f"{file}:2: MATLAB is obsolete" in shown.err
    config(str(file), None, json_output=True)
    assert strict(capsys.readouterr().out) == json.loads(json.dumps(load_config(file).tree()))


def test_config_of_defaults_says_so(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty.yaml").write_text("")
    config(str(tmp_path / "empty.yaml"), [], json_output=False)
    assert capsys.readouterr().out.endswith("# All keys have their defaults.\n")


def test_config_names_mistakes(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("SOLVER: {BASE_LRR: 1}\n")
    with pytest.raises(ConfigError, match="did you mean"):
        config(str(tmp_path / "bad.yaml"), ["NUM_GPUS=0"], json_output=False)
    with pytest.raises(UserError):
        config(str(tmp_path / "bda.yaml"), [], json_output=True)


def test_schema_to_the_terminal_and_to_a_file(tmp_path: Path, capsys: Capture) -> None:
    schema(None)
    printed = capsys.readouterr().out
    assert strict(printed)["properties"]["SOLVER"]["properties"]["BASE_LR"]["exclusiveMinimum"] == 0
    target = tmp_path / "new folder" / "detectune.schema.json"
    schema(target)
    assert target.read_text() == printed
    assert f"$schema={target}" in capsys.readouterr().out
    with pytest.raises(OutputError, match="cannot be written"):
        schema(target / "below_a_file.json")


def test_the_command_answers_without_torch_even_into_a_closed_pipe() -> None:
    program = (
        "import sys, typer\nfrom detectune.cli.knobs import knobs\n"
        "app = typer.Typer()\napp.command()(knobs)\napp(['base_lr'], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'ruamel.yaml'} & set(sys.modules)\nsys.exit(f'imported {heavy}' if heavy else 0)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    shown = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("SOLVER.BASE_LR = 0.001  Learning rate")
