"""A trained network as a program that runs without Detectune: Detectron's command line.

Caffe2 and its .pb files are gone; what is written is a program of torch.export, and ONNX where it is installed.

python tools/convert_pkl_to_pb.py --cfg FILE --out_dir /tmp/model TEST.WEIGHTS model_final.pkl
"""

import argparse
from pathlib import Path

from detectune.cli.original import add_settings, parse, run
from detectune.cli.original_export import export_model
from detectune.errors import UserError


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description="A trained network as a program (torch.export, ONNX).")
    parser.add_argument("--cfg", help="configuration")
    parser.add_argument("--net_name", default="detectron", help="name of the files (default: detectron)")
    parser.add_argument("--out_dir", type=Path, help="folder for the files")
    parser.add_argument("--test_img", type=Path, help="image to compare the program with the network on")
    parser.add_argument("--fuse_af", type=int, default=1, help="no effect: whoever runs the program fuses")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="no effect: it runs on both")
    parser.add_argument("--net_execution_type", choices=["simple", "dag"], default="simple", help="no effect")
    parser.add_argument("--use_nnpack", type=int, default=1, help="no effect")
    add_settings(parser)
    args = parse(parser, words)
    if args.out_dir is None:
        raise UserError("There is no place for the program: give --out_dir FOLDER.")
    export_model(args.cfg, args.opts, out_dir=args.out_dir, net_name=args.net_name, test_img=args.test_img)


if __name__ == "__main__":
    run(main)
