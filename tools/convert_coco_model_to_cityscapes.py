"""Weights of a detector trained on COCO -> weights to fine-tune on Cityscapes: Detectron's command line.

python tools/convert_coco_model_to_cityscapes.py --coco_model model_final.pkl --output cityscapes.pkl
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from detectune.cli.original import parse, run
from detectune.errors import UserError
from detectune.weights.other_classes import CORRESPONDENCES, DETECTRONS_CITYSCAPES, coco_to_cityscapes


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Weights for COCO's classes to weights for Cityscapes'.")
    parser.add_argument("--coco_model", type=Path, help="weights, .pkl of Detectron or .safetensors of ours")
    parser.add_argument(
        "--convert_func", default="cityscapes_to_coco", help=f"one of {', '.join(CORRESPONDENCES)}"
    )
    parser.add_argument("--output", type=Path, help="file to write, of the same kind")
    parser.add_argument(
        "--annotations",
        type=Path,
        help="annotation file whose order of classes to take; default: that of Detectron's converter",
    )
    args = parse(parser, words)
    if args.coco_model is None or args.output is None:
        raise UserError("Give both --coco_model FILE and --output FILE.")
    if args.coco_model.suffix != args.output.suffix:
        raise UserError(f"--output must end in {args.coco_model.suffix}, as --coco_model does.")
    convert = of_safetensors if args.coco_model.suffix == ".safetensors" else of_pickle
    names = classes_of(args.annotations) if args.annotations else DETECTRONS_CITYSCAPES
    for name in convert(args.coco_model, args.output, args.convert_func, names):
        print(f"Rows of classes picked: {name}")
    print(f"Weights for {', '.join(names)} and the background: {args.output}")


def classes_of(file: Path) -> tuple[str, ...]:
    from detectune.data.classes import join_categories
    from detectune.data.json_file import read_json
    from detectune.data.problems import Problems

    return join_categories([(file, read_json(file)["categories"])], Problems())[0].names


def of_pickle(source: Path, target: Path, correspondence: str, names: Sequence[str]) -> list[str]:
    from detectune.engine.run_directory import atomic_file
    from detectune.errors import WeightsError
    from detectune.pickles import dump_pickle, load_pickle

    content = load_pickle(source, what="weights file", error=WeightsError)
    nested = isinstance(content, dict) and "blobs" in content
    blobs, changed = coco_to_cityscapes(
        content["blobs"] if nested else content, correspondence=correspondence, names=names
    )
    with atomic_file(target) as file:
        file.write(dump_pickle(content | {"blobs": blobs} if nested else blobs, python2=True))
    return changed


def of_safetensors(source: Path, target: Path, correspondence: str, names: Sequence[str]) -> list[str]:
    import torch

    from detectune.weights.native import load_weights, save_weights

    state, metadata = load_weights(source)
    arrays = {name: value.float().numpy() for name, value in state.items()}
    converted, changed = coco_to_cityscapes(arrays, correspondence=correspondence, names=names)
    kept = {
        key: value for key, value in metadata.items() if key in ("format", "geometry")
    }  # classes are others now
    save_weights(target, {name: torch.from_numpy(value) for name, value in converted.items()}, kept)
    return changed


if __name__ == "__main__":
    run(main)
