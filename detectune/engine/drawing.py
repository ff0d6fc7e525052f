"""Every tested image with its detections as a JPEG file, for looking through a whole data set (VIS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from detectune.data.images import load_image
from detectune.engine.run_directory import atomic_file, output_errors
from detectune.engine.visualize import draw_detections
from detectune.structures import ClassInfo, Detections, Record


def draw_every_image(
    records: Sequence[Record],
    found: Mapping[int, Detections],
    class_info: ClassInfo,
    folder: Path,
    *,
    score_thresh: float,
) -> None:
    """Write `folder`/<image id>_<file name>.jpg for each record; `found` maps image ids to original-frame detections.

    Detections below `score_thresh` are not drawn. Two images of a joined data set may share their file name, not
    their id.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        drawn = draw_detections(
            load_image(record.file_name), found[record.image_id], class_info, score_thresh=score_thresh
        )
        with atomic_file(folder / f"{record.image_id}_{Path(record.file_name).stem}.jpg") as file:
            Image.fromarray(drawn).save(file, format="JPEG", quality=88)
