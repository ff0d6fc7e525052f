"""Weights of Caffe, such as the original ResNets -> Detectron's .pkl: Detectron's command line.

python tools/pickle_caffe_blobs.py --prototxt ResNet-50.prototxt --caffemodel ResNet-50.caffemodel --output R-50.pkl
"""

import argparse
from pathlib import Path

from detectune.cli.original import parse, run
from detectune.errors import UserError


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Weights of Caffe to Detectron's .pkl.")
    parser.add_argument("--prototxt", type=Path, help="not needed: the weights file names its layers")
    parser.add_argument("--caffemodel", type=Path, help="weights of Caffe")
    parser.add_argument("--output", type=Path, help="file to write (.pkl)")
    args = parse(parser, words)
    if args.caffemodel is None or args.output is None:
        raise UserError("Give both --caffemodel FILE and --output FILE.")
    from detectune.engine.run_directory import atomic_file
    from detectune.pickles import dump_pickle
    from detectune.weights.caffe import read_caffemodel, to_detectron_blobs

    blobs = to_detectron_blobs(read_caffemodel(args.caffemodel))
    with atomic_file(args.output) as file:
        file.write(dump_pickle(blobs))
    print(f"{len(blobs)} blobs written to {args.output}: {', '.join(sorted(blobs))}")


if __name__ == "__main__":
    run(main)
