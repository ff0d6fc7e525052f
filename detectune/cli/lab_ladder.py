"""`detectune lab ladder`: the MNIST ladder, trained, measured and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def ladder(
    rungs: Annotated[
        str | None,
        typer.Option(metavar="1-4", help="Which: 1-4, 1,3,9 or all. Default: 1-4.", show_default=False),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Networks of each rung. Default: 3; with --quick 2.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="5,000 images and a few epochs: under two minutes on two cores.")
    ] = False,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="All images, but a quarter of the source's epochs for rungs 1 to 4."),
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Where runs, numbers and page go.")
    ] = Path("lab_ladder"),
) -> None:
    """Train the rungs of the MNIST ladder and compare them with what the source reports.

    Leaves a run directory for each network, ladder.json and ladder.html. The same command again goes on where an
    interrupted one stopped, and trains nothing twice. At full length rung 1 takes minutes, rungs 5 to 9 hours. Without
    MNIST, --quick takes scikit-learn's digits and says so.
    """
    from detectune.cli.places import find_config
    from detectune.engine.run_directory import output_errors
    from detectune.lab.ladder import Length, choose_rungs, run_ladder
    from detectune.report.ladder import write_ladder_page

    chosen = choose_rungs(rungs or "1-4")
    length: Length = "quick" if quick else "fast" if fast else "full"
    output = output.expanduser() / length
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    table = run_ladder(
        [(rung, find_config(rung.config)) for rung in chosen],
        seeds=seeds or (2 if quick else 3),
        output=output,
        length=length,
        log=_say,
    )
    print("\n" + ladder_table(table))
    print(f"\nPage: {write_ladder_page(output)}")


def ladder_table(table: dict[str, Any]) -> str:
    """The rungs below each other, in 60 columns."""
    lines = [
        f"Data: {table['source']}",
        f"Accuracy in percent on {table['num_test']} test images,",
        f"at the epoch that was best on {table['validation']}.",
        "",
        f"{'':<3}{'':<30}{'source':>7}{'mean':>8}{'sd':>6}{'error':>6}",
    ]
    for row in table["rungs"]:
        sd = "-" if row["sd"] is None else f"{100 * row['sd']:.2f}"
        source = "-" if row["reported"] is None or table["length"] == "quick" else f"{row['reported']:.2f}"
        lines.append(
            f"{row['number']:<3}{row['about'][:29]:<30}{source:>7}{100 * row['mean']:>8.2f}{sd:>6}"
            f"{100 * row['binomial']:>6.2f}"
        )
    lines += ["", "sd: over seeds.  error: what so few test images leave open."]
    if table["length"] == "quick":
        lines.append("Few images, few epochs: the source's figures are for all.")
    return "\n".join(lines)


def _say(line: str) -> None:
    print(line, flush=True)
