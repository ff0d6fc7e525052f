"""`detectune infer` with a classifier: what each image shows, and how sure that is."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectune.config.load import Config
from detectune.errors import DataError, UserError


def name_images(settings: Config, weights: Path, files: Sequence[tuple[Path, str]], output: Path) -> None:
    """Print the class of every image and write `predictions.json` with all probabilities.

    An image that cannot be read is named at the end; the others are done.
    """
    from detectune.engine.classification import ClassPredictor
    from detectune.engine.run_directory import output_errors, write_text

    predictor = ClassPredictor(settings, weights)
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    unreadable: list[str] = []
    for number, (file, name) in enumerate(files, start=1):
        try:
            found = predictor(file).tolist()
        except DataError as error:
            unreadable.append(str(error))
            continue
        best = max(range(len(found)), key=found.__getitem__)
        names = predictor.class_info.names
        rows.append(
            {"file_name": name, "class": names[best], "probabilities": dict(zip(names, found, strict=True))}
        )
        print(f"{number}/{len(files)}  {name}: {names[best]} ({100 * found[best]:.1f} %)", flush=True)
    write_text(output / "predictions.json", json.dumps(rows, indent=1) + "\n")
    print(f"{len(rows)} images named; all probabilities are in {output / 'predictions.json'}")
    if unreadable:
        print("\n".join(unreadable), file=sys.stderr)
        raise UserError(f"{len(unreadable)} of {len(files)} images could not be read; they are named above.")
