"""What a training step of speech recognition works on.

B batch, S samples, U tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aronnax.collections.common.text import Tokenizer

if TYPE_CHECKING:
    from aronnax.collections.common.data.config import DataConfig
    from aronnax.collections.common.data.module import SpeechDataModule


@dataclass
class SpeechBatch:
    """Recordings and their transcripts, padded with zeros to the longest of the batch."""

    signal: Tensor
    """Samples at the model's rate, float32 [B, S]."""
    signal_lengths: Tensor
    """Samples that are not padding, int64 [B]."""
    tokens: Tensor
    """Token ids, int64 [B, U]."""
    token_lengths: Tensor
    """Tokens that are not padding, int64 [B]."""
    texts: list[str]
    """The transcripts."""
    ids: list[str]
    """Names of the recordings."""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SpeechBatch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            signal=self.signal.to(device, non_blocking=non_blocking),
            signal_lengths=self.signal_lengths.to(device, non_blocking=non_blocking),
            tokens=self.tokens.to(device, non_blocking=non_blocking),
            token_lengths=self.token_lengths.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> SpeechBatch:
        """The same batch with its tensors in page-locked memory."""
        return replace(
            self,
            signal=self.signal.pin_memory(),
            signal_lengths=self.signal_lengths.pin_memory(),
            tokens=self.tokens.pin_memory(),
            token_lengths=self.token_lengths.pin_memory(),
        )

    @property
    def padding(self) -> float:
        """Share of the signal that is padding, 0 to 1."""
        if self.signal.numel() == 0:
            return 0.0
        return 1.0 - float(self.signal_lengths.sum()) / self.signal.numel()


def collate(
    signals: Sequence[Tensor], tokens: Sequence[Sequence[int]], texts: Sequence[str], ids: Sequence[str]
) -> SpeechBatch:
    """Pad recordings [S] and token lists of different lengths into one batch.

    Raises:
        ValueError: the four sequences are not of one length.
    """
    if not len(signals) == len(tokens) == len(texts) == len(ids):
        raise ValueError(
            f"a batch needs as many signals ({len(signals)}) as token lists ({len(tokens)}), "
            f"texts ({len(texts)}) and ids ({len(ids)})"
        )
    signal_lengths = torch.tensor([signal.shape[0] for signal in signals], dtype=torch.int64)
    token_lengths = torch.tensor([len(row) for row in tokens], dtype=torch.int64)
    signal = torch.zeros(len(signals), max(signal_lengths.tolist(), default=0))
    ids_padded = torch.zeros(len(tokens), max(token_lengths.tolist(), default=0), dtype=torch.int64)
    for row, (samples, labels) in enumerate(zip(signals, tokens)):
        signal[row, : samples.shape[0]] = samples
        ids_padded[row, : len(labels)] = torch.as_tensor(labels, dtype=torch.int64)
    return SpeechBatch(signal, signal_lengths, ids_padded, token_lengths, list(texts), list(ids))


class MakeSpeechBatch:
    """Makes a SpeechBatch from Lhotse cuts and their signals [S]; texts become tokens here, in the workers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, cuts: Sequence[Any], signals: Sequence[Tensor]) -> SpeechBatch:
        from aronnax.collections.common.data.filters import cut_language, cut_text

        texts = [cut_text(cut) or "" for cut in cuts]
        tokens = [self.tokenizer.encode(text, cut_language(cut)) for cut, text in zip(cuts, texts)]
        return collate(signals, tokens, texts, [str(cut.id) for cut in cuts])


def speech_data(
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    train: Iterable[Any] | None = None,
    validation: Mapping[str, Iterable[Any]] | None = None,
) -> SpeechDataModule[SpeechBatch]:
    """The data module of speech recognition; `train` and `validation` are cuts to use instead of the config's."""
    from aronnax.collections.common.data.module import SpeechDataModule

    make = MakeSpeechBatch(tokenizer)
    return SpeechDataModule(config, make, tokenizer, train=train, validation=validation, required=("text",))
