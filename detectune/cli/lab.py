"""`detectune lab`: experiments for those who learn to tune. Each prints a table and leaves numbers and a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from detectune.cli.lab_ladder import ladder

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False)
app.command("ladder", short_help="The MNIST ladder, rung by rung")(ladder)

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


@app.command("batch", short_help="Batch, mini-batch, stochastic: the noise")
def batch(
    output: OutputOption = Path("lab_batch"),
    seed: SeedOption = 0,
    images: Annotated[int, typer.Option(min=100, help="How many of the training images.")] = 1000,
) -> None:
    """Compare batch, mini-batch and stochastic gradient descent on the same network.

    On MNIST where it is found, else on scikit-learn's digits. Leaves batch.json and batch.html. A minute or two.
    """
    import json

    from detectune.cli.lab_tables import print_table
    from detectune.data.labelled import load_labelled
    from detectune.engine.run_directory import output_errors, write_text
    from detectune.lab.batch import first_images, measure_batches
    from detectune.report.batch import descent_table, oscillation_table, write_batch_page

    output = output.expanduser()
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    data = first_images(load_labelled(f"{_family()}_train", {}), images)
    measured = measure_batches(data, seed=seed, log=progress)
    write_text(output / "batch.json", json.dumps(measured))
    print(f"{measured['images']:,} images of {measured['dataset']} ({measured['data']}).\n")
    print(f"Until the loss of all images is {measured['target']}:")
    print_table(*descent_table(measured))
    print(f"\nFrom the same weights, at the rate {measured['shared_rate']}:")
    print_table(*oscillation_table(measured))
    print(f"\nNoise falls as B to the power {measured['noise_exponent']:.3f}; 1/sqrt(B) is -0.5.")
    print(f"Page: {write_batch_page(output)}")


@app.command("optimisers", short_help="Every optimiser, tuned alike")
def optimisers(
    output: OutputOption = Path("lab_optimisers"),
    quick: Annotated[
        bool, typer.Option("--quick", help="On scikit-learn's digits with fewer trials: under two minutes.")
    ] = False,
) -> None:
    """Tune every optimiser with the same budget on the same network, and say which one to choose.

    On MNIST where it is found, else on scikit-learn's digits. Leaves optimisers.json, sparse.json, optimisers.html, and
    trainings.jsonl, from which the same command goes on after an interruption. An hour of one core, unless --quick.
    """
    import json
    from textwrap import fill

    from detectune.cli.lab_tables import print_table
    from detectune.engine.run_directory import output_errors, write_text
    from detectune.lab.optimisers import budget_for, run_optimisers
    from detectune.lab.sparse import measure_sparse
    from detectune.report.optimisers import comparison_table, sparse_table, write_optimisers_page

    output = output.expanduser() / ("quick" if quick else "full")
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    budget = budget_for(quick=quick, has_mnist=_family() == "mnist")
    measured = run_optimisers(output, budget, log=progress)
    progress("rare features")
    sparse = measure_sparse(documents=4000 if quick else 10_000)
    write_text(output / "sparse.json", json.dumps(sparse))
    print(
        f"{measured['dataset']} ({measured['data']}), {budget.trials} trials and {budget.seeds} seeds each."
    )
    print(f"Accuracy in %; steps, s to {100 * measured['target']:.0f} %; decades of good rates.\n")
    print_table(*comparison_table(measured))
    print("\nRare and dense features, loss above the best possible:")
    print_table(*sparse_table(sparse))
    print(f"\n{fill(measured['answer'], 60)}\n\nPage: {write_optimisers_page(output)}")


def _family() -> str:
    """mnist where its files are, else digits."""
    from detectune.data.labelled import find_idx, image_folders
    from detectune.errors import DataError

    try:
        find_idx("mnist", "train", image_folders("mnist"))
    except DataError:
        return "digits"
    return "mnist"


def progress(line: str) -> None:
    """What is being done, on a terminal in one line that is overwritten."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
