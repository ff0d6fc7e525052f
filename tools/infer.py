"""Detect in one image with several models, such as one for masks and one for keypoints: Detectron's command line.

python tools/infer.py --im photo.jpg --output-dir /tmp/drawn mask.pkl mask.yaml keypoints.pkl keypoints.yaml
"""

import argparse
from pathlib import Path

from detectune.cli.original import parse, run
from detectune.cli.original_infer import infer_with_models
from detectune.errors import UserError


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Detect in one image with several models.")
    parser.add_argument("--im", type=Path, help="image")
    parser.add_argument("--rpn-pkl", help="weights of a proposal network, for models that need proposals")
    parser.add_argument("--rpn-cfg", help="configuration of the proposal network")
    parser.add_argument("--output-dir", type=Path, default=Path("/tmp/infer"), help="default: %(default)s")
    parser.add_argument(
        "models_to_run",
        nargs=argparse.REMAINDER,
        metavar="WEIGHTS CFG",
        help="pairs; weights '' takes TEST.WEIGHTS of the configuration",
    )
    args = parse(parser, words)
    models = args.models_to_run
    if args.im is None or not models or len(models) % 2:
        raise UserError(
            "Give --im IMAGE and pairs WEIGHTS CFG: model1.pkl config1.yaml model2.pkl config2.yaml ..."
        )
    if (args.rpn_pkl is None) != (args.rpn_cfg is None):
        raise UserError("--rpn-pkl and --rpn-cfg belong together: give both, or neither.")
    infer_with_models(
        args.im,
        list(zip(models[::2], models[1::2], strict=True)),
        output_dir=args.output_dir,
        proposals=None if args.rpn_pkl is None else (args.rpn_pkl, args.rpn_cfg),
    )


if __name__ == "__main__":
    run(main)
