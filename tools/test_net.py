"""Test a network on one or more data sets: Detectron's command line.

python tools/test_net.py --cfg FILE TEST.WEIGHTS model_final.pkl NUM_GPUS 1
"""

import argparse

from detectune.cli.original import add_settings, parse, run
from detectune.cli.original_runs import test_weights

ANSWERS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Test a network on one or more data sets.")
    parser.add_argument("--cfg", help="configuration")
    parser.add_argument(
        "--wait",
        nargs="?",
        const="true",
        default="false",
        choices=list(ANSWERS),
        help="wait until the weights file exists",
    )
    parser.add_argument("--vis", action="store_true", help="draw the detections of every image")
    parser.add_argument(
        "--multi-gpu-testing", action="store_true", help="use NUM_GPUS devices; without it, one"
    )
    parser.add_argument(
        "--range",
        type=int,
        nargs=2,
        metavar=("START", "END"),
        help="test these images only: the first index, and the one after the last",
    )
    add_settings(parser)
    args = parse(parser, with_answers(words))
    test_weights(
        args.cfg,
        args.opts,
        image_range=args.range,
        vis=args.vis,
        wait=ANSWERS[args.wait],
        multi_gpu_testing=args.multi_gpu_testing,
    )


def with_answers(words: list[str]) -> list[str]:
    """`--wait` as a flag becomes `--wait=true`, or it would take the key behind it for its value."""
    following = [*words[1:], ""]
    is_flag = [word == "--wait" and next_word not in ANSWERS for word, next_word in zip(words, following)]  # noqa: B905
    return ["--wait=true" if flag else word for word, flag in zip(words, is_flag, strict=True)]


if __name__ == "__main__":
    run(main)
