"""From configuration to batches. `build_loader` alone reads the configuration; `Loader` serves.

Worker processes only do what a `SampleSpec` says. A file that cannot be read comes back from them as a value, not
as an exception, so that the one message that the user sees is about the file and not about processes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from detectune.config.tree import Config
from detectune.data.collate import Sample, collate
from detectune.data.images import ResizeStyle, load_image
from detectune.data.proposal_files import proposal_path
from detectune.data.proposals import without_crowds
from detectune.data.records import DataSettings, load_datasets, training_records
from detectune.data.sampler import Augmentation, SampleSpec, TrainingBatches, is_wide, ordered_batches
from detectune.data.transforms import Move, apply_move, inclusive_boxes, objects_of
from detectune.errors import DataError, UserError
from detectune.structures import Batch, ClassInfo, ImageInfo, Record

KEYPOINT_SHIFT = {"detectron": 0.0, "detectron2": 0.5, "torchvision": 0.0}
"""What each system adds to COCO's keypoints, which name pixels."""

RESIZE: dict[str, ResizeStyle] = {
    "detectron": "detectron",
    "detectron2": "pillow",
    "torchvision": "torchvision",
}


ALL_RECORDS = slice(None)


@dataclass(frozen=True)
class Form:
    """What samples and batches contain."""

    masks: bool
    keypoints: bool
    inclusive: bool  # Detectron's boxes, whose x2 is the last pixel
    keypoint_shift: float
    stride: int  # the padded sides are multiples of it
    skip_broken: bool


@dataclass(frozen=True)
class Delivery:
    """What a worker hands over: a batch, or why there is none; and the images it left out."""

    batch: Batch | None
    error: str
    left_out: tuple[str, ...]

    def pin_memory(self) -> Delivery:
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


@dataclass
class Samples(Dataset[Any]):
    """Makes batches; lives in the workers."""

    records: list[Record]
    class_info: ClassInfo
    form: Form

    def __getitem__(self, specs: list[SampleSpec]) -> Delivery:
        samples: list[Sample] = []
        left_out: list[str] = []
        for spec in specs:
            try:
                samples.append(self._sample_or_next(spec, left_out))
            except DataError as error:
                return Delivery(None, str(error), tuple(left_out))
        form = self.form
        batch = collate(samples, stride=form.stride, masks=form.masks, keypoints=form.keypoints)
        return Delivery(batch, "", tuple(left_out))

    def _sample_or_next(self, spec: SampleSpec, left_out: list[str]) -> Sample:
        """The sample; where broken images are skipped, that of the next record that can be read."""
        for step in range(len(self.records)):
            index = (spec.index + step) % len(self.records)
            try:
                return self._sample(self.records[index], spec.move)
            except DataError:
                if not self.form.skip_broken:
                    raise
                left_out.append(self.records[index].file_name)
        raise DataError(f"None of the {len(self.records)} images can be read, as {left_out[0]}.")

    def _sample(self, record: Record, move: Move) -> Sample:
        image = load_image(record.file_name)
        if image.shape[:2] != (record.height, record.width):
            raise DataError(
                f"{record.file_name}: the image is {image.shape[1]} x {image.shape[0]} pixels, its annotations are "
                f"for {record.width} x {record.height}; use the image that was annotated, or rescale the annotations."
            )
        form = self.form
        try:
            objects = objects_of(
                record, masks=form.masks, keypoints=form.keypoints, keypoint_shift=form.keypoint_shift
            )
        except ValueError as error:
            raise DataError(f"{record.file_name}: an outline cannot be used ({error}).") from error
        pixels, objects, scale_x, scale_y = apply_move(
            image,
            objects,
            move,
            keypoint_flip=self.class_info.keypoint_flip,
            keypoint_shift=form.keypoint_shift,
        )
        if form.inclusive:
            proposals = objects.proposals
            objects = replace(
                objects,
                boxes=inclusive_boxes(objects.boxes, scale_x),
                proposals=None if proposals is None else inclusive_boxes(proposals, scale_x),
            )
        info = ImageInfo(
            record.image_id, record.file_name, record.height, record.width, scale_x, scale_y, move.flip
        )
        return Sample(pixels, objects, info)


