"""`detectune config`: what a configuration comes to. `detectune schema`: its form, for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from detectune.errors import OutputError

OPTIONS = ("--json", "--debug", "--help")


def config(
    file: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file or the name of a packaged one.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings that replace those of the file; KEY VALUE works too.",
            show_default=False,
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="The nested tree as JSON.")] = False,
) -> None:
    """Print CONFIG with all defaults filled in, and what differs from them."""
    from detectune.cli.loading import load_for_command

    settings = load_for_command(file, overrides, options=OPTIONS)
    if json_output:
        print(json.dumps(settings.tree(), indent=2, allow_nan=False))
        return
    print(settings.to_yaml())
    different = settings.diff()
    print(
        f"# {len(different)} keys differ from the defaults:"
        if different
        else "# All keys have their defaults."
    )
    for key, (default, value) in different.items():
        print(f"#   {key}: {_shown(value)}  (default {_shown(default)})")


def schema(
    output: Annotated[
        Path | None, typer.Option(help="File to write. Default: the terminal.", show_default=False)
    ] = None,
) -> None:
    """Write the JSON schema with which an editor completes and checks YAML."""
    from detectune.config.schema import schema_text

    text = schema_text()
    if output is None:
        print(text, end="")
        return
    output = output.expanduser()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{output} cannot be written ({error.strerror}); choose another file.") from error
    print(f"Schema: {output}")
    print(f"First line of a YAML file that uses it: # yaml-language-server: $schema={output}")


def _shown(value: object) -> str:
    return json.dumps(value, default=str)  # on one line, and YAML too
