"""Training of speech language models: the cross-entropy of answers, and how many answers are right.

Imported only to train. Shapes: B rows, U positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from aronnax.collections.asr.finetune import freeze
from aronnax.collections.common.metrics import NORMALISERS, ErrorCounts, normaliser, score_utterance
from aronnax.collections.common.optim import check_prefixes, under
from aronnax.collections.llm.answering import AnswerOptions, answer
from aronnax.collections.llm.loss import answer_cross_entropy
from aronnax.collections.speechlm.conversation.batch import ConversationBatch, fabricated
from aronnax.collections.speechlm.model import SpeechLM, among_others
from aronnax.core.config import nearest
from aronnax.core.errors import ConfigError
from aronnax.core.task import OptimizerBuilder, Task

if TYPE_CHECKING:
    from aronnax.collections.common.data import DataConfig, SpeechDataModule
    from aronnax.collections.speechlm.conversation.data import ConversationConfig


@dataclass(frozen=True)
class SpeechLMTaskConfig:
    """The `task` section of a speech language model."""

    freeze: tuple[str, ...] = ("llm",)
    """Parts that do not learn: dotted prefixes (`llm`, `perception.encoder`) or patterns (`*.norm_*`)."""
    learn: tuple[str, ...] = ("*.lora_*",)
    """Parts that learn although a frozen part holds them, such as the low-rank layers; likewise."""
    gradient_checkpointing: bool = False
    """Whether the language model computes its layers twice in training, to keep less in memory."""
    pack: bool | int = False
    """Whether conversations share rows of the language model, each seeing itself only, so that less is padding: rows
    as long as the longest of the batch, or of so many positions. Not for models with recurrent layers."""
    answer_tokens: int = 64
    """Most tokens of an answer in validation; 0 validates by the loss alone."""
    normaliser: str = "none"
    """Of both texts before word errors are counted in validation: none, basic or whisper."""

    def __post_init__(self) -> None:
        if self.answer_tokens < 0:
            raise ConfigError(
                f"task.answer_tokens is {self.answer_tokens}; it must be 0 (no answers) or more"
            )
        if self.pack is not False and self.pack < 1:
            raise ConfigError(f"task.pack is {self.pack}; it must be true, false, or a number of positions")
        if self.normaliser not in NORMALISERS:
            raise ConfigError(
                f"task.normaliser is {self.normaliser!r}; {nearest(self.normaliser, NORMALISERS)}"
            )


@dataclass
class Validated:
    """What one validation set came to so far; adds up over processes."""

    loss: float = 0.0
    """Summed over the tokens."""
    tokens: int = 0
    answers: int = 0
    exact: int = 0
    words: ErrorCounts = field(default_factory=ErrorCounts)

    def add(self, other: Validated) -> None:
        """Adds another part of the set."""
        for name in ("loss", "tokens", "answers", "exact", "words"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def metrics(self) -> dict[str, float]:
        """Loss a token, and of the answers the share that is right to the letter and the word error rate."""
        found = {"loss": self.loss / max(1, self.tokens)}
        if self.answers:
            found |= {"exact": self.exact / self.answers, "wer": self.words.rate}
        return found


class SpeechLMTask(Task):
    """Trains a speech language model on the answers of conversations.

    The loss of a step is the mean over the learned tokens of all processes together, however they are shared out.
    Training logs the shares of padding in the recordings of a batch (`train/encoder_padding`) and in the positions
    that the language model computes (`train/padding`), which packing makes fewer.
    Validation logs `val/loss` (a token), `val/exact` (share of answers that are right to the letter) and `val/wer`;
    several sets have their own as `val/<set>/...`.
    """

    Config: ClassVar[type[SpeechLMTaskConfig]] = SpeechLMTaskConfig
    logs_padding: ClassVar[bool] = True
    model: SpeechLM

    def __init__(
        self, model: SpeechLM, optim: OptimizerBuilder, config: SpeechLMTaskConfig, *, seed: int = 0
    ) -> None:
        """Settles which weights of `model` learn.

        Raises ConfigError for parts it has not, where it has no tokenizer, and where its rows cannot be shared.
        """
        if model.tokenizer is None:
            raise ConfigError("the model has no tokenizer, and training needs one")
        if config.pack and model.unpackable:
            raise ConfigError(f"task.pack: {model.unpackable}; set it to false")
        super().__init__(model, optim, seed=seed)
        self.config = config
        self._sets: list[Validated] = []
        self._computed = 0
        """Positions of the language model in the last step, padding counted."""
        self._whole = ExitStack()
        choose_what_learns(model, config)
        model.llm.gradient_checkpointing = config.gradient_checkpointing

    def data(
        self,
        config: DataConfig,
        conversation: ConversationConfig | None = None,
        *,
        train: Iterable[Any] | Mapping[str, Iterable[Any]] | None = None,
        validation: Mapping[str, Iterable[Any]] | None = None,
    ) -> SpeechDataModule[ConversationBatch]:
        """The data module of conversations, at the model's sample rate whatever the config says.

        `train` and `validation` (sets by name) are cuts to use instead of the config's inputs.
        """
        from aronnax.collections.speechlm.conversation.data import conversation_data

        config = replace(config, sample_rate=self.model.sample_rate)
        return conversation_data(config, self.model.text, conversation, train=train, validation=validation)

    def fabricate(self, batch_size: int, seconds: float, tokens: int) -> ConversationBatch:
        """Rows of one recording of that length and that many tokens, all of them learned."""
        return fabricated(batch_size, seconds, tokens, self.model.sample_rate, self.model.llm.vocab_size)

    def batch_size(self, batch: ConversationBatch) -> int:
        """The number of conversations."""
        return len(batch)

    def losses(self, batch: ConversationBatch) -> dict[str, Tensor]:
        """The cross-entropy a learned token as `loss`."""
        # True is room for one position: rows are as long as the longest conversation at least.
        total, count = self._loss(batch, int(self.config.pack) if self.config.pack else None)
        return {"loss": total / _tokens_a_process(count)}

    def _loss(self, batch: ConversationBatch, room: int | None = None) -> tuple[Tensor, Tensor]:
        """The loss summed over the learned tokens of a batch, and how many these are."""
        hidden, labels = self.model.training_hidden(batch, room)
        self._computed = labels.numel()
        return answer_cross_entropy(hidden, labels, self.model.llm.logits, reduction="sum")

    def training_step(self, batch: ConversationBatch, batch_idx: int) -> Tensor:
        """Computes and logs the loss, and how much of the batch is padding."""
        loss = super().training_step(batch, batch_idx)
        words = int(batch.id_lengths.sum()) - len(batch.signal_lengths)
        filled = words + self.model.positions([], batch.signal_lengths.tolist())
        self.log("train/encoder_padding", batch.padding, batch_size=len(batch))
        self.log("train/padding", 1.0 - filled / self._computed, batch_size=len(batch), prog_bar=True)
        return loss

    def _set_modes(self) -> None:
        super()._set_modes()
        if self.config.gradient_checkpointing:
            self.model.llm.checkpoint_resting_layers()

    def shard(self, mesh: Any) -> None:
        """Shares the weights out over the processes of a mesh (FSDP2)."""
        from aronnax.collections.speechlm.sharding import shard

        shard(self.model, mesh)

    def on_validation_epoch_start(self) -> None:
        """Starts counting from zero, with all weights in each process where answers are asked for."""
        self._sets = [Validated() for _ in self._set_names()]
        if self._sharded and self.config.answer_tokens:
            from aronnax.collections.speechlm.sharding import whole

            self._whole.enter_context(whole(self.model))

    def validation_step(self, batch: ConversationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds the loss and the answers of one batch."""
        total, count = self._loss(batch)
        found = Validated(float(total), int(count))
        if self.config.answer_tokens:
            simplified = normaliser(self.config.normaliser)
            for right, said in zip(batch.texts, self.answers(batch)):
                found.answers += 1
                found.exact += right.strip() == said.strip()
                found.words += score_utterance(simplified(right), simplified(said)).words
        self._sets[dataloader_idx].add(found)

    @torch.no_grad()
    def answers(self, batch: ConversationBatch) -> list[str]:
        """What the model says in place of each row's last answer, in the type of its weights, as when loaded."""
        options = AnswerOptions.checked(max_new_tokens=self.config.answer_tokens, log_probs=False)
        with torch.autocast(self.device.type, enabled=False):
            decoder, lengths = self.model.decoder_for(batch.asked, batch.signals())
            replies = answer(decoder, lengths, self.model.text, options, context=self.model.context)
        return [row[0].text for row in replies]

    def on_validation_epoch_end(self) -> None:
        """Logs the scores of each whole set, all processes together."""
        self._whole.close()
        for index, (name, found) in enumerate(zip(self._set_names(), self._sets)):
            prefixes = ["val"] if index == 0 else []
            if len(self._sets) > 1:
                prefixes.append(f"val/{name}")
            for metric, value in _gathered(found, self.trainer.world_size).metrics().items():
                for prefix in prefixes:
                    self.log(f"{prefix}/{metric}", value, prog_bar=f"{prefix}/{metric}" == "val/exact")

    def _set_names(self) -> Sequence[str]:
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        return getattr(datamodule, "validation_names", None) or ("validation",)


