"""The training of multi-speaker recognition: the recogniser's own loss of serialised texts; cpWER in validation.

Imported only to train. `B` batch, `T` frames, `N` speakers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from aronnax.collections.asr.canary.batch import CanaryBatch
from aronnax.collections.asr.encoder import EncoderOutput
from aronnax.collections.asr.finetune import freeze
from aronnax.collections.asr.long_form.engine import SHORTEST_SECONDS
from aronnax.collections.asr.task import SpeechTask, make_task, task_class
from aronnax.collections.common.metrics import ErrorCounts
from aronnax.collections.common.metrics.speaker_words import score_speaker_words
from aronnax.collections.common.results.spoken import Spoken
from aronnax.collections.diarization.multispeaker.batch import (
    MakeMultispeakerBatch,
    MultispeakerBatch,
    Session,
)
from aronnax.collections.diarization.multispeaker.kernel import aligned
from aronnax.collections.diarization.multispeaker.model import MultispeakerModel
from aronnax.collections.diarization.multispeaker.serialisation import Run, Utterance, token_runs
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError
from aronnax.core.task import OptimizerBuilder, Task

if TYPE_CHECKING:
    from aronnax.collections.common.data import DataConfig, SpeechDataModule

WITH_DIARIZER, WITH_TRUTH = "cpwer", "cpwer_oracle"


@dataclass(frozen=True)
class MultispeakerTaskConfig:
    """The `task` section."""

    freeze: tuple[str, ...] = ()
    """Parts that do not learn beside the diarizer: dotted prefixes (`recogniser.encoder`) or patterns."""
    ground_truth: float = 0.5
    """Probability that a session is learned with who really speaks in place of what the diarizer finds; a model
    without a diarizer always is."""
    recogniser: dict[str, Any] = field(default_factory=dict)
    """Options of the recogniser's own task, such as `ctc_weight` or `label_smoothing`."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.ground_truth <= 1.0:
            raise ConfigError(f"task.ground_truth={self.ground_truth} must lie between 0 and 1")


@dataclass
class Validated:
    """Sums over a validation set."""

    loss: float = 0.0
    sessions: int = 0
    errors: dict[str, ErrorCounts] = field(
        default_factory=lambda: {WITH_DIARIZER: ErrorCounts(), WITH_TRUTH: ErrorCounts()}
    )

    def counts(self) -> list[float]:
        """All sums as one list."""
        sums = [self.loss, float(self.sessions)]
        for one in self.errors.values():
            sums += [one.length, one.insertions, one.deletions, one.substitutions]
        return sums

    @classmethod
    def of(cls, counts: Sequence[float]) -> Validated:
        """The inverse of `counts`."""
        found, rest = cls(counts[0], int(counts[1])), [int(one) for one in counts[2:]]
        for place, name in enumerate(found.errors):
            found.errors[name] = ErrorCounts(*rest[4 * place : 4 * place + 4])
        return found

    def metrics(self) -> dict[str, float]:
        """What is logged."""
        rates = {name: one.rate for name, one in self.errors.items()}
        return {"loss": self.loss / max(1, self.sessions), **rates}


