"""Batches of prompted answers: each recording is heard once and written in every language.

Legend: `B` recordings, `S` samples, `U` tokens, `K` prompts a recording.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import noises
import numpy as np
import torch
from answers import LANGUAGES, say
from strings import StringMaker
from torch import Tensor
from voices import RATE

from aronnax.collections.asr.batch import SpeechBatch
from aronnax.collections.asr.canary.batch import CanaryBatch, collate_prompted
from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.common.text.prompts import Prompted

# Of strings of 1, 2, ... 12 digits: long ones teach the decoder to count.
LENGTHS = (0.20, 0.16, 0.15, 0.12, 0.10, 0.07, 0.07, 0.03, 0.03, 0.03, 0.02, 0.02)
SLOTS = [(language, pnc) for language in LANGUAGES for pnc in (False, True)]


def slots_of(language: str, pnc: bool) -> dict[str, str]:
    """The prompt that asks for one language and form."""
    return {"source_lang": "en", "target_lang": language, "pnc": "yes" if pnc else "no"}


class NoisyStringMaker(StringMaker):
    """Digit strings, and a share of recordings with nothing but noise, whose text is empty."""

    noise_share = 0.0
    whispers: np.random.Generator

    def reseed(self, seed: int) -> None:
        """Start the random choices anew."""
        super().reseed(seed)
        self.whispers = np.random.default_rng(seed)

    def string(self) -> tuple[np.ndarray, str]:
        """Audio [S] and text of a string of digits, or of a noise."""
        if not self.noise_share or self.chance.random() >= self.noise_share:
            return super().string()
        size = int(RATE * min(8.0, 0.3 + self.chance.expovariate(0.4)))
        if self.chance.random() < 0.25:
            return self._noise(size).numpy(), ""
        kind = self.chance.choice(list(noises.TRAINED.values()))
        return noises.make(kind, self.whispers, size), ""

    def heard(self, signal: Tensor, lengths: Tensor) -> Tensor:
        """The signal [B, S] through random rooms, lines and levels; digital silence may stay as it is."""
        loud = signal.abs().amax(1) > 0.003
        changed = super().heard(signal.clone(), lengths)
        kept = ~loud & torch.tensor([self.chance.random() < 0.7 for _ in signal])
        return torch.where(kept[:, None], signal, changed)


@dataclass
class AskedBatch:
    """Recordings with their English texts, and prompts with answers: answer i belongs to recording `owner[i]`."""

    heard: SpeechBatch
    asked: CanaryBatch
    owner: Tensor

    def __len__(self) -> int:
        return len(self.heard)


def prompted_batches(
    maker: StringMaker, model: CanaryModel, size: int, prompts: int, seed: int
) -> Iterator[AskedBatch]:
    """Batches of about `size` strings, each asked for in `prompts` of the eight ways."""
    chance = random.Random(seed)
    prompt_of = {slots: model.encode_prompt(slots_of(*slots)).prompt for slots in SLOTS}
    for batch in maker.batches(size):
        rows, owner, chosen = [], [], []
        for index, text in enumerate(batch.texts):
            for language, pnc in _choose(chance, prompts):
                answer = model.text.encode_answer(say(text, language, pnc), language)
                rows.append(Prompted(prompt_of[language, pnc], answer))
                owner.append(index)
                chosen.append((language, pnc))
        silent = torch.zeros(0)
        asked = collate_prompted(
            [silent] * len(rows), rows, [""] * len(rows), [""] * len(rows),
            [slots_of(*slots) for slots in chosen], model.text.pad_id,
        )  # fmt: skip
        yield AskedBatch(batch, asked, torch.tensor(owner))


def _choose(chance: random.Random, count: int) -> list[tuple[str, bool]]:
    """As many different slots as asked for, languages by turns."""
    first = [(language, chance.random() < 0.5) for language in chance.sample(LANGUAGES, len(LANGUAGES))]
    others = [(language, not pnc) for language, pnc in first]
    return list(itertools.islice(itertools.chain(first, others), count))
