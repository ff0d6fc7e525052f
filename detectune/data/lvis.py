"""LVIS annotations (Gupta et al. 2019, arXiv:1908.03195): COCO's format, images named by their address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectune.data.json_file import read_json


def read_lvis(path: Path, images: Path) -> dict[str, Any]:
    """The document with file names: `train2017/x.jpg` where `images` has that folder, else `x.jpg`."""
    content = read_json(path)
    for entry in content["images"]:
        if isinstance(entry, dict) and "file_name" not in entry and isinstance(entry.get("coco_url"), str):
            folder, name = entry["coco_url"].split("/")[-2:] if "/" in entry["coco_url"] else ("", "")
            entry["file_name"] = f"{folder}/{name}" if (images / folder).is_dir() else name
    return content
