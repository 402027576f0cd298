"""The one data module: inputs, filters, perturbation, buckets, workers; and where to go on after an interruption."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Generic

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling import DynamicCutSampler
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from aronnax.collections.common.audio.perturb import PerturbConfig, perturb_cuts
from aronnax.collections.common.data.config import BatchingConfig, Bin, DataConfig, FilterConfig, Stream
from aronnax.collections.common.data.filters import (
    CutFilter,
    Examine,
    cut_name,
    is_non_speech,
    needs_tokens,
    note_number,
    note_tokens,
)
from aronnax.collections.common.data.loading import (
    Batch,
    DataStats,
    Loaded,
    MakeBatch,
    ReadingDataset,
    TrainingLoader,
    keep,
)
from aronnax.collections.common.data.mixing import RoundRobin
from aronnax.collections.common.data.non_speech import mix_non_speech
from aronnax.collections.common.data.recordings import consisting_of, consists_of_others, heard
from aronnax.collections.common.data.report import Dropped
from aronnax.collections.common.data.sampling import BucketSampler, bins_of
from aronnax.collections.common.data.sources import Inputs, OpenInput
from aronnax.collections.common.text import Tokenizer
from aronnax.core.errors import ConfigError

logger = logging.getLogger(__name__)

Convert = Callable[[Iterable[Cut], int, bool], Iterator[Cut]]
"""Cuts that were read, a seed, and whether they are to be trained on -> other cuts."""


class SpeechDataModule(LightningDataModule, Generic[Batch]):
    """Training and validation batches of speech.

    Args:
        config: What to read and how to batch it.
        make_batch: Makes a collection's batch from cuts and signals; runs in the workers.
        tokenizer: Needed by filters by tokens and by 2-D buckets.
        train: Cuts to train on instead of `config.train`: a CutSet or any iterable that can be iterated anew for
            each pass; where it has `set_epoch`, that is called with the number of the pass before. A mapping of
            such by name stands for the inputs of `config.streams`.
        validation: Sets of cuts by name, instead of `config.validation`.
        examine: Looks at each cut first: may note its tokens on it (see `note_number`), raises for data that is
            plainly wrong, and returns why a cut is left out, or None.
        required: Prompt slots, and `text`, that every recording of `config` must have; one without them is an
            error that names file, line and field.
        open_input: Opens inputs of types that only some collections know, such as `conversations`.
        convert: Makes other cuts of those that were read.
    """

    def __init__(
        self,
        config: DataConfig,
        make_batch: MakeBatch[Batch],
        tokenizer: Tokenizer | None = None,
        *,
        train: Iterable[Cut] | Mapping[str, Iterable[Cut]] | None = None,
        validation: Mapping[str, Iterable[Cut]] | None = None,
        examine: Examine | None = None,
        required: Sequence[str] = (),
        open_input: Mapping[str, OpenInput] | None = None,
        convert: Convert | None = None,
    ) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self._streams = config.training
        self._examine, self._convert = examine, convert
        self._reading: dict[str, Any] = {"required": tuple(required), "open_input": open_input}
        self.stats = DataStats()
        self.dropped = Dropped()
        self._make_batch = make_batch
        self._train = _by_name(train, self._streams)
        self._validation = dict(validation) if validation is not None else None
        self._bins: dict[str, list[Bin]] = {}
        self._loader: TrainingLoader[Batch] | None = None
        self._state: Mapping[str, int] | None = None
        self._reported = ""

    @property
    def validation_names(self) -> tuple[str, ...]:
        """Names of the validation sets in the order of their loaders."""
        return tuple(self.config.validation if self._validation is None else self._validation)

    def train_dataloader(self) -> TrainingLoader[Batch]:
        """The endless succession of passes; the same object however often it is asked for."""
        if self._loader is None:
            self._loader = TrainingLoader(self._open_pass, self.dropped, self.stats, self._ranks()[1])
            self._loader.external = self.trainer is not None
            if self._state is not None:
                self._loader.load_state_dict(self._state)
        return self._loader

    def val_dataloader(self) -> list[ValidationLoader[Batch]]:
        """One loader for each validation set: every recording once, in order."""
        return [
            ValidationLoader(lambda name=name: self._open_validation(name), self.dropped)
            for name in self.validation_names
        ]

    def state_dict(self) -> dict[str, Any]:
        """Where in the data training stands."""
        if self._loader is None:
            return dict(self._state or {})
        return dict(self._loader.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the batch after the last that was trained on when `state_dict` was taken."""
        if not state_dict:
            return
        self._state = {name: int(value) for name, value in state_dict.items()}
        if self._loader is not None:
            self._loader.load_state_dict(self._state)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Count a training batch as used; called by the trainer just before the step."""
        if self._loader is not None and self.trainer is not None and self.trainer.training:
            self._loader.use()
        return batch

    def teardown(self, stage: str) -> None:
        """Stop the workers and say what was left out."""
        if self._loader is not None and stage == "fit":
            self._loader.close()
            self._report()

    def cuts(self, epoch: int = 0, stream: str | None = None) -> Iterator[Cut]:
        """The training cuts of one pass (of the first stream unless another is named): mixed, perturbed, filtered."""
        name = next(iter(self._streams)) if stream is None else stream
        seed, settings = self.config.seed + epoch, self._streams[name]
        cuts = self._source(name, epoch, seed)
        if self._convert is not None:
            # What is made of a recording differs for one without speech too.
            cuts = self._convert(self._with_non_speech(cuts, seed), seed, True)
        cuts = self._examined(cuts, self.dropped)
        if (
            self._examine is None
            and self.tokenizer is not None
            and needs_tokens(settings.filters, settings.batching)
        ):
            tokenizer = self.tokenizer
            cuts = (note_tokens(cut, tokenizer) for cut in cuts)
        if self.config.perturb != PerturbConfig():
            cuts = perturbed(cuts, self.config.perturb, seed)
        if self._convert is None:
            # After perturbing, since noise over silence teaches nothing new.
            cuts = self._with_non_speech(cuts, seed)
        keep_fitting = CutFilter(settings.filters, settings.batching, self.dropped, self.tokenizer)
        return keep_fitting(cuts)

    def _with_non_speech(self, cuts: Iterable[Cut], seed: int) -> Iterator[Cut]:
        config = self.config
        if not config.non_speech.share:
            yield from cuts
            return
        for cut in mix_non_speech(cuts, config.non_speech, config.sample_rate, seed):
            if is_non_speech(cut) and self._convert is None:
                if self._examine is None:
                    note_number(cut, 0)
                else:
                    self._examine(cut)
            yield cut

    def _examined(self, cuts: Iterable[Cut], dropped: Dropped) -> Iterator[Cut]:
        examine = self._examine
        for cut in cuts:
            reason = None if examine is None else examine(cut)
            if reason is None:
                yield cut
            else:
                dropped.drop(reason, f"{cut_name(cut)} ({cut.duration:.2f} s)", cut.duration)

    def bins(self, stream: str | None = None) -> list[Bin]:
        """The edges between buckets, estimated from the first recordings unless the configuration has them."""
        name = next(iter(self._streams)) if stream is None else stream
        if name not in self._bins:
            self._bins[name] = bins_of(self._streams[name].batching, self.cuts(stream=name))
            self._report()
            self.dropped.clear()
        return self._bins[name]

    def _report(self) -> None:
        """Log what was left out, once for each time it changes."""
        report = str(self.dropped)
        if self.dropped.count and report != self._reported:
            logger.info("training data: %s", report)
            self._reported = report

    def _source(self, name: str, epoch: int, seed: int) -> Iterator[Cut]:
        config = self.config
        if self._train is None:
            inputs = self._streams[name].train
            options = {"shuffle": config.shuffle, "temperature": config.temperature, **self._reading}
            return iter(Inputs(inputs, self.dropped, seed=seed, **options))
        given = self._train[name]
        if hasattr(given, "set_epoch"):
            given.set_epoch(epoch)
        return iter(given)

    def batches(self, epoch: int = 0) -> BucketSampler | RoundRobin:
        """The batches of cuts that this process trains on in one pass; no audio is read.

        With several streams there is but one pass, which never ends.
        """
        if len(self._streams) == 1:
            return self._batches(next(iter(self._streams)), epoch)
        opening = {name: partial(self._batches, name) for name in self._streams}
        weights = [stream.weight for stream in self._streams.values()]
        return RoundRobin(opening, weights, f"{self.config.seed + epoch} streams")

    def _batches(self, name: str, epoch: int) -> BucketSampler:
        rank, world_size = self._ranks()
        bins = self.bins(name)
        self._report()
        self.dropped.clear()
        return BucketSampler(
            self.cuts(epoch, name),
            bins,
            self._streams[name].batching,
            shuffle=self.config.shuffle,
            seed=self.config.seed + epoch,
            world_size=world_size,
            rank=rank,
        )

    def _open_pass(self, epoch: int, skip: int) -> Iterator[Loaded[Batch]]:
        return self._load(self.batches(epoch), skip, self.config.num_workers)

    def _open_validation(self, name: str) -> Iterator[Loaded[Batch]]:
        rank, world_size = self._ranks()
        cuts: Iterable[Cut]
        if self._validation is not None:
            cuts = self._validation[name]
        else:
            given = self.config.validation[name]
            inputs = Inputs(given, self.dropped, shuffle=False, seed=0, **self._reading)
            if inputs.endless:
                raise ConfigError(
                    f"data.validation.{name} must not have weights: it is read once from end to end"
                )
            cuts = inputs
        if self._convert is not None:
            cuts = self._convert(cuts, 0, False)
        fitting = CutFilter(FilterConfig(min_duration=None), BatchingConfig(), Dropped())
        sampler = DynamicCutSampler(
            CutSet(_Once(fitting(self._examined(cuts, self.dropped)))),
            max_cuts=self.config.validation_batch_size,
            shuffle=False,
            world_size=world_size,
            rank=rank,
        )
        return self._load(sampler, 0, min(1, self.config.num_workers))

    def _load(self, sampler: Any, skip: int, workers: int) -> Iterator[Loaded[Batch]]:
        loader = DataLoader(
            ReadingDataset(self._make_batch, self.config.sample_rate, self.config.channel),
            sampler=_Skipping(sampler, skip),
            batch_size=None,
            num_workers=workers,
            collate_fn=keep,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=self.config.prefetch if workers else None,
            worker_init_fn=_leave_ctrl_c,
        )
        try:
            yield from loader
        finally:
            if isinstance(sampler, BucketSampler | RoundRobin):
                sampler.close()

    def _ranks(self) -> tuple[int, int]:
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1


def _leave_ctrl_c(worker: int) -> None:
    """The terminal tells every process of Ctrl-C; the main one alone decides when to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _by_name(
    train: Iterable[Cut] | Mapping[str, Iterable[Cut]] | None, streams: Mapping[str, Stream]
) -> Mapping[str, Iterable[Cut]] | None:
    if train is None:
        return None
    found = train if isinstance(train, Mapping) else {next(iter(streams)): train}
    if found.keys() != streams.keys():
        raise ConfigError(f"data.streams are {', '.join(streams)}, and cuts are given for {', '.join(found)}")
    return found


