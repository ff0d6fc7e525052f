"""Train a network and test it: Detectron's command line.

python tools/train_net.py --cfg configs/12_2017_baselines/e2e_mask_rcnn_R-50-FPN_1x.yaml NUM_GPUS 1 OUTPUT_DIR /tmp/out
"""

import argparse

from detectune.cli.original import add_settings, parse, run
from detectune.cli.original_runs import train_and_test


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Train a network and test it.")
    parser.add_argument("--cfg", help="configuration for training, and for testing afterwards")
    parser.add_argument(
        "--multi-gpu-testing", action="store_true", help="no effect: a run's processes share its tests anyway"
    )
    parser.add_argument("--skip-test", action="store_true", help="do not test the final model")
    add_settings(parser)
    args = parse(parser, words)
    train_and_test(args.cfg, args.opts, skip_test=args.skip_test)


if __name__ == "__main__":
    run(main)
