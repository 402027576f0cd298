"""Training of Canary models: cross-entropy of prompted answers; scores by language and task.

Imported only to train. Shapes: B batch, S samples, T frames, U tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from aronnax.collections.asr.canary.batch import (
    CanaryBatch,
    ExaminePrompts,
    MakeCanaryBatch,
    collate_prompted,
)
from aronnax.collections.asr.canary.loss import smoothed_cross_entropy, targets
from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.asr.encoder import EncoderOutput
from aronnax.collections.asr.task import SpeechTask, TaskConfig
from aronnax.collections.common.metrics import NORMALISERS, MultitaskScore, Scored, score_multitask
from aronnax.collections.common.text.prompts import Prompted
from aronnax.core.config import nearest
from aronnax.core.errors import ConfigError
from aronnax.core.task import OptimizerBuilder

if TYPE_CHECKING:
    from aronnax.collections.common.data import DataConfig, SpeechDataModule


@dataclass(frozen=True)
class CanaryTaskConfig(TaskConfig):
    """The `task` section of a Canary model."""

    label_smoothing: float = 0.0
    """Share of the probability that is asked for on other tokens than the right one."""
    mask_prompt: bool = False
    """Whether only the answer is learned; otherwise the prompt's tokens are, too, as in the published models."""
    normaliser: str = "none"
    """Of both texts before word errors are counted in validation: none, basic or whisper."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"task.label_smoothing is {self.label_smoothing}; it lies between 0 and 1")
        if self.normaliser not in NORMALISERS:
            raise ConfigError(
                f"task.normaliser is {self.normaliser!r}; {nearest(self.normaliser, NORMALISERS)}"
            )


@dataclass
class Validated:
    """What one validation set came to so far."""

    loss: float = 0.0
    """Summed over the tokens."""
    tokens: int = 0
    seconds: float = 0.0
    """Of sound."""
    spent: float = 0.0
    """Seconds that encoding and decoding took."""
    rows: list[Scored] = field(default_factory=list)

    def add(self, other: Validated) -> None:
        """Adds another process's part; the time is that of all processes together."""
        self.loss += other.loss
        self.tokens += other.tokens
        self.seconds += other.seconds
        self.spent += other.spent
        self.rows += other.rows


