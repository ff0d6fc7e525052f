"""Detect in an image or in a folder of images, and draw: Detectron's command line.

python tools/infer_simple.py --cfg FILE --output-dir /tmp/drawn --image-ext jpg --wts model_final.pkl photos
"""

import argparse
from pathlib import Path

from detectune.cli.original import parse, run
from detectune.cli.original_infer import infer_images


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Detect in an image or in a folder of images, and draw.")
    parser.add_argument("--cfg", help="configuration of the model")
    parser.add_argument("--wts", help="weights of the model; default: TEST.WEIGHTS of the configuration")
    parser.add_argument(
        "--output-dir", type=Path, default=Path("/tmp/infer_simple"), help="default: %(default)s"
    )
    parser.add_argument("--image-ext", default="jpg", help="ending of the images' names (default: jpg)")
    parser.add_argument(
        "--always-out", action="store_true", help="draw images in which nothing was found, too"
    )
    parser.add_argument("--output-ext", default="pdf", help="format of the drawings (default: pdf)")
    parser.add_argument("--thresh", type=float, default=0.7, help="least score drawn (default: 0.7)")
    parser.add_argument("--kp-thresh", type=float, default=2.0, help="least logit of a keypoint (default: 2)")
    parser.add_argument("im_or_folder", type=Path, help="image or folder of images")
    args = parse(parser, words)
    infer_images(
        args.cfg,
        args.wts,
        args.im_or_folder,
        image_ext=args.image_ext,
        output_dir=args.output_dir,
        output_ext=args.output_ext,
        always_out=args.always_out,
        thresh=args.thresh,
        kp_thresh=args.kp_thresh,
    )


if __name__ == "__main__":
    run(main)
