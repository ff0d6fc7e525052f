"""The whole configuration: one frozen tree whose attribute paths are the keys.

`config.SOLVER.BASE_LR` in code, `SOLVER: {BASE_LR: ...}` in YAML, `SOLVER.BASE_LR=...` on the command line and
in search spaces are one name. Reading and writing YAML is `load.py`'s; this file knows nothing about files.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import Field, PrivateAttr

from detectune.config.backbone import Fpn, GroupNorm, ResNets
from detectune.config.cascade import Cascade
from detectune.config.classifier import Classifier
from detectune.config.data import DataLoader, Datasets, Input
from detectune.config.heads import FastRcnn, KeypointRcnn, MaskRcnn, Rfcn
from detectune.config.knob import Section, knob
from detectune.config.model import Model
from detectune.config.retinanet import RetinaNet
from detectune.config.rpn import Rpn
from detectune.config.runtime import Cluster, Runtime
from detectune.config.solver import Solver
from detectune.config.test import Test
from detectune.config.train import Train


class Config(Runtime):
    """Every setting of a run. Made by `load_config`; changed only by making another (`with_overrides`)."""

    MODEL: Model = Field(default_factory=Model)
    RESNETS: ResNets = Field(default_factory=ResNets)
    FPN: Fpn = Field(default_factory=Fpn)
    GROUP_NORM: GroupNorm = Field(default_factory=GroupNorm)
    RPN: Rpn = Field(default_factory=Rpn)
    FAST_RCNN: FastRcnn = Field(default_factory=FastRcnn)
    CASCADE: Cascade = Field(default_factory=Cascade)
    MRCNN: MaskRcnn = Field(default_factory=MaskRcnn)
    KRCNN: KeypointRcnn = Field(default_factory=KeypointRcnn)
    RFCN: Rfcn = Field(default_factory=Rfcn)
    RETINANET: RetinaNet = Field(default_factory=RetinaNet)
    CLASSIFIER: Classifier = Field(default_factory=Classifier)
    SOLVER: Solver = Field(default_factory=Solver)
    TRAIN: Train = Field(default_factory=Train)
    TEST: Test = Field(default_factory=Test)
    INPUT: Input = Field(default_factory=Input)
    DATASETS: Datasets = knob(
        {},
        "Data sets of your own: a name, its folder of images and its annotation file in COCO's format, or in "
        "Pascal VOC's or LVIS's with format: voc or lvis.",
        kind="data",
        stage="training",
        source="ours",
    )
    DATA_LOADER: DataLoader = Field(default_factory=DataLoader)
    CLUSTER: Cluster = Field(default_factory=Cluster)

    _source: str | None = PrivateAttr(default=None)
    _notices: tuple[str, ...] = PrivateAttr(default=())
    _given: frozenset[str] = PrivateAttr(default=frozenset())

    @property
    def source(self) -> str | None:
        """The file that this configuration was read from, for messages."""
        return self._source

    @property
    def notices(self) -> tuple[str, ...]:
        """What loading had to say without being an error (keys that no longer do anything), for the user to read."""
        return self._notices

    @property
    def given(self) -> frozenset[str]:
        """Full keys that a file or an override has set, be it to the default."""
        return self._given

    def __eq__(self, other: object) -> bool:
        """Equal values; where they came from does not count."""
        return isinstance(other, Config) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # lists inside: not hashable, as the equality above demands

    def tree(self) -> dict[str, Any]:
        """Nested plain containers, sections as dictionaries. A copy."""
        return _tree(self)

    def flat(self) -> dict[str, Any]:
        """Full key -> value, in the order of declaration. A copy."""
        return _flat(self, "")

    def diff(self) -> dict[str, tuple[Any, Any]]:
        """Full key -> (default, value) of what differs from the defaults."""
        defaults = Config().flat()
        return {key: (defaults[key], value) for key, value in self.flat().items() if value != defaults[key]}

    def with_overrides(self, overrides: Mapping[str, Any]) -> Config:
        """A new validated configuration with the given full keys replaced; raises ConfigError."""
        from detectune.config.load import apply_overrides

        return apply_overrides(self, overrides)

    def to_yaml(self) -> str:
        """All keys as YAML that loads back equal."""
        from detectune.config.load import dump_yaml

        return dump_yaml(self)


def _tree(section: Section) -> dict[str, Any]:
    return {
        name: _tree(value) if isinstance(value, Section) else copy.deepcopy(value) for name, value in section
    }


def _flat(section: Section, prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in section:
        if isinstance(value, Section):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = copy.deepcopy(value)
    return flat
