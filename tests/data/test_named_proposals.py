"""Proposals for images told by file name: read, matched, refused with the image and the item that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detectune.data.named_proposals import NamedProposals, read_named_proposals
from detectune.data.proposal_files import Proposals, proposals_to_bytes
from detectune.errors import DataError

BOXES = [[1.0, 2, 30, 40], [5, 6, 70, 20], [0, 0, 9, 9]]


def written(folder: Path, content: Any) -> Path:
    path = folder / "regions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def boxes(given: NamedProposals, name: str, *, offset: float = 0.0, limit: int = 100) -> list[list[float]]:
    return given.boxes_for(name, height=50, width=60, offset=offset, limit=limit).tolist()


def test_an_image_is_found_by_its_path_or_its_name_and_boxes_lie_inside_it(tmp_path: Path) -> None:
    given = read_named_proposals(written(tmp_path, {"a.jpg": {"boxes": BOXES}, "deep/b.jpg": {"boxes": []}}))
    assert boxes(given, "photos/a.jpg") == [[1, 2, 30, 40], [5, 6, 60, 20], [0, 0, 9, 9]]
    assert boxes(given, "photos/a.jpg", offset=1.0)[1] == [5, 6, 59, 20]
    assert boxes(given, "deep/b.jpg") == []


def test_of_too_many_the_best_are_taken_and_without_scores_the_first(tmp_path: Path) -> None:
    scored = read_named_proposals(written(tmp_path, {"a.jpg": {"boxes": BOXES, "scores": [0.1, 0.3, 0.2]}}))
    assert boxes(scored, "a.jpg", limit=2) == [[5, 6, 60, 20], [0, 0, 9, 9]]
    assert boxes(scored, "a.jpg", limit=3)[0] == [1, 2, 30, 40]  # the order stays where all are taken
    plain = read_named_proposals(written(tmp_path, {"a.jpg": {"boxes": BOXES}}))
    assert boxes(plain, "a.jpg", limit=1) == [[1, 2, 30, 40]]


def test_boxes_outside_of_the_image_are_left_out_where_detectron2_does(tmp_path: Path) -> None:
    outside = [[70.0, 5, 80, 9], [3, 4, 3, 9]]
    entry = {"boxes": [*outside, *BOXES[:1]], "scores": [0.9, 0.8, 0.1]}
    given = read_named_proposals(written(tmp_path, {"a.jpg": entry}))
    assert boxes(given, "a.jpg", limit=1) == [[1, 2, 30, 40]]
    assert boxes(given, "a.jpg", offset=1.0) == [[59, 5, 59, 9], [3, 4, 3, 9], [1, 2, 30, 40]]


@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
def test_detectrons_files_tell_images_by_the_id_in_the_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"regions{suffix}"
    path.write_bytes(proposals_to_bytes(Proposals([42], [np.array(BOXES, np.float32)], None), suffix))
    given = read_named_proposals(path)
    assert boxes(given, "COCO_val2014_000000000042.jpg", offset=1.0)[0] == [1, 2, 30, 40]
    assert boxes(given, "000000000042.jpg")[0] == [1, 2, 31, 41], "the last pixel counts"
    with pytest.raises(DataError, match="its id 43 is not in the file"):
        boxes(given, "000000000043.jpg")
    with pytest.raises(DataError, match=r"holiday\.jpg: .* does not end in an id"):
        boxes(given, "holiday.jpg")


@pytest.mark.parametrize(
    "content, said",
    [
        ('{"a.jpg": ', r"regions\.json:1:11: this is not valid JSON"),
        ([1], r"has the form \{file name"),
        ({"a.jpg": [[1, 2, 3, 4]]}, r"regions\.json: a\.jpg: an entry is"),
        ({"a.jpg": {"boxes": [[1, 2, 3, 4], [1, 2, 3]]}}, r"a\.jpg: boxes\[1\] must be four numbers"),
        ({"a.jpg": {"boxes": [[1, 2, "3", 4]]}}, r"a\.jpg: boxes\[0\] must be four numbers"),
        ({"a.jpg": {"boxes": [[9, 2, 3, 4]]}}, r"a\.jpg: boxes\[0\] ends before it begins"),
        ('{"a.jpg": {"boxes": [[1, 2, NaN, 4]]}}', r"boxes\[0\] must be four numbers"),
        (
            {"a.jpg": {"boxes": BOXES, "scores": [1]}},
            r"a\.jpg: there must be one score for each of the 3 boxes",
        ),
        ({"a.jpg": {"boxes": BOXES, "scores": [1, None, 2]}}, r"a\.jpg: scores\[1\] must be a number"),
    ],
)
def test_what_is_wrong_is_named_with_image_and_item(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_named_proposals(written(tmp_path, content))


def test_an_image_without_entry_is_named_with_the_nearest(tmp_path: Path) -> None:
    given = read_named_proposals(written(tmp_path, {"street.jpg": {"boxes": BOXES}}))
    with pytest.raises(DataError, match=r"no proposals for photos/streat\.jpg\. Did you mean street\.jpg\?"):
        boxes(given, "photos/streat.jpg")
    with pytest.raises(DataError, match="cannot be opened"):
        read_named_proposals(tmp_path / "absent.json")
