"""Evaluate saved detections again: Detectron's command line.

python tools/reval.py /tmp/out/test/coco_2014_minival/generalized_rcnn --dataset coco_2014_minival
"""

import argparse
from pathlib import Path

from detectune.cli.original import parse, run
from detectune.cli.original_results import evaluate_again


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Evaluate saved detections again.")
    parser.add_argument("output_dir", type=Path, help="folder with detections.pkl, or one of ours")
    parser.add_argument("--dataset", default="voc_2007_test", help="data set (default: voc_2007_test)")
    parser.add_argument("--matlab", action="store_true", help="no effect: everything is evaluated in Python")
    parser.add_argument("--comp", action="store_true", help="name the result files plainly")
    parser.add_argument("--cfg", help="configuration; default: the one saved with the detections")
    args = parse(parser, words)
    evaluate_again(args.output_dir, dataset=args.dataset, cfg=args.cfg, comp=args.comp)


if __name__ == "__main__":
    run(main)
