"""Training of a language model on answers: all of it, parts of it, or LoRA layers alone.

Imported only to train. Shapes: B rows, U positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from aronnax.collections.common.optim import check_prefixes, under
from aronnax.collections.llm.data import TextBatch
from aronnax.collections.llm.loss import answer_cross_entropy
from aronnax.collections.llm.model import LanguageModel
from aronnax.core.errors import ConfigError
from aronnax.core.task import OptimizerBuilder, Task


@dataclass(frozen=True)
class LanguageModelTaskConfig:
    """The `task` section of a language model."""

    freeze: tuple[str, ...] = ()
    """Parts that do not learn: dotted prefixes (`llm.causal.model.layers.0`) or patterns (`*.embed_tokens.*`). With
    LoRA layers all else is frozen already."""
    gradient_checkpointing: bool = False
    """Whether layers are computed twice in training, to keep less in memory."""
    answer_tokens: int = 64
    """Most tokens of an answer in validation; 0 validates by the loss alone."""

    def __post_init__(self) -> None:
        if self.answer_tokens < 0:
            raise ConfigError(
                f"task.answer_tokens is {self.answer_tokens}; it must be 0 (no answers) or more"
            )


class LanguageModelTask(Task):
    """Trains a language model on the answers of conversations.

    Validation logs `val/loss` (a token) and `val/exact`, the share of last answers that are right to the letter;
    several sets have their own as `val/<set>/...`.
    """

    Config = LanguageModelTaskConfig
    model: LanguageModel

    def __init__(
        self, model: LanguageModel, optim: OptimizerBuilder, config: LanguageModelTaskConfig, *, seed: int = 0
    ) -> None:
        """Settles which weights of `model` learn; ConfigError for parts it has not, or where none is left."""
        super().__init__(model, optim, seed=seed)
        self.config = config
        self._sums: list[Tensor] = []
        freeze(model, config.freeze)
        model.llm.gradient_checkpointing = config.gradient_checkpointing

    def losses(self, batch: TextBatch) -> dict[str, Tensor]:
        """The cross-entropy a learned token of all processes' batches together, as `loss`."""
        total, count = self._loss(batch)
        tokens = count.float()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Gradients are averaged over processes, so each divides by the mean number of tokens.
            torch.distributed.all_reduce(tokens)
            tokens = tokens / torch.distributed.get_world_size()
        return {"loss": total / tokens.clamp(min=1e-9)}

    def batch_size(self, batch: TextBatch) -> int:
        """The number of conversations."""
        return len(batch.conversations)

    def fabricate(self, batch_size: int, seconds: float, tokens: int) -> TextBatch:
        """Rows of so many random tokens, all of them learned."""
        draws = torch.Generator().manual_seed(0)
        ids = torch.randint(self.model.llm.vocab_size, (batch_size, tokens), generator=draws)
        return TextBatch(ids, torch.full((batch_size,), tokens), ids, None, [[]] * batch_size)

    def _loss(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        llm = self.model.llm
        lengths = None if batch.segments is not None else batch.lengths
        hidden = llm(llm.embed(batch.ids), lengths, segments=batch.segments)
        return answer_cross_entropy(hidden, batch.labels, llm.logits, reduction="sum")

    def _set_modes(self) -> None:
        super()._set_modes()
        if self.config.gradient_checkpointing:
            self.model.llm.checkpoint_resting_layers()

    def on_validation_epoch_start(self) -> None:
        """Starts counting from zero: loss, tokens, right answers, answers."""
        self._sums = [torch.zeros(4, dtype=torch.float64) for _ in self._names()]

    def validation_step(self, batch: TextBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds the loss and the answers of one batch."""
        total, count = self._loss(batch)
        right = answered = 0
        if self.config.answer_tokens:
            asked = [one[:-1] for one in batch.conversations]
            with torch.autocast(self.device.type, enabled=False):
                # In the type of its weights, as the saved model will answer.
                replies: Any = self.model.generate(
                    asked,
                    max_new_tokens=self.config.answer_tokens,
                    batch_size=len(asked),
                    log_probs=False,
                )
            wanted = [one[-1]["content"].strip() for one in batch.conversations]
            right = sum(reply.text.strip() == text for reply, text in zip(replies, wanted))
            answered = len(wanted)
        self._sums[dataloader_idx] += torch.tensor(
            [float(total), float(count), right, answered], dtype=torch.float64
        )

    def on_validation_epoch_end(self) -> None:
        """Logs the means over each whole set, summed over all processes."""
        for place, (name, sums) in enumerate(zip(self._names(), self._sums)):
            if self.trainer.world_size > 1:
                sums = self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum")
            loss, tokens, right, answered = sums.tolist()
            found = {"loss": loss / max(1.0, tokens)}
            if answered:
                found["exact"] = right / answered
            prefixes = ["val"] if place == 0 else []
            if len(self._sums) > 1:
                prefixes.append(f"val/{name}")
            for prefix in prefixes:
                for metric, value in found.items():
                    self.log(f"{prefix}/{metric}", value, prog_bar=prefix == "val")

    def _names(self) -> Sequence[str]:
        names: Sequence[str] = self.trainer.datamodule.validation_names  # type: ignore[attr-defined]
        return names


def freeze(model: LanguageModel, patterns: Sequence[str]) -> None:
    """Stop parameters below dotted prefixes, or of names with `*`, from learning; ConfigError if there are none."""
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if "*" in pattern:
            found = {name for name in names if fnmatchcase(name, pattern)}
            if not found:
                raise ConfigError(f"task.freeze: no parameter of the model matches {pattern!r}")
        else:
            check_prefixes([pattern], names, "task.freeze")
            found = {name for name in names if under(name, pattern)}
        for name, parameter in model.named_parameters():
            if name in found:
                parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("task.freeze: nothing is left to learn")