def perturbed(cuts: Iterable[Cut], config: PerturbConfig, seed: int) -> Iterator[Cut]:
    """Each cut perturbed; of one that consists of others, each of these."""
    for cut in cuts:
        parts = list(perturb_cuts(CutSet(heard(cut)), config, seed))
        yield consisting_of(cut, parts) if consists_of_others(cut) else parts[0]


class ValidationLoader(Generic[Batch]):
    """Every recording of a set once, in the same order each time."""

    def __init__(self, open_set: Any, dropped: Dropped) -> None:
        self._open_set, self._dropped = open_set, dropped

    def __iter__(self) -> Iterator[Batch]:
        for loaded in self._open_set():
            for name, why, seconds in loaded.skipped:
                self._dropped.unreadable(name, why, seconds)
            if loaded.batch is not None:
                yield loaded.batch


class _Skipping(Sampler):
    """The batches of a sampler after the first `skip`, which are drawn but never read."""

    def __init__(self, sampler: Iterable[CutSet], skip: int) -> None:
        self._sampler, self._skip = sampler, skip

    def __iter__(self) -> Iterator[CutSet]:
        batches = iter(self._sampler)
        if self._skip:
            logger.info("passing over the %d batches trained on before", self._skip)
        yield from islice(batches, self._skip, None)


class _Once:
    """An iterable over an iterator, for Lhotse's lazy sets."""

    def __init__(self, cuts: Iterable[Cut]) -> None:
        self._cuts = cuts

    def __iter__(self) -> Iterator[Cut]:
        return iter(self._cuts)