class MultispeakerTask(Task):
    """Trains the recogniser inside to write who says what.

    Validation logs `val/loss`; `val/cpwer` with the speakers that the diarizer finds (those who really speak for a
    model without one), and `val/cpwer_oracle` with those who really speak. With several sets these are the first
    one's, and every set has its own as `val/<set>/...`.
    """

    Config: ClassVar[type[MultispeakerTaskConfig]] = MultispeakerTaskConfig
    shortest_seconds: ClassVar[float] = SHORTEST_SECONDS
    model: MultispeakerModel

    def __init__(
        self,
        model: MultispeakerModel,
        optim: OptimizerBuilder,
        config: MultispeakerTaskConfig | None = None,
        *,
        seed: int = 0,
    ) -> None:
        if model.tokenizer is None:
            raise ConfigError("the recogniser has no tokenizer, and training needs one")
        super().__init__(model, optim, seed=seed)
        self.config = config or MultispeakerTaskConfig()
        freeze(model, self.config.freeze)
        options = from_dict(
            task_class(model.recogniser.model_type).Config, self.config.recogniser, "task.recogniser"
        )
        # In a tuple, lest its weights, which are the model's, be counted twice.
        self._recognition = (make_task(model.recogniser, optim, options, seed=seed),)
        self._sets: list[Validated] = []

    @property
    def recognition(self) -> SpeechTask:
        """The task of the recogniser inside, which knows its losses."""
        self._recognition[0].training = self.training
        return self._recognition[0]

    def batch_maker(self) -> MakeMultispeakerBatch:
        """Makes this model's batches of cuts."""
        return MakeMultispeakerBatch(self.model)

    def data(
        self,
        config: DataConfig,
        *,
        train: Iterable[Any] | None = None,
        validation: Mapping[str, Iterable[Any]] | None = None,
    ) -> SpeechDataModule[MultispeakerBatch]:
        """The data module with this task's batches, at the recogniser's sample rate whatever the config says."""
        from aronnax.collections.common.data.module import SpeechDataModule

        return SpeechDataModule(
            replace(config, sample_rate=self.model.sample_rate),
            self.batch_maker(),
            self.model.tokenizer,
            train=train,
            validation=validation,
        )

    def batch_size(self, batch: MultispeakerBatch) -> int:
        """The number of sessions."""
        return len(batch)

    def fabricate(self, batch_size: int, seconds: float, tokens: int) -> MultispeakerBatch:
        """A batch of noise: sessions of that length in which speakers take turns with about that many tokens."""
        draws = torch.Generator().manual_seed(0)
        model = self.model
        samples = max(1, round(seconds * model.sample_rate))
        frames = -(-samples // model.samples_per_frame)
        assert model.tokenizer is not None, "checked in the constructor"
        word = next(piece for piece in model.tokenizer.vocabulary if piece.strip("\u2581")).strip("\u2581")
        count = max(1, tokens // 2)
        turns = tuple(
            Utterance(index % model.max_speakers, (word,), (seconds * index / count,))
            for index in range(count)
        )
        active = (torch.rand(batch_size, frames, model.max_speakers, generator=draws) > 0.5).float().numpy()
        signal = 0.1 * torch.randn(batch_size, samples, generator=draws)
        sessions = [Session(f"made-{row}", signal[row], active[row], turns, {}) for row in range(batch_size)]
        return self.batch_maker().collated(sessions)

    def losses(self, batch: MultispeakerBatch) -> dict[str, Tensor]:
        """The losses of the recogniser inside on states that know who speaks."""
        return self.recognition.losses_of(self._supervised(batch, self._mixed(batch)), batch.speech)

    def _supervised(self, batch: MultispeakerBatch, activity: Tensor) -> EncoderOutput:
        """The states of a batch, speakers added; short signals get silence behind them, as `transcribe` does."""
        speech, model = batch.speech, self.model
        shortest = round(SHORTEST_SECONDS * model.sample_rate)
        missing = max(0, shortest - speech.signal.shape[1])
        lengths = speech.signal_lengths.clamp(min=shortest)
        signal = torch.nn.functional.pad(speech.signal, (0, missing))
        frames = torch.div(
            lengths + model.samples_per_frame - 1, model.samples_per_frame, rounding_mode="floor"
        )
        fitting = torch.nn.functional.pad(activity, (0, 0, 0, max(0, int(frames.max()) - activity.shape[1])))
        return model.encode(signal, lengths, fitting, frames)

    def _mixed(self, batch: MultispeakerBatch) -> Tensor:
        """Who speaks [B, T, N]: really, or by the diarizer, drawn for each session."""
        share = self.config.ground_truth
        if self.model.diarizer is None or share >= 1.0:
            return batch.activity
        # The step is seeded, so this draw is the same after an interruption.
        truth = torch.rand(len(batch), device=batch.activity.device) < share
        return torch.where(truth[:, None, None], batch.activity, self._found(batch))

    def _found(self, batch: MultispeakerBatch) -> Tensor:
        """Who speaks [B, T, N] by the diarizer; really for a model without one."""
        if self.model.diarizer is None:
            return batch.activity
        self.model.diarizer.eval()
        with torch.no_grad():
            found = self.model.diarize_signal(batch.heard, batch.heard_lengths)
        return aligned(found.probabilities, found.lengths, batch.activity.shape[1], batch.activity_lengths)

    def on_validation_epoch_start(self) -> None:
        """Starts counting from zero."""
        self._sets = [Validated() for _ in self._set_names()]

    def validation_step(self, batch: MultispeakerBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds the loss and the word errors of one batch."""
        tally = self._sets[dataloader_idx]
        for name, activity in ((WITH_TRUTH, batch.activity), (WITH_DIARIZER, self._found(batch))):
            output = self._supervised(batch, activity)
            tally.errors[name] += word_errors(batch.runs, self.written(output, batch))
        # That of the diarizer, with which the model is used.
        loss = self.recognition.losses_of(output, batch.speech)["loss"]
        tally.loss += float(loss) * len(batch)
        tally.sessions += len(batch)

    def written(self, output: EncoderOutput, batch: MultispeakerBatch) -> list[list[Run]]:
        """What the recogniser writes of supervised states."""
        recogniser = self.model.recogniser
        asked: dict[str, Any] = {}
        if isinstance(batch.speech, CanaryBatch):
            asked["prompts"] = batch.speech.prompts()
        found, _ = recogniser.decode(output.states, output.lengths, confidence=None, **asked)
        ids = {token: number for number, token in enumerate(self.batch_maker().ids)}
        tokenizer = recogniser.tokenizer
        assert tokenizer is not None, "checked in the constructor"
        return [
            [
                Run(run.speaker, tuple(tokenizer.decode(one.tokens[run.start : run.stop]).split()))
                for run in token_runs(one.tokens, ids)
            ]
            for one in found
        ]

    def on_validation_epoch_end(self) -> None:
        """Logs the numbers of each whole set, all processes together."""
        for index, (name, tally) in enumerate(zip(self._set_names(), self._sets)):
            if self.trainer.world_size > 1:
                sums = torch.tensor(tally.counts(), dtype=torch.float64, device=self.device)
                tally = Validated.of(self.trainer.strategy.reduce(sums, reduce_op="sum").tolist())
                self._sets[index] = tally
            prefixes = ["val"] if index == 0 else []
            if len(self._sets) > 1:
                prefixes.append(f"val/{name}")
            for prefix in prefixes:
                for metric, value in tally.metrics().items():
                    self.log(f"{prefix}/{metric}", value, prog_bar=f"{prefix}/{metric}" == "val/cpwer")

    def summary(self) -> list[str]:
        """The errors of the last validation on the first set."""
        if not self._sets:
            return []
        by = {WITH_DIARIZER: "speakers by the diarizer", WITH_TRUTH: "speakers as they are"}
        return [f"cpWER, {by[name]}: {errors}" for name, errors in self._sets[0].errors.items()]

    def _set_names(self) -> Sequence[str]:
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        return getattr(datamodule, "validation_names", None) or ("validation",)


def word_errors(reference: Sequence[Sequence[Run]], written: Sequence[Sequence[Run]]) -> ErrorCounts:
    """cpWER counts of sessions: all words of each speaker against those of who was found for them."""
    both = [
        {
            str(number): [Spoken(str(run.speaker), " ".join(run.words)) for run in runs if run.words]
            for number, runs in enumerate(side)
        }
        for side in (reference, written)
    ]
    return sum((one.cp for one in score_speaker_words(*both).values()), ErrorCounts())
