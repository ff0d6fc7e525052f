"""`detectune compare`: is one run better than another, or luckier?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detectune.errors import UserError


def compare(
    run_a: Annotated[
        str, typer.Argument(metavar="RUN_A", help="A run directory or a configuration: what there is.")
    ],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another: what may be better.")],
    seeds: Annotated[int, typer.Option(help="Seeds of each, runs that are there included.")] = 5,
    metric: Annotated[
        str | None,
        typer.Option(
            help="What is compared. Default: by what RUN_A chooses its best weights.", show_default=False
        ),
    ] = None,
    paired: Annotated[
        bool, typer.Option("--paired", help="Judge the differences seed by seed, not the two means.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    output: Annotated[Path, typer.Option(help="Where runs of configurations and comparison.json go.")] = Path(
        "comparisons"
    ),
) -> None:
    """Train both with the same seeds and say whether to adopt RUN_B, with an interval of its gain.

    Run directories keep their runs with other seeds in seeds/, for the next comparison. The same command again goes on.
    """
    from detectune.cli.places import find_config
    from detectune.tuner.compare import compare as compare_sides
    from detectune.tuner.compare import read_side, write_comparison
    from detectune.tuner.workers import LocalPool

    if seeds < 2:
        raise UserError(f"--seeds must be at least 2, not {seeds}: one run says nothing about its noise.")
    if workers < 1:
        raise UserError(f"--workers must be at least 1, not {workers}.")
    sides = []
    for name in (run_a, run_b):
        path = Path(name).expanduser()
        given = path if path.is_dir() and (path / "config.yaml").is_file() else find_config(name)
        side = read_side(given, output=output.expanduser(), metric=metric)
        if side.notice:
            print(f"Notice: {side.notice}")
        sides.append(side)
    if sides[0].folder == sides[1].folder:
        raise UserError(
            f"{run_a} and {run_b} would share the folder {sides[0].folder}; give two that differ."
        )
    with LocalPool(workers) as pool:
        found = compare_sides(
            sides[0], sides[1], seeds=seeds, metric=metric, method="paired" if paired else "welch",
            pool=pool, workers=workers, log=_log,
        )  # fmt: skip
    file = output.expanduser() / f"{Path(run_a).stem}_{Path(run_b).stem}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_comparison(file, found)
    for row in found["sides"]:
        print(f"{row['name']}: {' '.join('-' if v is None else f'{v:.4g}' for v in row['values'])}")
    print(found["conclusion"])
    print(f"Values and interval: {file}")


def _log(message: str) -> None:
    print(message, flush=True)