class CanaryTask(SpeechTask):
    """Trains a Canary model by teacher forcing; validation decodes greedily.

    `val/loss` is per token; `val/wer` the word error rate of the transcriptions (of everything where there are only
    translations), `val/wer_all` that of all; with several languages or tasks `val/wer/en`, `val/wer/en-de`,
    `val/bleu/en-de` and `val/chrf/en-de`, and their means `val/bleu` and `val/chrf`; `val/characters_per_minute` is
    what was written for recordings with an empty text, which count nowhere else; `val/rtfx` the seconds
    of sound worked through in one.
    With several validation sets these are the first one's, and every set has its own as `val/<set>/...`.
    Training logs `train/encoder_padding` and `train/decoder_padding` (shares) and `train/tokens` of a batch.
    """

    Config: ClassVar[type[TaskConfig]] = CanaryTaskConfig
    model: CanaryModel
    config: CanaryTaskConfig

    def __init__(
        self, model: CanaryModel, optim: OptimizerBuilder, config: TaskConfig, *, seed: int = 0
    ) -> None:
        super().__init__(model, optim, config, seed=seed)
        self._sets: list[Validated] = []
        self._score: MultitaskScore | None = None

    def batch_maker(self) -> MakeCanaryBatch:
        """Makes this model's batches of cuts."""
        config = self.model.config
        return MakeCanaryBatch(self.model.text, config.prompt_format, config.prompt_defaults)

    def data(
        self,
        config: DataConfig,
        *,
        train: Iterable[Any] | None = None,
        validation: Mapping[str, Iterable[Any]] | None = None,
    ) -> SpeechDataModule[CanaryBatch]:
        """The data module with prompted batches; see `SpeechTask.data`."""
        from aronnax.collections.common.data.module import SpeechDataModule

        make = self.batch_maker()
        # The last token of a row is only said, never heard, so a row may be one longer than the decoder.
        most = self.model.config.decoder.max_sequence_length + 1
        return SpeechDataModule(
            replace(config, sample_rate=self.model.sample_rate),
            make,
            self.model.text,
            train=train,
            validation=validation,
            examine=ExaminePrompts(make, most),
            required=("text",),
        )

    def fabricate(self, batch_size: int, seconds: float, tokens: int) -> CanaryBatch:
        """A batch of noise: that many recordings, each with that many random tokens, half of them its prompt."""
        draws = torch.Generator().manual_seed(0)
        signal = 0.1 * torch.randn(
            batch_size, max(1, round(seconds * self.model.sample_rate)), generator=draws
        )
        ids = torch.randint(
            self.model.config.vocab_size, (batch_size, max(2, tokens)), generator=draws
        ).tolist()
        half = max(1, tokens // 2)
        return collate_prompted(
            list(signal),
            [Prompted(row[:half], row[half:]) for row in ids],
            [""] * batch_size,
            [f"made-{row}" for row in range(batch_size)],
            [{}] * batch_size,
            self.model.text.pad_id,
        )

    def losses_of(self, output: EncoderOutput, batch: CanaryBatch) -> dict[str, Tensor]:
        """The cross-entropy of the batch as `loss`."""
        return {"loss": self._loss(output, batch)[0]}

    def _loss(self, output: EncoderOutput, batch: CanaryBatch) -> tuple[Tensor, Tensor]:
        """The loss a token, and how many tokens count."""
        inputs, labels, counts = targets(
            batch.tokens, batch.token_lengths, batch.prompt_lengths, mask_prompt=self.config.mask_prompt
        )
        log_probs = self.model.forward_tokens(output.states, output.lengths, inputs)
        loss = smoothed_cross_entropy(log_probs, labels, counts, self.config.label_smoothing)
        return loss, counts.sum()

    def training_step(self, batch: CanaryBatch, batch_idx: int) -> Tensor:
        """Computes and logs the loss, the padding shares of encoder and decoder, and the number of tokens."""
        size = len(batch)
        # As tensors: reading their values here would make every step wait for the GPU.
        samples, tokens = batch.signal_lengths.sum().float(), batch.token_lengths.sum().float()
        self.log("train/encoder_padding", 1.0 - samples / batch.signal.numel(), batch_size=size)
        self.log("train/decoder_padding", 1.0 - tokens / batch.tokens.numel(), batch_size=size)
        self.log("train/tokens", tokens, batch_size=size)
        return super().training_step(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Starts counting from zero."""
        self._sets = [Validated() for _ in self._set_names()]

    def validation_step(self, batch: CanaryBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds the loss and the texts of one batch."""
        found = self._sets[dataloader_idx]
        began = time.perf_counter()
        output = self.encode(batch)
        hypotheses, _ = self.model.decode(
            output.states, output.lengths, confidence=None, prompts=batch.prompts()
        )
        texts = [self.model.text.decode(hypothesis.tokens) for hypothesis in hypotheses]
        found.spent += time.perf_counter() - began
        loss, tokens = self._loss(output, batch)
        found.loss += float(loss) * int(tokens)
        found.tokens += int(tokens)
        lengths = (batch.signal_lengths / self.model.sample_rate).tolist()
        found.seconds += sum(lengths)
        for row, (reference, said, seconds) in enumerate(zip(batch.texts, texts, lengths)):
            slots = batch.slots[row]
            source, target = slots.get("source_lang"), slots.get("target_lang")
            found.rows.append(Scored(reference, said, seconds, source, target, batch.ids[row]))

    def on_validation_epoch_end(self) -> None:
        """Logs the scores of each whole set, all processes together."""
        self._score = None
        for index, (name, found) in enumerate(zip(self._set_names(), self._sets)):
            found = _gathered(found, self.trainer.world_size)
            score = score_multitask(found.rows, self.config.normaliser)
            self._score = self._score or score
            metrics = {"loss": found.loss / max(1, found.tokens), **score.metrics()}
            metrics["rtfx"] = found.seconds / found.spent if found.spent else 0.0
            prefixes = ["val"] if index == 0 else []
            if len(self._sets) > 1:
                prefixes.append(f"val/{name}")
            for prefix in prefixes:
                for metric, value in metrics.items():
                    self.log(f"{prefix}/{metric}", value, prog_bar=f"{prefix}/{metric}" == "val/wer")

    def summary(self) -> list[str]:
        """The word errors of each language and task, and what was written where nobody spoke."""
        if self._score is None:
            return []
        lines = []
        for group in self._score.groups:
            extra = "" if group.bleu is None else f", BLEU {group.bleu:.1f}, chrF {group.chrf:.1f}"
            lines.append(f"{group.name or 'all'} WER {group.words}{extra}")
        if self._score.non_speech.recordings:
            lines.append(f"without speech: {self._score.non_speech}")
        return lines


def _gathered(found: Validated, processes: int) -> Validated:
    if processes == 1:
        return found
    parts: list[Any] = [None] * processes
    torch.distributed.all_gather_object(parts, found)
    total = Validated()
    for part in parts:
        total.add(part)
    return total
