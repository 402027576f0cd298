"""`aronnax bins --fit CONFIG.yaml`: buckets and the largest batch of each that a training step survives."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aronnax.cli.terminal import status, table
from aronnax.cli.waste_plot import draw_waste, need_matplotlib
from aronnax.core.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    import torch

    from aronnax.collections.common.data.config import BatchingConfig
    from aronnax.collections.common.data.limits import Seen, Waste
    from aronnax.collections.common.training.batch_sizes import Bucket, Found, Oracle

Say = Callable[[str], None]

CPU_SHARE = 0.75
"""Of the free memory, without `--memory`: the rest is for workers that read audio, and for the allocator."""
_ROUNDS = 3
"""How often sizes are looked for anew where measuring them corrects the memory model."""


@dataclass(frozen=True)
class FitOptions:
    """What `aronnax bins --fit` may be told."""

    memory: str | None = None
    two_dimensional: bool = False
    sub_buckets: int = 2
    limit: int = 100_000
    out: Path | None = None
    plot: Path | None = None
    stream: str | None = None
    """Which of `data.streams`."""


def fit_batch_sizes(config: Path, data: Sequence[str], options: FitOptions) -> None:
    """Find the batch sizes of a training, print them, and write a data section that uses them."""
    try:
        import lhotse  # noqa: F401
        import lightning  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "lightning", "train", "aronnax bins --fit") from error
    from aronnax.collections.common.data.bins import fewer_buckets
    from aronnax.collections.common.data.limits import covered, edges_for_fixed_sizes, look_at, most_tokens
    from aronnax.collections.common.training.batch_sizes import Bucket

    if options.plot is not None:
        need_matplotlib()
    with status() as say:
        settings, task, module = _prepare(config, data, say)
        say("looking at the recordings")
        name = _stream(list(settings.data.training), options.stream)
        seen = look_at(module, options.limit, name)
        stream = settings.data.training[name]
        batching = stream.batching
        parting = edges_for_fixed_sizes(
            batching,
            seen,
            two_dimensional=options.two_dimensional,
            sub_buckets=options.sub_buckets,
            longest=stream.filters.max_duration,
        )
        edges, rates = parting.edges, parting.rates
        limits = zip(edges, most_tokens(edges, seen))
        buckets = [Bucket(edge[0] if isinstance(edge, tuple) else edge, most) for edge, most in limits]
        device = _device(settings.trainer.accelerator)
        found, oracle, notes = _find(task, settings.trainer, buckets, device, options.memory, say)
    sizes = _sizes(buckets, found)
    fixed = replace(
        batching,
        batch_duration=None,
        batch_size=None,
        quadratic_duration=None,
        bucket_duration_bins=tuple(edges),
        bucket_batch_sizes=tuple(sizes),
        bucket_max_tokens_per_second=rates,
    )
    _print_table(buckets, sizes, found, oracle)
    for note in filter(None, [fewer_buckets(len(edges), parting.asked), *notes]):
        print(note)
    outside = covered(seen, edges, rates).count(False)
    if outside:
        print(
            f"{outside} of {len(seen.cuts)} recordings have too many tokens for their length and are left out"
        )
    before, after = _report_waste(seen, batching, fixed)
    _write(settings, name, fixed, config, options.out)
    if options.plot is not None:
        draw_waste(before, after, options.plot)
        print(f"the plot is in {options.plot}")


def _prepare(config: Path, data: Sequence[str], say: Say) -> tuple[Any, Any, Any]:
    """The configuration, and the task and data module it makes; a new tokenizer is thrown away again."""
    from aronnax.collections.common.training.run import system_of
    from aronnax.core.registry import training

    overrides = [entry for entry in data if "=" in entry or entry.endswith((".yaml", ".yml"))]
    paths = [entry for entry in data if entry not in overrides]
    if paths:
        overrides.append(f"data.train=[{','.join(paths)}]")
    module: Any = training(system_of(config, overrides) or "ctc")
    settings = module.load_config(config, overrides)
    if not settings.data.inputs:
        raise ConfigError("data.train is empty: name manifests after --fit CONFIG, or data.train=...")
    settings.optim.check(settings.trainer.max_steps)
    say("building the model")
    with tempfile.TemporaryDirectory() as folder:
        prepared = module.prepare(replace(settings, output=folder), False, lambda line: None)
    return settings, prepared.task, prepared.data


def _stream(names: list[str], wanted: str | None) -> str:
    """Which kind of training data sizes are for."""
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted not in names:
        known = ", ".join(filter(None, names)) or "none"
        raise ConfigError(
            f"--stream {wanted or ''}: name the one of data.streams to find sizes for ({known})"
        )
    return wanted


def _device(accelerator: str) -> torch.device:
    import torch

    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator is gpu and there is none here: run this where you will train")
    cuda = accelerator in ("auto", "gpu") and torch.cuda.is_available()
    return torch.device("cuda" if cuda else "cpu")


def _find(
    task: Any, trainer: Any, buckets: list[Bucket], device: torch.device, memory: str | None, say: Say
) -> tuple[list[Found], Oracle, list[str]]:
    """What was found, even if interrupted; by whom; and what to tell the user of it."""
    from aronnax.collections.common.free_memory import free_bytes
    from aronnax.collections.common.training.batch_sizes import parse_memory, show_memory
    from aronnax.collections.common.training.memory_model import MeasuredModel
    from aronnax.collections.common.training.steps import FullSteps, OnCUDA

    budget = None if memory is None else parse_memory(memory)
    if device.type == "cuda":
        gpu = OnCUDA(FullSteps(task, trainer, device), buckets, budget)
        found, whole = _search(buckets, gpu, say)
        gpu.close()
        return found, gpu, [f"sizes for {show_memory(gpu.budget)} of GPU memory, by real steps", *whole]
    free = free_bytes(device)
    budget = budget or int(CPU_SHARE * free)
    model = MeasuredModel.of(FullSteps(task, trainer, device), buckets, budget, int(0.9 * free))
    model.learn(say)
    notes = [
        f"sizes for {show_memory(budget)}, by a memory model of {len(model.points)} measured steps "
        f"(error {model.error:.1%} on steps it had not seen)"
    ]
    for _ in range(_ROUNDS):
        found, whole = _search(buckets, model, say)
        if whole:
            return found, model, [*notes, *whole]
        checks, good = _check(model, found, say)
        if good:
            break
    return found, model, [*notes, *checks]


def _search(buckets: list[Bucket], oracle: Oracle, say: Say) -> tuple[list[Found], list[str]]:
    """The sizes, smallest bucket first; a note where Ctrl-C ended the search early."""
    from aronnax.collections.common.training.batch_sizes import find_batch_sizes, in_order

    found: list[Found] = []
    try:
        for one in find_batch_sizes(buckets, oracle):
            found.append(one)
            say(f"{len(found)}/{len(buckets)}: {one.size} x ({one.bucket})")
    except KeyboardInterrupt:
        if not found:
            raise
        left = len(buckets) - len(found)
        return in_order(found), [f"interrupted: {left} buckets take the size of a larger one that was found"]
    return in_order(found), []


def _check(model: Any, found: list[Found], say: Say) -> tuple[list[str], bool]:
    """Measures the largest, the middle and the smallest bucket's batch; whether they use the budget well."""
    lines: list[str] = []
    good = True
    for one in (found[-1], found[len(found) // 2], found[0]):
        try:
            checked = model.check(one.bucket, one.size, say)
        except KeyboardInterrupt:
            return [*lines, "interrupted: the other sizes were not measured"], True
        if checked is None:
            lines.append(
                f"{one.size} x ({one.bucket}) was not measured: it would not fit into what is free now"
            )
            continue
        share, error = checked
        lines.append(
            f"measured: {one.size} x ({one.bucket}) takes {share:.1%} of it ({error:+.1%} predicted)"
        )
        good = good and share <= 1.0 and error < 0.1
    return lines, good


def _sizes(buckets: list[Bucket], found: list[Found]) -> list[int]:
    """A size for each bucket; one that was not reached takes that of a larger bucket, which surely fits."""
    return [max(one.size for one in found if one.bucket.covers(bucket)) for bucket in buckets]


def _print_table(buckets: list[Bucket], sizes: list[int], found: list[Found], oracle: Oracle) -> None:
    trials = {one.bucket: one.trials for one in found}
    rows = []
    for bucket, size in zip(buckets, sizes):
        share = oracle.share(bucket, size)
        used = "" if share is None else f"{share:.0%}"
        rows.append((f"{bucket.seconds:g}", bucket.tokens, size, used, trials.get(bucket, "")))
    for line in table(("seconds", "tokens", "batch size", "of the budget", "trials"), rows, named=False):
        print(line)


def _report_waste(seen: Seen, before: BatchingConfig, after: BatchingConfig) -> tuple[Waste, Waste]:
    from aronnax.collections.common.data.limits import more_padding, waste

    measured = waste(seen, before), waste(seen, after)
    for name, one in zip(("before", "after"), measured):
        print(
            f"padding {name}: {one.seconds:.1%} of seconds, {one.tokens:.1%} of tokens; {one.batches} batches"
        )
    worse = more_padding(*measured)
    if worse is not None:
        print(worse)
    return measured


def _write(settings: Any, stream: str, batching: BatchingConfig, config: Path, out: Path | None) -> None:
    """The data section with the sizes of a stream, to a file or as the lines that matter."""
    from aronnax.core.config import to_dict
    from aronnax.core.safe_yaml import dump_yaml

    if out is None:
        pairs = [list(edge) if isinstance(edge, tuple) else edge for edge in batching.bucket_duration_bins]
        print(f"batching:\n  bucket_duration_bins: {pairs}")
        print(f"  bucket_batch_sizes: {list(batching.bucket_batch_sizes)}")
        if batching.bucket_max_tokens_per_second:
            print(f"  bucket_max_tokens_per_second: {list(batching.bucket_max_tokens_per_second)}")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    data = settings.data
    if data.streams:
        data = replace(
            data, streams={**data.streams, stream: replace(data.streams[stream], batching=batching)}
        )
    else:
        data = replace(data, batching=batching)
    out.write_text(dump_yaml({"data": to_dict(data)}), encoding="utf-8")
    print(f"train with them: aronnax train {config} {out}")
