"""The one data module: inputs, filters, perturbation, buckets, workers; and where to go on after an interruption."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling import DynamicCutSampler
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from aronnax.collections.common.audio.perturb import PerturbConfig, perturb_cuts
from aronnax.collections.common.data.config import BatchingConfig, Bin, DataConfig, FilterConfig
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
from aronnax.collections.common.data.non_speech import mix_non_speech
from aronnax.collections.common.data.report import Dropped
from aronnax.collections.common.data.sampling import BucketSampler, bins_of
from aronnax.collections.common.data.sources import Inputs
from aronnax.collections.common.text import Tokenizer
from aronnax.core.errors import ConfigError

logger = logging.getLogger(__name__)


class SpeechDataModule(LightningDataModule, Generic[Batch]):
    """Training and validation batches of speech.

    Args:
        config: What to read and how to batch it.
        make_batch: Makes a collection's batch from cuts and signals; runs in the workers.
        tokenizer: Needed by filters by tokens and by 2-D buckets.
        train: Cuts to train on instead of `config.train`: a CutSet or any iterable that can be iterated anew for
            each pass; where it has `set_epoch`, that is called with the number of the pass before.
        validation: Sets of cuts by name, instead of `config.validation`.
        examine: Looks at each cut first: may note its tokens on it (see `note_number`), raises for data that is
            plainly wrong, and returns why a cut is left out, or None.
        required: Prompt slots, and `text`, that every recording of `config` must have; one without them is an
            error that names file, line and field.
    """

    def __init__(
        self,
        config: DataConfig,
        make_batch: MakeBatch[Batch],
        tokenizer: Tokenizer | None = None,
        *,
        train: Iterable[Cut] | None = None,
        validation: Mapping[str, Iterable[Cut]] | None = None,
        examine: Examine | None = None,
        required: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self._examine, self._required = examine, tuple(required)
        self.stats = DataStats()
        self.dropped = Dropped()
        self._make_batch = make_batch
        self._train = train
        self._validation = dict(validation) if validation is not None else None
        self._bins: list[Bin] | None = None
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

    def cuts(self, epoch: int = 0) -> Iterator[Cut]:
        """The training cuts of one pass: tagged, mixed, perturbed and filtered."""
        seed = self.config.seed + epoch
        cuts = self._examined(self._source(epoch, seed), self.dropped)
        if (
            self._examine is None
            and self.tokenizer is not None
            and needs_tokens(self.config.filters, self.config.batching)
        ):
            tokenizer = self.tokenizer
            cuts = (note_tokens(cut, tokenizer) for cut in cuts)
        if self.config.perturb != PerturbConfig():
            cuts = perturb_cuts(CutSet(_Once(cuts)), self.config.perturb, seed)
        if self.config.non_speech.share:
            # After perturbing, since noise over silence teaches nothing new.
            cuts = self._with_non_speech(cuts, seed)
        keep_fitting = CutFilter(self.config.filters, self.config.batching, self.dropped, self.tokenizer)
        return keep_fitting(cuts)

    def _with_non_speech(self, cuts: Iterable[Cut], seed: int) -> Iterator[Cut]:
        config = self.config
        for cut in mix_non_speech(cuts, config.non_speech, config.sample_rate, seed):
            if is_non_speech(cut) and self._examine is not None:
                self._examine(cut)
            elif is_non_speech(cut):
                note_number(cut, 0)
            yield cut

    def _examined(self, cuts: Iterable[Cut], dropped: Dropped) -> Iterator[Cut]:
        examine = self._examine
        for cut in cuts:
            reason = None if examine is None else examine(cut)
            if reason is None:
                yield cut
            else:
                dropped.drop(reason, f"{cut_name(cut)} ({cut.duration:.2f} s)", cut.duration)

    def bins(self) -> list[Bin]:
        """The edges between buckets, estimated from the first recordings unless the configuration has them."""
        if self._bins is None:
            self._bins = bins_of(self.config.batching, self.cuts())
            self._report()
            self.dropped.clear()
        return self._bins

    def _report(self) -> None:
        """Log what was left out, once for each time it changes."""
        report = str(self.dropped)
        if self.dropped.count and report != self._reported:
            logger.info("training data: %s", report)
            self._reported = report

    def _source(self, epoch: int, seed: int) -> Iterator[Cut]:
        if self._train is None:
            config = self.config
            return iter(
                Inputs(
                    config.train,
                    self.dropped,
                    shuffle=config.shuffle,
                    seed=seed,
                    temperature=config.temperature,
                    required=self._required,
                )
            )
        if hasattr(self._train, "set_epoch"):
            self._train.set_epoch(epoch)
        return iter(self._train)

    def batches(self, epoch: int = 0) -> BucketSampler:
        """The batches of cuts that this process trains on in one pass; no audio is read."""
        rank, world_size = self._ranks()
        bins = self.bins()
        self._report()
        self.dropped.clear()
        return BucketSampler(
            self.cuts(epoch),
            bins,
            self.config.batching,
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
            inputs = Inputs(
                self.config.validation[name], self.dropped, shuffle=False, seed=0, required=self._required
            )
            if inputs.endless:
                raise ConfigError(
                    f"data.validation.{name} must not have weights: it is read once from end to end"
                )
            cuts = inputs
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
        )
        try:
            yield from loader
        finally:
            if isinstance(sampler, BucketSampler):
                sampler.close()

    def _ranks(self) -> tuple[int, int]:
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1


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
