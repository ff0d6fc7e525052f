"""Testing a network that only proposes: its proposals as files for later training, and their average recall.

Files under evaluation/<data set>/: rpn_proposals.pkl (Detectron's layout) and rpn_proposals.npz (ours), either of which
TRAIN.PROPOSAL_FILES and TEST.PROPOSAL_FILES take; metrics.json as of every test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from detectune.data.proposal_files import Proposals, proposals_to_bytes
from detectune.engine.run_directory import atomic_file, output_errors
from detectune.evaluation.proposals import ProposalResult, evaluate_proposals
from detectune.structures import ClassInfo, Detections, Record

NAME = "rpn_proposals"


def evaluate_found_proposals(
    records: Sequence[Record],
    found: Mapping[int, Detections],
    *,
    class_info: ClassInfo,
    offset: float,
    class_specific: bool,
    folder: Path,
    configuration: str,
) -> ProposalResult:
    """Write the proposals of a data set (image id -> detections in the original frame, dialect boxes), and their AR.

    `offset` is the dialect's: 1 where the last pixel belongs to a box. `configuration` (YAML) goes into the `.pkl`.
    """
    proposals = to_proposals(records, found, offset=offset)
    write_proposals(folder, proposals, configuration=configuration)
    continuous = {
        image_id: boxes + np.array([0, 0, 1, 1], dtype=np.float32)
        for image_id, boxes in zip(proposals.image_ids, proposals.boxes, strict=True)
    }
    return evaluate_proposals(records, continuous, class_info=class_info, class_specific=class_specific)


def to_proposals(records: Sequence[Record], found: Mapping[int, Detections], *, offset: float) -> Proposals:
    """Inclusive boxes, best first, in the order of the records."""
    boxes, scores = [], []
    for record in records:
        detections = found[record.image_id]
        order = detections.scores.argsort(descending=True, stable=True)
        own = detections.boxes[order].cpu().numpy().astype(np.float32)
        boxes.append(own - np.array([0, 0, 1 - offset, 1 - offset], dtype=np.float32))
        scores.append(detections.scores[order].cpu().numpy().astype(np.float32))
    return Proposals([record.image_id for record in records], boxes, scores)


def write_proposals(folder: Path, proposals: Proposals, *, configuration: str) -> list[Path]:
    """Both files, each whole or not at all."""
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix in (".pkl", ".npz"):
        content = proposals_to_bytes(proposals, suffix, cfg=configuration)
        with atomic_file(folder / f"{NAME}{suffix}") as file:
            file.write(content)
        written.append(folder / f"{NAME}{suffix}")
    return written
