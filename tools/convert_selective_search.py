"""Boxes of Selective Search in MATLAB's format -> a file of proposals: Detectron's command line.

python tools/convert_selective_search.py voc_2007_trainval voc_2007_trainval.mat proposals.pkl
"""

import argparse
from pathlib import Path

from detectune.cli.original import parse, run


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Boxes of Selective Search to a file of proposals.")
    parser.add_argument("dataset_name", help="data set that the boxes were made for")
    parser.add_argument("file_in", type=Path, help="MATLAB file with the cell array `boxes`")
    parser.add_argument("file_out", type=Path, help="file of proposals to write (.pkl)")
    parser.add_argument("--cfg", help="configuration whose DATASETS name the data set")
    args = parse(parser, words)
    from detectune.cli.original_results import read_dataset
    from detectune.cli.places import find_config
    from detectune.config.load import load_config
    from detectune.data.selective_search import convert_selective_search
    from detectune.engine.run_directory import atomic_file
    from detectune.pickles import dump_pickle

    config = load_config(None if args.cfg is None else find_config(args.cfg))
    records, _ = read_dataset(config, args.dataset_name)
    proposals = convert_selective_search(args.file_in, image_ids=[record.image_id for record in records])
    with atomic_file(args.file_out) as file:
        file.write(dump_pickle(proposals))
    print(f"{sum(map(len, proposals['boxes']))} proposals for {len(records)} images: {args.file_out}")


if __name__ == "__main__":
    run(main)
