"""Chats about spoken digits, made as they are needed: real and synthesised voices, every question of `questions`.

Legend: `B` chats, `A` recordings, `S` samples.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

# Voices, strings and channels are those of the recipe of the digits recogniser.
sys.path.insert(0, str(Path(__file__).parents[2] / "asr" / "digits"))

import chats
import numpy as np
import questions
import soxr
import torch
from strings import StringMaker
from torch import Tensor
from voices import RATE, UNUSABLE, trim

from aronnax.collections.common.audio.speak import EspeakSynthesizer
from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.collections.llm.chat.tokenizer import ChatTokenizer
from aronnax.collections.speechlm.conversation.batch import ConversationBatch, collate

ASKING_VOICES = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-us-nyc")
TEST_VARIANTS = ("f4", "m7")
"""Variants of espeak-ng's voices that ask in tests alone."""
SPOKEN_WORDINGS = 2
"""So many wordings of each kind of question are spoken; the others are only written."""
ANY_AUDIO = Audio("")


@dataclass(frozen=True)
class Shares:
    """How often chats of each sort come."""

    heard: float = 1.0
    """A spoken string, and up to three written questions about it."""
    listed: float = 0.0
    """A spoken string to be transcribed with a list of key words, which chooses between homophones."""
    spoken: float = 0.0
    """A spoken string and a spoken question, in one recording or in two."""
    text: float = 0.0
    """No recording at all."""
    emphasis: dict[str, float] = field(default_factory=dict)
    """How often a kind of written question comes, relative to once for each of the others."""


@dataclass
class Chat:
    """One conversation, its recordings [S] in order, and the words in each of them."""

    messages: list[Message]
    audios: list[np.ndarray] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def add(self, content: Sequence[str | Audio], answer: str) -> None:
        """One turn of the user, and what is answered."""
        kept = tuple(part for part in content if part)
        self.messages += [Message("user", kept), Message("assistant", (answer,))]


@dataclass(frozen=True)
class SpokenQuestion:
    """One question as somebody asks it aloud: what is asked, its words, and samples [S]."""

    kind: str
    asked: str | None
    text: str
    audio: np.ndarray


def spoken_questions(count: int, seed: int, test: bool = False) -> list[SpokenQuestion]:
    """`count` questions by espeak-ng; voices of tests are never those of training."""
    chance, espeak = random.Random(f"{seed} {test}"), EspeakSynthesizer()
    training = [v for v in espeak.variants() if v not in UNUSABLE and not v.startswith("robosoft")]
    variants = TEST_VARIANTS if test else [v for v in training if v not in TEST_VARIANTS]
    found: list[SpokenQuestion] = []
    kinds = list(questions.KINDS.values())
    while len(found) < count:
        kind = kinds[len(found) % len(kinds)]
        asked = chance.choice(questions.DIGITS) if kind.names_digit else None
        text = chance.choice(kind.wordings[:SPOKEN_WORDINGS]).replace("#", asked or "")
        audio, rate = espeak.speak(
            text,
            voice=f"{chance.choice(ASKING_VOICES)}+{chance.choice(variants)}",
            rate=chance.randint(120, 210),
            pitch=chance.randint(15, 80),
        )
        audio = trim(soxr.resample(audio, rate, RATE)).astype(np.float32)
        found.append(SpokenQuestion(kind.name, asked, text, audio))
    return found


