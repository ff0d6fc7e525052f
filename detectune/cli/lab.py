"""`detectune lab`: experiments for those who learn to tune. Each prints a table and leaves numbers and a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False)

OutputOption = Annotated[Path, typer.Option("--output", metavar="DIR", help="Where numbers and page go.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of everything that is drawn by chance.")]


@app.command("surfaces", short_help="Update rules on surfaces you can see")
def surfaces(
    output: OutputOption = Path("lab_surfaces"),
    seed: SeedOption = 0,
    gifs: Annotated[bool, typer.Option(help="Write an animated GIF of each surface.")] = True,
) -> None:
    """Let optimisers walk over a ravine, Beale's and Rosenbrock's functions and a saddle.

    Leaves surfaces.html (play, stop, point at the paths), surfaces.json and GIFs. A minute on two cores.
    """
    import json

    from detectune.cli.lab_tables import print_table
    from detectune.engine.run_directory import output_errors, write_text
    from detectune.lab.surfaces import measure_surfaces
    from detectune.report.surface_gifs import write_surface_gifs
    from detectune.report.surfaces import show_count, write_surfaces_page

    output = output.expanduser()
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    measured = measure_surfaces(seed=seed, log=progress)
    write_text(output / "surfaces.json", json.dumps(measured))
    found = measured["surfaces"]
    print("Steps to the minimum at the best rate; steps from the saddle.\n")
    print_table(
        ["optimiser", *(surface["name"] for surface in found)],
        [
            [runs[0]["optimiser"], *(show_count(run["steps"]) for run in runs)]
            for runs in zip(*(surface["runs"] for surface in found), strict=True)
        ],
    )
    print(f"\nPage: {write_surfaces_page(output)}")
    if gifs:
        for file in write_surface_gifs(output):
            print(f"GIF:  {file}")


def progress(line: str) -> None:
    """What is being done, on a terminal in one line that is overwritten."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