@dataclass
class Loader:
    """Batches of a data set. Training: endless, from `position` on; otherwise every record once, in order.

    `position` counts the batches that were handed out, `left_out` the images that could not be read.
    """

    records: list[Record]
    class_info: ClassInfo
    problems: list[str]  # what the data set's files have wrong, one sentence each
    specs: Iterable[list[SampleSpec]]
    form: Form
    num_workers: int = 0
    pin_memory: bool = False
    position: int = 0
    left_out: dict[str, int] = field(default_factory=dict)  # file name -> how often it was met

    @property
    def num_images(self) -> int:
        return len(self.records)

    @property
    def skipped(self) -> int:
        """How many images were left out because they cannot be read."""
        return len(self.left_out)

    def __iter__(self) -> Iterator[Batch]:
        if isinstance(self.specs, TrainingBatches):
            self.specs.position = self.position
        deliveries = DataLoader(
            Samples(self.records, self.class_info, self.form),
            batch_size=None,
            sampler=self.specs,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            worker_init_fn=_start_worker if self.num_workers else None,
            generator=torch.Generator(),  # its own, or it would draw from the global one
        )
        try:
            for delivery in deliveries:
                for name in delivery.left_out:
                    self.left_out[name] = self.left_out.get(name, 0) + 1
                if delivery.batch is None:
                    raise DataError(delivery.error)
                self.position += 1
                yield delivery.batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"A process that loads images was ended by the system ({str(error).splitlines()[0]}), most often "
                "for lack of memory; set DATA_LOADER.NUM_THREADS lower, 0 at last."
            ) from error


