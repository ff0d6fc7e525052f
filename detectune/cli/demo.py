"""`detectune demo`: the whole way on generated images, and whether the result is what it should be."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

CONFIG = "getting_started/shapes"
BARS = {"bbox/AP": 0.60, "segm/AP": 0.55}
OPTIONS = ("--output", "--debug", "--help")


def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings to change, such as SOLVER.MAX_ITER=20 for a quick look.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Run directory.")] = Path("detectune_demo"),
) -> None:
    """Make images of shapes, train a small Mask R-CNN, test, draw and report.

    Takes a few minutes on two processor cores and needs no network.
    """
    from detectune.cli.loading import load_for_command
    from detectune.cli.train import train_and_report

    begin = time.monotonic()
    settings = load_for_command(CONFIG, overrides, options=OPTIONS)
    full = load_for_command(CONFIG, [], options=OPTIONS)
    print("Detectune demo: a small Mask R-CNN learns to find coloured shapes.", flush=True)
    result = train_and_report(settings, output.expanduser(), config_name=CONFIG)
    changed = sorted(key for key, value in settings.flat().items() if full.flat()[key] != value)
    print("\n" + verdict(result.metrics, changed=changed))
    print(f"Total time {time.monotonic() - begin:.0f} s. Open {result.run_dir / 'report.html'}", flush=True)
    if not changed and not passed(result.metrics):
        raise typer.Exit(1)


def passed(metrics: dict[str, float]) -> bool:
    """Whether every bar is reached."""
    return all(metrics.get(name, -1.0) >= bar for name, bar in BARS.items())


def verdict(metrics: dict[str, float], *, changed: list[str]) -> str:
    """Whether the demo's AP is what it should be; with changed settings the bars do not apply."""
    measured = ", ".join(f"{name} {metrics.get(name, float('nan')):.3f}" for name in BARS)
    bars = " and ".join(f"{name} {bar:.2f}" for name, bar in BARS.items())
    if changed:
        return f"{measured} on unseen images.\nThe bar ({bars}) does not apply: changed {', '.join(changed)}."
    if passed(metrics):
        return f"PASSED: {measured} on unseen images; at least {bars} were asked for."
    return (
        f"BELOW THE BAR: {measured} on unseen images; at least {bars} were asked for. "
        "Something is wrong with this installation or machine: please report it with report.html."
    )
