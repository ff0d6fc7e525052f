"""Draw saved detections into their images: Detectron's command line.

python tools/visualize_results.py --dataset coco_2014_minival --detections detections.pkl --output-dir /tmp/drawn
"""

import argparse
from pathlib import Path

from detectune.cli.original import parse, run
from detectune.cli.original_results import draw_saved


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Draw saved detections into their images.")
    parser.add_argument("--dataset", default="coco_2014_minival", help="data set (default: %(default)s)")
    parser.add_argument("--detections", type=Path, default=Path("detections.pkl"), help="file of detections")
    parser.add_argument("--thresh", type=float, default=0.9, help="least score drawn (default: 0.9)")
    parser.add_argument(
        "--output-dir", type=Path, default=Path("./tmp/vis-output"), help="default: %(default)s"
    )
    parser.add_argument(
        "--first", type=int, default=0, help="the first images only; 0 means all (default: 0)"
    )
    parser.add_argument("--cfg", help="configuration that names the data set; default: the one saved")
    args = parse(parser, words)
    count = draw_saved(
        args.detections,
        dataset=args.dataset,
        cfg=args.cfg,
        thresh=args.thresh,
        output_dir=args.output_dir,
        first=args.first,
    )
    print(f"{count} images drawn into {args.output_dir / 'vis'}")


if __name__ == "__main__":
    run(main)
