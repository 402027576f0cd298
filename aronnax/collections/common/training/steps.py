"""Full training steps outside a trainer, and what they take: for the batch-size finder.

A step is what a training does: forward, backward, clipping and the optimizer with its states, in the precision and
with the copies (accumulated gradients, averaged weights, DDP's buckets) that the trainer's section asks for.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from torch import Tensor

from aronnax.collections.common.training.batch_sizes import (
    Bucket,
    DoesNotFit,
    impossible,
    show_memory,
)
from aronnax.collections.common.training.config import TrainerConfig
from aronnax.core.task import Task

CAP = 0.9
"""Share of a GPU's memory that is used unless `--memory` says more or less."""


class FullSteps:
    """Runs training steps of a task on made-up batches; the weights stay as they are."""

    def __init__(self, task: Task, trainer: TrainerConfig, device: torch.device) -> None:
        self.device = device
        self.precision = _precision(trainer, device)
        self.task: Any = self.precision.convert_module(task).to(device)
        task.model.train()
        self.optimizer, _ = task.optim.build(task.model, trainer.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self.clip = trainer.clip or float("inf")
        self.accumulates = trainer.accumulate > 1
        copies = (trainer.ema is not None) + (_processes(trainer) > 1)
        weights = sum(tensor.nbytes for tensor in task.model.parameters())
        self._copies = torch.empty(copies * weights, dtype=torch.uint8, device=device)

    def run(self, bucket: Bucket, size: int) -> None:
        """One step of `size` recordings as long as the bucket allows."""
        self.step(self.batch(bucket, size))

    def batch(self, bucket: Bucket, size: int) -> Any:
        """The batch of such a step, where the step runs."""
        batch = self.task.fabricate(size, bucket.seconds, bucket.tokens)
        return self.precision.convert_input(batch.to(self.device))

    def step(self, batch: Any) -> None:
        """Forward, backward, clip, update; as in Lightning the last gradients live through the forward pass."""
        torch.manual_seed(0)
        self._hold_gradients()
        with self.precision.train_step_context(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*self.trainer.*reference is not registered.*")
            loss = self.task.training_step(batch, 0)
        if not self.accumulates:
            self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        groups = self.optimizer.param_groups
        norm = torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], self.clip)
        if torch.isfinite(norm):
            self.optimizer.step()

    def at_rest(self) -> int:
        """Bytes between two steps: weights, buffers, gradients if there are any, optimizer states and copies."""
        model, states = self.task.model, self.optimizer.state.values()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return tensor_bytes([*model.parameters(), *model.buffers(), *gradients, *states, self._copies])

    def _hold_gradients(self) -> None:
        for parameter in self.task.model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def clear(self) -> None:
        """Gives back what a step that failed has left behind."""
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class OnCUDA:
    """The oracle of a GPU: runs the step, and survives where it runs out of memory.

    Nothing beyond `budget` bytes is taken (default: 90 % of what is free), as if the GPU were smaller.
    """

    def __init__(self, steps: FullSteps, buckets: Iterable[Bucket], budget: int | None = None) -> None:
        self.steps, self.device = steps, steps.device
        free, total = torch.cuda.mem_get_info(self.device)
        held = torch.cuda.memory_reserved(self.device)
        self.budget = min(budget or int(CAP * (free + held)), total)
        self._peaks: dict[tuple[Bucket, int], int] = {}
        torch.cuda.set_per_process_memory_fraction(self.budget / total, self.device)
        smallest = min(buckets)
        # The optimizer's states, which the first step makes, must be there whenever a size is judged.
        if not self.fits(smallest, 1):
            raise DoesNotFit(impossible(smallest, self.needs(smallest)))

    def fits(self, bucket: Bucket, size: int) -> bool:
        """Whether a real step runs through."""
        torch.cuda.reset_peak_memory_stats(self.device)

        def attempt() -> None:
            self.steps.run(bucket, size)
            torch.cuda.synchronize(self.device)

        fits = survives(attempt, self.steps.clear)
        self._peaks[bucket, size] = torch.cuda.max_memory_allocated(self.device)
        return fits

    def share(self, bucket: Bucket, size: int) -> float | None:
        """The share of the budget that such a step took at its peak."""
        peak = self._peaks.get((bucket, size))
        return None if peak is None else peak / self.budget

    def needs(self, bucket: Bucket) -> str:
        """What there is; how much was missing is not known."""
        return f"a step of one recording does not fit into {show_memory(self.budget)}"

    def close(self) -> None:
        """Lifts the limit."""
        self.steps.clear()
        torch.cuda.set_per_process_memory_fraction(1.0, self.device)


def survives(attempt: Callable[[], None], clear: Callable[[], None]) -> bool:
    """Whether `attempt` ends without running out of memory; what a failed one left is given back by `clear`."""
    try:
        attempt()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    # Only here is the error gone, and with it the frames that hold the step's tensors.
    clear()
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in PyTorch's allocator or in one of the libraries below it."""
    words = (
        "out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "can't allocate memory",
    )
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def peak_bytes(steps: FullSteps, bucket: Bucket, size: int) -> int:
    """The most bytes that are live at once in a step on the CPU, all that lasts between steps included."""
    # The profiler only sees those tensors go that it has seen come.
    steps.optimizer.zero_grad(set_to_none=True)
    batch = steps.batch(bucket, size)
    rest = steps.at_rest() + tensor_bytes([batch])
    return rest + peak_allocated(lambda: steps.step(batch))


def peak_allocated(work: Callable[[], None]) -> int:
    """The most bytes that tensors on the CPU hold at once in `work`, beyond what they held before it.

    Counts every allocation and release of PyTorch's CPU allocator, those inside operators too.

    >>> peak_allocated(lambda: torch.zeros(1000).exp())
    8000
    """
    # The profiler of autograd, for its reports come in order and it prints nothing.
    from torch import autograd
    from torch._C._profiler import _ExperimentalConfig

    tools: Any = autograd
    options = tools.ProfilerConfig(
        tools.ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig()
    )
    tools._enable_profiler_legacy(options)
    try:
        work()
    finally:
        records = tools._disable_profiler_legacy()
    live = top = 0
    for events in records:
        for event in events:
            if event.kind() == "memory_alloc":
                live += event.cpu_memory_usage()
                top = max(top, live)
    return top


def tensor_bytes(values: Iterable[Any]) -> int:
    """Bytes of all tensors in nested containers and dataclasses, a shared storage counted once."""
    storages = {}
    for tensor in _tensors(values):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr(), storage.device] = storage.nbytes()
    return sum(storages.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _tensors([getattr(value, field.name) for field in fields(value)])
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _precision(trainer: TrainerConfig, device: torch.device) -> Precision:
    if trainer.precision == "32-true":
        return Precision()
    if trainer.precision == "bf16-true":
        return HalfPrecision(trainer.precision)
    # Scaling the loss of 16-mixed takes no memory, and the updates of these steps are nothing.
    kind = device.type
    return MixedPrecision(trainer.precision, kind) if kind == "cuda" else MixedPrecision("bf16-mixed", kind)


def _processes(trainer: TrainerConfig) -> int:
    devices = trainer.devices
    if devices == "auto":
        devices = (
            torch.cuda.device_count() if torch.cuda.is_available() and trainer.accelerator != "cpu" else 1
        )
    return int(devices) * trainer.nodes
