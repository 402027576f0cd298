"""Recordings opened in a thread while the model works, in groups that make batches of alike length."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aronnax.collections.asr.inputs import Source, Stream
from aronnax.collections.asr.long_form.plan import Plan
from aronnax.core.errors import AronnaxError

GROUP_BATCHES = 8
"""A group holds so many batches' recordings at most: from it batches of alike length are made."""

GROUP_SAMPLES = 2**24
"""Samples a group holds in memory at most (64 MiB), unless one recording is longer."""

PATIENCE = 5.0
"""Seconds that the end of reading waits for the recording that is just being read."""


@dataclass(frozen=True)
class Opened:
    """A recording, how it will be read, its samples if it is read whole with others, and what is asked of it."""

    index: int
    source: Source
    stream: Stream
    plan: Plan
    signal: np.ndarray | None
    asked: Any = None

    @property
    def name(self) -> str | None:
        """What results call it."""
        return self.source.name

    @property
    def samples(self) -> int:
        """Length of the recording."""
        return self.stream.samples


@dataclass(frozen=True)
class Failed:
    """A recording that could not be opened."""

    index: int
    name: str | None
    error: AronnaxError


Group = list[Opened | Failed]


def opened(
    sources: Iterable[Source | AronnaxError], open_one: Callable[[int, Source], Opened]
) -> Iterator[Opened | Failed]:
    """Each source opened, or what was wrong with it."""
    for index, source in enumerate(sources):
        if isinstance(source, AronnaxError):
            yield Failed(index, None, source)
            continue
        try:
            yield open_one(index, source)
        except AronnaxError as error:
            yield Failed(index, source.name, error)


def groups(items: Iterable[Opened | Failed], batch_size: int) -> Generator[Group, None, None]:
    """Items in groups, the first of one batch so that results come soon, the later ones larger."""
    group: Group = []
    held, wanted = 0, batch_size
    for item in items:
        group.append(item)
        if isinstance(item, Opened) and item.signal is not None:
            held += len(item.signal)
        if len(group) >= wanted or held >= GROUP_SAMPLES:
            yield group
            group, held = [], 0
            wanted = min(wanted * 2, GROUP_BATCHES * batch_size)
    if group:
        yield group


def in_thread(groups_of_items: Iterator[Group]) -> Generator[Group, None, None]:
    """The same groups, the next one always being made in a thread while this one is used."""
    ready: queue.Queue[Group | BaseException | None] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def put(item: Group | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for group in groups_of_items:
                put(group)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="aronnax-reading", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        # Python that ends while a thread is inside native code aborts; a reader that hangs is left behind.
        thread.join(PATIENCE)


def batches(
    recordings: Sequence[Opened], batch_size: int, rows_that_fit: Callable[[int], int]
) -> Iterator[list[Opened]]:
    """Recordings of alike length together, at most `batch_size` and as many as fit beside the longest."""
    batch: list[Opened] = []
    room = batch_size
    for recording in sorted(recordings, key=lambda recording: -recording.samples):
        if not batch:
            room = min(batch_size, rows_that_fit(recording.samples))
        batch.append(recording)
        if len(batch) >= room:
            yield batch
            batch = []
    if batch:
        yield batch
