"""Several processes, one device each, that take every training step together (Goyal et al. 2017, section 2.3).

A `Team` is what a process knows of the others and the few things they do together; a run alone is a team of one, in
which all of them are free. There are two kinds of messages. Tensors travel between devices (NCCL on CUDA, gloo on a
CPU) in the order of the devices' own work, so the host waits for nothing. Decisions (shapes, errors, signals) travel
between hosts through gloo, which notices at once when a process has ended.

What keeps the processes equal: they start with the first one's weights, see parts of one batch padded to one shape,
draw from one generator (`ops/draws.py`), and apply the mean of their gradients. Losses that are divided by a count
over the batch come with that count (`count_x` beside `loss_x`), see `share_outputs`; the few that need a count of the
whole batch at once ask for it (`models/whole_batch.py`), see `share_counts`. Knows no configuration.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from detectune.engine.launching import ProcessLostError
from detectune.errors import UserError
from detectune.models.whole_batch import WholeBatch
from detectune.structures import Batch, ImageBatch

ValueT = TypeVar("ValueT")
VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)  # what torchrun tells a process
TIMEOUT = timedelta(minutes=30)  # longer than an evaluation, during which the others wait for the first


@dataclass(frozen=True)
class Team:
    """The processes of a run as one of them sees them. The default is a process alone."""

    rank: int = 0
    size: int = 1
    hosts: Any = None  # the gloo group for decisions

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """Element by element the largest of what the processes gave, which are equally many."""
        if self.size == 1:
            return list(numbers)
        table = torch.tensor(numbers, dtype=torch.int64)
        with _lost():
            dist.all_reduce(table, op=dist.ReduceOp.MAX, group=self.hosts)
        return [int(number) for number in table.tolist()]

    def gather(self, value: ValueT) -> list[ValueT]:
        """What every process gave, in the order of ranks, for all of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _lost():
            dist.all_gather_object(values, value, group=self.hosts)
        return values

    def gather_to_first(self, value: ValueT) -> list[ValueT]:
        """What every process gave, in the order of ranks, for the first; nothing for the others."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size if self.first else []
        with _lost():
            dist.gather_object(value, values if self.first else None, group=self.hosts)
        return values

    def from_first(self, value: ValueT) -> ValueT:
        """The first process's value; what the others give is ignored."""
        if self.size == 1:
            return value
        values: list[Any] = [value if self.first else None]
        with _lost():
            dist.broadcast_object_list(values, src=0, group=self.hosts)
        return values[0]  # type: ignore[no-any-return]  # it was a ValueT when it was sent

    def stop_on(self, error: Exception | None) -> None:
        """Raise on every process the error that one of them has; of several the one of the lowest rank.

        Where it comes from elsewhere it is marked (`tell_elsewhere`), so that it is told once.
        """
        if self.size == 1:
            if error is not None:
                raise error
            return
        if not self.largest([error is not None])[0]:
            return
        errors = self.gather(error)
        rank = next(i for i, known in enumerate(errors) if known is not None)
        chosen = error if rank == self.rank else errors[rank]
        assert chosen is not None
        if rank != self.rank:
            tell_elsewhere(chosen)
        raise chosen

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A block after which all processes go on, or all have the mistake that one met. Nothing is shared inside."""
        error: UserError | None = None
        try:
            yield
        except UserError as met:
            error = met
        self.stop_on(error)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes of a tensor on their devices, written in its place."""
        if self.size > 1:
            with _lost():
                dist.all_reduce(values)
            values /= self.size
        return values

    def total(self, count: Tensor) -> Tensor:
        """The sum over the processes of a tensor on their devices."""
        if self.size == 1:
            return count
        total = count.detach().clone()
        with _lost():
            dist.all_reduce(total)
        return total

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its mean over the processes, all of a type in one message."""
        if self.size == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for grads in by_type.values():
            flat = self.mean(torch.cat([grad.flatten() for grad in grads]))
            parts = torch.functional.split(flat, [grad.numel() for grad in grads])
            torch._foreach_copy_(grads, [p.view_as(g) for p, g in zip(parts, grads, strict=True)])

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values."""
        if self.size > 1:
            for tensor in tensors:
                value = tensor.contiguous()
                with _lost():
                    dist.broadcast(value, src=0)
                tensor.copy_(value)


ALONE = Team()


def share_counts(model: nn.Module, team: Team) -> None:
    """From now on the model's losses know the counts over whole batches, of which each process holds a part."""

    if team.size == 1:
        return

    # a message between processes is no work of a device
    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch leaves it untyped
    def add(count: Tensor) -> Tensor:  # no method: a copy of the model must not try to copy the team
        return team.total(count)

    for module in model.modules():
        if isinstance(module, WholeBatch):
            module.join(add, num_parts=team.size)


def launched() -> tuple[int, int, int] | None:
    """(rank, number of processes, rank on this machine) if this process was started as one of several, else None."""
    if not all(name in os.environ for name in VARIABLES):
        return None
    rank, size, local_rank = (int(os.environ[name]) for name in VARIABLES[:3])
    return None if size == 1 else (rank, size, local_rank)