class ChatMaker:
    """Draws chats of several sorts and makes batches of them."""

    def __init__(
        self,
        strings: StringMaker,
        tokenizer: ChatTokenizer,
        shares: Shares,
        seed: int,
        asked: Sequence[SpokenQuestion] = (),
    ) -> None:
        self.strings, self.tokenizer, self.shares, self.asked = strings, tokenizer, shares, asked
        strings.longest = questions.LONGEST
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start the random choices anew."""
        self.chance = random.Random(seed)
        self.strings.reseed(seed)

    def chat(self) -> Chat:
        """One conversation."""
        makers = {"heard": self._heard, "listed": self._listed, "spoken": self._spoken, "text": self._text}
        sort = self.chance.choices(list(makers), [getattr(self.shares, name) for name in makers])[0]
        return makers[sort]()

    def batches(self, size: int, pool: int = 4) -> Iterator[tuple[ConversationBatch, list[str]]]:
        """Batches of about `size` chats of like length, and the words of their recordings."""
        while True:
            made = sorted((self.chat() for _ in range(size * pool)), key=_length)
            spans = list(pairwise(range(0, len(made) + 1, size)))
            self.chance.shuffle(spans)
            for start, stop in spans:
                yield self.batch(made[start:stop])

    def batch(self, made: Sequence[Chat]) -> tuple[ConversationBatch, list[str]]:
        """Chats as one batch, each recording over a channel of its own."""
        audios = [audio for chat in made for audio in chat.audios]
        rendered = [self.tokenizer.render(chat.messages, answer=True) for chat in made]
        answers = [chat.messages[-1].text() for chat in made]
        names = [str(row) for row in range(len(made))]
        batch = collate(rendered, self._heard_over(audios), answers, names, self.tokenizer.pad_id)
        return batch, [said for chat in made for said in chat.said]

    def _heard_over(self, audios: Sequence[np.ndarray]) -> list[Tensor]:
        if not audios:
            return []
        lengths = torch.tensor([len(audio) for audio in audios])
        signal = torch.zeros(len(audios), int(lengths.max()))
        for row, audio in enumerate(audios):
            signal[row, : len(audio)] = torch.from_numpy(audio)
        signal = self.strings.heard(signal, lengths)
        return [row[:length] for row, length in zip(signal, lengths.tolist())]

    def _string(self) -> tuple[np.ndarray, list[str]]:
        audio, text = self.strings.string()
        return audio, text.split()

    def _heard(self) -> Chat:
        audio, digits = self._string()
        chat = Chat([], [audio], [" ".join(digits)])
        kind = "repeat" if self.chance.random() < 0.3 else self._kind()
        question, right = questions.ask(digits, self.chance, kind)
        chat.add(self._placed(question), right)
        while len(chat.messages) < 6 and self.chance.random() < 0.5:
            question, right = questions.follow_up(digits, self.chance, self._kind())
            chat.add((question,), right)
        return chat

    def _kind(self) -> str:
        weights = [self.shares.emphasis.get(kind, 1.0) for kind in questions.KINDS]
        return self.chance.choices(list(questions.KINDS), weights)[0]

    def _placed(self, question: str) -> tuple[str | Audio, ...]:
        drawn = self.chance.random()
        if drawn < 0.4:
            return ANY_AUDIO, question
        return (f"{question}:" if drawn < 0.75 else question), ANY_AUDIO

    def _listed(self) -> Chat:
        audio, digits = self._string()
        turn = chats.listed(digits, self.chance)
        chat = Chat([], [audio], [" ".join(digits)])
        # As `transcribe(keywords=...)` writes a list, once the tokenizer has taken its brackets away.
        before = turn.before.replace(questions.LISTED, f"{questions.LISTED} :")
        chat.add((before, ANY_AUDIO), turn.answer)
        return chat

    def _spoken(self) -> Chat:
        audio, digits = self._string()
        asked = self.chance.choice(self.asked)
        right = questions.answer(asked.kind, digits, asked.asked)
        pause = np.zeros(int(self.chance.uniform(0.15, 0.5) * RATE), np.float32)
        spoken = asked.audio * np.float32(10 ** (self.chance.gauss(0, 3) / 20))
        parts = [(spoken, asked.text), (audio, " ".join(digits))]
        if self.chance.random() < 0.5:
            parts.reverse()
        if self.chance.random() < 0.5:
            joined = np.concatenate([parts[0][0], pause, parts[1][0]])
            chat = Chat([], [joined], [f"{parts[0][1]} {parts[1][1]}"])
            chat.add((ANY_AUDIO,), right)
        else:
            chat = Chat([], [part[0] for part in parts], [part[1] for part in parts])
            chat.add((ANY_AUDIO, ANY_AUDIO), right)
        return chat

    def _text(self) -> Chat:
        chat = Chat([])
        for turn in chats.chat(self.chance, self.chance.choice((1, 1, 30))):
            chat.add((turn.text,), turn.answer)
        return chat


def _length(chat: Chat) -> tuple[int, int]:
    return sum(map(len, chat.audios)), sum(len(message.text()) for message in chat.messages)
