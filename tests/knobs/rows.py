"""All rows by key, and the keys that are obsolete, which have none."""

from __future__ import annotations

import rows_augmentation
import rows_classifier
import rows_heads
import rows_inference
import rows_model
import rows_retinanet
import rows_runtime
import rows_solver
import rows_train
from table import Row

from detectune.config.catalogue import KNOBS

TABLES = (
    rows_runtime, rows_model, rows_heads, rows_retinanet, rows_solver, rows_train, rows_inference, rows_augmentation,
    rows_classifier,
)  # fmt: skip
ALL: list[Row] = [row for table in TABLES for row in table.ROWS]
ROWS: dict[str, Row] = {row.key: row for row in ALL}
OBSOLETE: dict[str, str] = {key: knob.obsolete for key, knob in KNOBS.items() if knob.obsolete}