def choose_what_learns(model: SpeechLM, config: SpeechLMTaskConfig) -> None:
    """Has everything learn but the parts of `config.freeze`, and of these the parts of `config.learn`.

    Raises ConfigError for a part that the model has not; patterns of `learn` may match nothing.
    """
    model.requires_grad_(True)
    freeze(model, config.freeze)
    names = [name for name, _ in model.named_parameters()]
    check_prefixes([part for part in config.learn if not _is_pattern(part)], names, "task.learn")
    for name, parameter in model.named_parameters():
        if any(_chosen(name, part) for part in config.learn):
            parameter.requires_grad_(True)


def _tokens_a_process(count: Tensor) -> Tensor:
    """The mean number of learned tokens over all processes, whose gradients are averaged without weights."""
    everywhere = count.detach().float()
    processes = 1
    if among_others():
        torch.distributed.all_reduce(everywhere)
        processes = torch.distributed.get_world_size()
    return everywhere.clamp(min=1) / processes


def _is_pattern(part: str) -> bool:
    return "*" in part or "?" in part


def _chosen(name: str, part: str) -> bool:
    return fnmatchcase(name, part) if _is_pattern(part) else under(name, part)


def _gathered(found: Validated, processes: int) -> Validated:
    if processes == 1:
        return found
    parts: list[Any] = [None] * processes
    torch.distributed.all_gather_object(parts, found)
    total = Validated()
    for part in parts:
        total.add(part)
    return total