def build_loader(
    config: Config,
    *,
    training: bool,
    dataset: str | None = None,
    position: int = 0,
    part: int = 0,
    parts: int = 1,
    records_range: slice = ALL_RECORDS,
) -> Loader:
    """Batches of TRAIN.DATASETS (joined) or of one test set; `dataset` names another.

    Of `parts` processes that go through the same batches, process `part` gets its share: in training of each batch
    (of parts * TRAIN.IMS_PER_BATCH images), in tests consecutive batches. A test may be restricted to a range of the
    records, which are counted by rising image id, as Detectron did.

    Raises `DataError` before anything is loaded if the data set cannot be used.
    """
    settings = DataSettings(
        masks=config.MODEL.MASK_ON,
        keypoints=config.MODEL.KEYPOINTS_ON,
        skip_broken=training and config.TRAIN.SKIP_BROKEN_IMAGES,
    )
    names = (dataset,) if dataset else config.TRAIN.DATASETS if training else config.TEST.DATASETS[:1]
    if not names:
        key = "TRAIN" if training else "TEST"
        raise DataError(
            f"{key}.DATASETS is empty; name a data set, such as shapes_{'train' if training else 'val'}."
        )
    records, class_info, problems = load_datasets(
        names,
        config.DATASETS,
        settings,
        download_cache=config.DOWNLOAD_CACHE,
        proposal_files=_proposal_files(config, names, training=training),
        proposal_limit=None if training else config.TEST.PROPOSAL_LIMIT,
        proposal_treatment="detectron" if config.MODEL.GEOMETRY == "detectron" else "detectron2",
    )
    dialect = config.MODEL.GEOMETRY
    if training:
        records = training_records(
            records,
            gt_min_area=config.TRAIN.GT_MIN_AREA,
            min_side=1.0 if dialect == "detectron" else 0.0,
            need_keypoints=config.MODEL.KEYPOINTS_ON,
            source=", ".join(names),
        )
        records = [without_crowds(record, thresh=config.TRAIN.CROWD_FILTER_THRESH) for record in records]
    style = RESIZE[dialect] if config.INPUT.RESIZE == "auto" else config.INPUT.RESIZE
    specs: TrainingBatches | list[list[SampleSpec]]
    if training:
        specs = TrainingBatches(
            seed=config.RNG_SEED,
            num_images=len(records),
            batch_size=config.TRAIN.IMS_PER_BATCH * parts,
            augmentation=_augmentation(config, style),
            wide=is_wide([(r.height, r.width) for r in records]) if config.TRAIN.ASPECT_GROUPING else None,
            position=position,
            part=part,
            parts=parts,
        )
        num_workers = config.DATA_LOADER.NUM_THREADS
    else:
        move = Move(short_side=config.TEST.SCALE, max_size=config.TEST.MAX_SIZE, style=style)
        if records_range != ALL_RECORDS:
            records = sorted(records, key=lambda record: record.image_id)[records_range]
        batches = ordered_batches(len(records), config.TEST.IMS_PER_BATCH, move)
        specs = batches[len(batches) * part // parts : len(batches) * (part + 1) // parts]
        num_workers = min(
            config.DATA_LOADER.NUM_THREADS, len(specs) // 4
        )  # a process costs a few images' time
    form = Form(
        masks=settings.masks,
        keypoints=settings.keypoints,
        inclusive=dialect == "detectron",
        keypoint_shift=KEYPOINT_SHIFT[dialect],
        stride=config.FPN.COARSEST_STRIDE if config.FPN.FPN_ON else 1,
        skip_broken=settings.skip_broken,
    )
    pin_memory = config.MODEL.DEVICE.startswith(("auto", "cuda")) and torch.cuda.is_available()
    num_workers = min(num_workers, available_cpus())
    return Loader(records, class_info, problems, specs, form, num_workers, pin_memory, position)


def _proposal_files(config: Config, names: Sequence[str], *, training: bool) -> list[Path]:
    """One file for each data set, if the model does not propose by itself and files are named.

    RPN.RPN_ON and TEST.PRECOMPUTED_PROPOSALS follow from the others when a configuration is loaded; one made by hand
    may have them as they are by default.
    """
    model = config.MODEL
    proposes = model.FASTER_RCNN or model.RPN_ONLY or config.RPN.RPN_ON or config.RETINANET.RETINANET_ON
    if proposes or not (training or config.TEST.PRECOMPUTED_PROPOSALS):
        return []
    key = "TRAIN" if training else "TEST"
    table = dict(zip(config.TRAIN.DATASETS, config.TRAIN.PROPOSAL_FILES, strict=False))
    if not training:
        table |= dict(zip(config.TEST.DATASETS, config.TEST.PROPOSAL_FILES, strict=False))
    if not table:
        return []  # the model says what it lacks, if it is run
    missing = [name for name in names if name not in table]
    if missing:
        raise DataError(
            f"{key}.PROPOSAL_FILES has no file for {missing[0]}, which is not among {key}.DATASETS; add both."
        )
    return [
        proposal_path(table[name], root=Path(config.ROOT_DIR), download_cache=config.DOWNLOAD_CACHE)
        for name in names
    ]


def available_cpus() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _augmentation(config: Config, style: ResizeStyle) -> Augmentation:
    given = config.INPUT
    return Augmentation(
        scales=tuple(config.TRAIN.SCALES),
        max_size=config.TRAIN.MAX_SIZE,
        style=style,
        flips=config.TRAIN.USE_FLIPPED,
        crop_min_fraction=given.CROP_MIN_FRACTION,
        strengths=(given.BRIGHTNESS, given.CONTRAST, given.SATURATION),
    )


def _start_worker(_: int) -> None:
    """Ctrl-C reaches every process of a terminal, and job schedulers and `timeout` end a whole group: only the main
    process answers, for the step in progress still needs its images. A second SIGTERM is the main process's own.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))
