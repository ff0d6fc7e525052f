"""Cityscapes' annotations -> COCO's form: Detectron's command line.

python tools/convert_cityscapes_to_coco.py --dataset cityscapes_instance_only --datadir cityscapes --outdir annotations
"""

import argparse
from pathlib import Path

from detectune.cli.original import command, parse, run
from detectune.errors import UserError

DATASET = "cityscapes_instance_only"


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Cityscapes' annotations to COCO's form.")
    parser.add_argument("--dataset", help=f"{DATASET}")
    parser.add_argument("--datadir", type=Path, help="folder with leftImg8bit and gtFine")
    parser.add_argument("--outdir", type=Path, help="folder for the JSON files")
    args = parse(parser, words)
    if None in (args.dataset, args.datadir, args.outdir):
        raise UserError("Give all of --dataset NAME, --datadir FOLDER and --outdir FOLDER.")
    if args.dataset != DATASET:
        raise UserError(f"--dataset {args.dataset} cannot be converted; it must be {DATASET}.")
    command(["data", "cityscapes", args.datadir, "--output", args.outdir])


if __name__ == "__main__":
    run(main)
