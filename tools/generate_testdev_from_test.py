"""Of results on COCO's 2017 test images keep those on test-dev, for the evaluation server: Detectron's command line.

python tools/generate_testdev_from_test.py --json bbox_coco_2017_test_results.json --output-dir /tmp
"""

import argparse
import json
from pathlib import Path

from detectune.cli.original import parse, run
from detectune.errors import DataError, UserError


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Of results on COCO's test images keep those on test-dev.")
    parser.add_argument("--json", type=Path, dest="results", help="results on coco_2017_test")
    parser.add_argument("--output-dir", type=Path, default=Path("/tmp"), help="default: /tmp")
    parser.add_argument(
        "--test-dev", type=Path, help="image_info_test-dev2017.json; default: that of coco_2017_test-dev"
    )
    args = parse(parser, words)
    if args.results is None:
        raise UserError("There are no results: give --json FILE.")
    rows, images = read(args.results), read(args.test_dev or test_dev_file())
    try:
        kept_ids = {image["id"] for image in images["images"]}
        kept = [row for row in rows if row["image_id"] in kept_ids]
    except (TypeError, KeyError) as error:
        raise DataError(
            f"{args.results} must be a list of results, and the other file list images ({error!r})."
        ) from error
    target = args.output_dir / f"{args.results.stem}_test-dev{args.results.suffix}"
    write(target, kept)
    print(f"{len(kept)} of {len(rows)} results are on test-dev: {target}")


def test_dev_file() -> Path:
    from detectune.data.datasets import resolve_dataset

    return resolve_dataset("coco_2017_test-dev", {}).annotations


def read(path: Path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}).") from error


def write(path: Path, rows: list) -> None:
    from detectune.engine.run_directory import output_errors, write_text

    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(rows) + "\n")


if __name__ == "__main__":
    run(main)
