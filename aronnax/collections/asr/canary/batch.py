"""What a training step of a prompted encoder-decoder works on: recordings, and prompts with their answers.

B batch, S samples, U tokens. A cut's slots (`source_lang`, `target_lang`, `pnc`, ...) come from its manifest line or
the `slots` of its input, then from the defaults; its text is what the decoder has to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from aronnax.collections.asr.batch import SpeechBatch, collate
from aronnax.collections.common.nn.masks import valid_frames
from aronnax.collections.common.text.prompts import CanaryTokenizer, Prompted, PromptFormat, prompt_format
from aronnax.core.errors import ManifestError, OptionError


@dataclass
class CanaryBatch(SpeechBatch):
    """Recordings with `tokens` that hold prompt and answer, `<|endoftext|>` among them, padded with `<pad>`."""

    prompt_lengths: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """How many of a row's tokens are its prompt, int64 [B]."""
    slots: list[dict[str, str]] = field(default_factory=list)
    """The slots of each row's prompt that were given, defaults among them."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> CanaryBatch:
        """The same batch with its tensors on `device`."""
        moved = super().to(device, non_blocking)
        assert isinstance(moved, CanaryBatch), "replaced from one"
        return replace(moved, prompt_lengths=self.prompt_lengths.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> CanaryBatch:
        """The same batch with its tensors in page-locked memory."""
        pinned = super().pin_memory()
        assert isinstance(pinned, CanaryBatch), "replaced from one"
        return replace(pinned, prompt_lengths=self.prompt_lengths.pin_memory())

    @property
    def token_padding(self) -> float:
        """Share of the tokens that is padding, 0 to 1."""
        if self.tokens.numel() == 0:
            return 0.0
        return 1.0 - float(self.token_lengths.sum()) / self.tokens.numel()

    def prompts(self) -> list[list[int]]:
        """Each row's prompt."""
        rows = zip(self.tokens.tolist(), self.prompt_lengths.tolist())
        return [row[:length] for row, length in rows]


def collate_prompted(
    signals: Sequence[Tensor],
    prompted: Sequence[Prompted],
    texts: Sequence[str],
    ids: Sequence[str],
    slots: Sequence[Mapping[str, str]],
    pad_id: int,
) -> CanaryBatch:
    """Pad recordings [S] and their prompts and answers into one batch."""
    plain = collate(signals, [[*row.prompt, *row.answer] for row in prompted], texts, ids)
    padding = ~valid_frames(plain.token_lengths, plain.tokens.shape[1])
    return CanaryBatch(
        plain.signal,
        plain.signal_lengths,
        plain.tokens.masked_fill(padding, pad_id),
        plain.token_lengths,
        plain.texts,
        plain.ids,
        torch.tensor([len(row.prompt) for row in prompted], dtype=torch.int64),
        [dict(row) for row in slots],
    )


class MakeCanaryBatch:
    """Makes a CanaryBatch from Lhotse cuts and their signals [S]; prompts and texts become tokens in the workers.

    Args:
        tokenizer: Encodes prompts and texts.
        format_name: `canary` or `canary2`.
        defaults: Slots of the recordings that have none of their own, such as `{"pnc": "no"}`.

    Raises (when called) ManifestError for a slot that is missing or not known, naming file, line and recording.
    """

    def __init__(
        self, tokenizer: CanaryTokenizer, format_name: str, defaults: Mapping[str, str] | None = None
    ) -> None:
        self.tokenizer, self.format_name = tokenizer, format_name
        self.defaults = dict(defaults or {})
        self._prompt_format().check_known(self.defaults)
        self._prompts: dict[tuple[tuple[str, str], ...], list[int]] = {}

    def __call__(self, cuts: Sequence[Any], signals: Sequence[Tensor]) -> CanaryBatch:
        from aronnax.collections.common.data.filters import cut_text

        slots = [self.slots(cut) for cut in cuts]
        prompted = [self.encode(cut) for cut in cuts]
        texts = [cut_text(cut) or "" for cut in cuts]
        names = [str(cut.id) for cut in cuts]
        return collate_prompted(signals, prompted, texts, names, slots, self.tokenizer.pad_id)

    def slots(self, cut: Any) -> dict[str, str]:
        """The slots of a cut that this prompt format has a place for, with the defaults where it has none."""
        from aronnax.collections.common.data.slots import cut_slots

        return {**self.defaults, **cut_slots(cut, tuple(self._prompt_format().slots))}

    def encode(self, cut: Any) -> Prompted:
        """Prompt and answer of a cut; one without a text is asked to say nothing."""
        from aronnax.collections.common.data.filters import cut_place, cut_text

        slots = self.slots(cut)
        key = tuple(sorted(slots.items()))
        try:
            if key not in self._prompts:
                if len(self._prompts) > 10_000:  # free text in a slot makes every prompt another one
                    self._prompts.clear()
                self._prompts[key] = self._prompt_format().encode(self.tokenizer, slots).prompt
            answer = self.tokenizer.encode_answer(cut_text(cut) or "", slots.get("target_lang"))
        except OptionError as error:
            raise ManifestError(
                f"{cut_place(cut)}: {error}. Slots are read from each line of the manifest, then from the `slots` "
                "of its input (data.train: [{path: ..., slots: {...}}]), then from model.prompt_defaults"
            ) from None
        return Prompted(self._prompts[key], answer)

    def _prompt_format(self) -> PromptFormat:
        # Looked up by name each time: formats hold mappings that cannot be sent to worker processes.
        return prompt_format(self.format_name)


class ExaminePrompts:
    """Looks at training cuts before their audio is read: counts tokens, and says why a cut cannot be learned from.

    Prompt and answer together count as the cut's tokens, for 2-D buckets and filters.
    """

    def __init__(self, make: MakeCanaryBatch, most_tokens: int) -> None:
        self.make, self.most_tokens = make, most_tokens

    def __call__(self, cut: Any) -> str | None:
        from aronnax.collections.common.data.filters import cut_text, is_non_speech, note_number

        text = cut_text(cut)
        if text is None:
            return "without a transcript"
        prompted = self.make.encode(cut)
        tokens = len(prompted.prompt) + len(prompted.answer)
        note_number(cut, tokens)
        if tokens > self.most_tokens:
            return f"with more tokens than the decoder's maximum of {self.most_tokens}"
        slots = self.make.slots(cut)
        translated = slots.get("source_lang") != slots.get("target_lang")
        if translated and not text.strip() and not is_non_speech(cut):
            return "with an empty translation (a line without speech says nonspeech: true)"
        return None