@contextlib.contextmanager
def joined(*, device: str, num_processes: int) -> Iterator[Team]:
    """The team that this process was started in, met and in the end dissolved; a team of one if it is alone.

    `device` is MODEL.DEVICE; with CUDA the process's own device becomes the current one.
    """
    place = launched()
    if place is None:
        if num_processes > 1:
            raise UserError(
                f"NUM_GPUS={num_processes} needs as many processes: run `detectune train` or `detectune test`, which "
                f"start them, or start your program with torchrun --nproc-per-node {num_processes}, or set NUM_GPUS=1."
            )
        yield ALONE
        return
    rank, size, local_rank = place
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        check_devices(device, max(local_rank + 1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        torch.cuda.set_device(local_rank)
    own = torch.device("cuda", local_rank) if cuda else None
    with _lost():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT, device_id=own)
        hosts = dist.new_group(backend="gloo", timeout=TIMEOUT) if cuda else dist.group.WORLD
    try:
        team = Team(rank, size, hosts)
        yield team
        team.largest([0])  # the first may still be writing; the others have no reason to be gone before
    finally:
        dist.destroy_process_group()


def check_devices(device: str, num_processes: int) -> None:
    """Raise a `UserError` unless this machine has a device for each of `num_processes` (a CPU serves any number)."""
    if device == "cpu" or num_processes == 1:
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.startswith("cuda:"):
        raise UserError(
            f"MODEL.DEVICE={device} names one GPU, but {num_processes} processes train; set MODEL.DEVICE=cuda or auto."
        )
    if count >= num_processes and device in ("auto", "cuda"):
        return
    there = "no GPU that torch can use" if count == 0 else "1 GPU" if count == 1 else f"{count} GPUs"
    raise UserError(
        f"NUM_GPUS={num_processes}, but this machine has {there}: set NUM_GPUS={max(1, count)}, with "
        "SOLVER.REFERENCE_BATCH for a schedule that was written for more images a step, or MODEL.DEVICE=cpu for "
        f"{num_processes} processes on the CPU."
    )


def to_common_shape(batch: Batch, height: int, width: int, num_objects: int, num_proposals: int = 0) -> Batch:
    """The same images, objects and given proposals with more padding: pixels to height x width, objects to
    `num_objects` and proposals to `num_proposals` an image.
    """
    tensor = batch.images.tensor
    missing = (0, width - tensor.shape[-1], 0, height - tensor.shape[-2])
    images = replace(batch.images, tensor=F.pad(tensor, missing)) if any(missing) else batch.images
    if images.proposals is not None and num_proposals > images.proposals.shape[1]:
        images = _with_more_proposals(images, num_proposals)
    targets = batch.targets
    more = 0 if targets is None else num_objects - targets.labels.shape[1]
    if targets is None or more == 0:
        return Batch(images, targets)
    padded: dict[str, Tensor] = {}
    for name in ("boxes", "labels", "is_crowd", "valid", "edges", "edge_polygon", "keypoints"):
        value = getattr(targets, name)
        if value is not None:
            padded[name] = F.pad(value, (0, 0) * (value.dim() - 2) + (0, more))
    return Batch(images, replace(targets, **padded))  # type: ignore[arg-type]  # each value has its field's type


def _with_more_proposals(images: ImageBatch, number: int) -> ImageBatch:
    """The same images with padding for `number` proposals each."""
    changes: dict[str, Any] = {}
    for name in ("proposals", "proposals_valid", "proposal_scores"):
        value = getattr(images, name)
        if value is not None:
            changes[name] = F.pad(value, (0, 0) * (value.dim() - 2) + (0, number - value.shape[1]))
    return replace(images, **changes)


def common_shape(batch: Batch, team: Team) -> tuple[int, int, int, int]:
    """(height, width, objects an image, given proposals an image) of the whole batch, of which each process holds a
    part.
    """
    height, width = batch.images.tensor.shape[-2:]
    num_objects = 0 if batch.targets is None else batch.targets.labels.shape[1]
    num_proposals = 0 if batch.images.proposals is None else batch.images.proposals.shape[1]
    height, width, num_objects, num_proposals = team.largest([height, width, num_objects, num_proposals])
    return height, width, num_objects, num_proposals


def share_outputs(returned: Mapping[str, Tensor], team: Team) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a model returned for its part of a batch: (losses to differentiate, values over the whole batch).

    The mean over processes of the losses' gradients is the gradient over the whole batch. For a loss that is a mean
    over images nothing is to be done. A loss divided by a count n of this part, told as `count_x`, weighs n over the
    mean count of the processes. The values are detached: every `loss_*` and `stat_*`, so combined.
    """
    losses = {name: value.float() for name, value in returned.items() if name.startswith("loss_")}
    values = {name: v.detach().float() for name, v in returned.items() if not name.startswith("count_")}
    if team.size == 1:
        return losses, values
    counts = {
        name: returned[key].detach().float()
        for name in values
        if (key := f"count_{name.partition('_')[2]}") in returned
    }
    names, counted = list(values), list(counts)
    sums = [values[name] * counts[name] if name in counts else values[name] for name in names]
    means = team.mean(torch.stack([*sums, *counts.values()]))
    shared = dict(zip(names, means, strict=False))
    for name, mean in zip(counted, means[len(names) :], strict=True):
        mean = mean.clamp(min=1 / team.size)  # no sample on any process: the losses are 0
        shared[name] = shared[name] / mean
        if name in losses:
            losses[name] = losses[name] * (counts[name] / mean)
    return losses, shared


def tell_elsewhere(error: BaseException) -> None:
    """Mark an error that another process tells the user; the command line then says nothing."""
    error.told_elsewhere = True  # type: ignore[attr-defined]


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    """Turn torch's failure of a message into one sentence."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ProcessLostError(
            f"Another process of this run has ended or cannot be reached ({reason}); its own message, if it could "
            "write one, says why."
        ) from error
