"""Made conversations about digit strings, and what makes a text model used to speech frames in their place."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import questions

FILLER = "<|filler|>"
_LIST_SHARE = 0.06


@dataclass(frozen=True)
class Turn:
    """One user turn and its answer."""

    before: str
    """Words of the question that stand before the string."""
    digits: tuple[str, ...]
    """The string; empty in a turn without one."""
    after: str
    """Words of the question that stand after it."""
    answer: str
    """What the assistant says."""
    kind: str
    """Kind of question, or of text task; follow_up, small_talk."""

    @property
    def text(self) -> str:
        """The user turn in words."""
        return " ".join(part for part in (self.before, " ".join(self.digits), self.after) if part)


def held_out(digits: Sequence[str]) -> bool:
    """Whether a string is kept for tests: one in ten of those with two digits or more, by its checksum."""
    return len(digits) > 1 and zlib.crc32(" ".join(digits).encode()) % 10 == 0


def string(rng: random.Random, test: bool = False, longest: int = questions.LONGEST) -> list[str]:
    """A string of the training set, or one kept for tests."""
    while True:
        digits = questions.string(rng, 2 if test else 1, longest)
        if held_out(digits) == test:
            return digits


NAMING = tuple(kind.name for kind in questions.KINDS.values() if kind.names_digit)
"""Kinds of questions that name a digit."""


def some_kind(rng: random.Random, favoured: Sequence[str] = ()) -> str:
    """A kind of question; the favoured ones come three times as often as the others."""
    kinds = list(questions.KINDS)
    if not favoured:
        return rng.choice(kinds)
    return rng.choices(kinds, [3 if kind in favoured else 1 for kind in kinds])[0]


def new_string(
    rng: random.Random,
    test: bool = False,
    kind: str | None = None,
    longest: int = questions.LONGEST,
    favoured: Sequence[str] = (),
) -> Turn:
    """A question with its string."""
    digits = string(rng, test, longest)
    if kind is None and rng.random() < _LIST_SHARE:
        return listed(digits, rng)
    if kind is None and rng.random() < 0.03:
        return Turn("", tuple(digits), "", " ".join(digits), "bare")
    kind = kind or some_kind(rng, favoured)
    question, right = questions.ask(digits, rng, kind)
    drawn = rng.random()
    if drawn < 0.4:
        return Turn("", tuple(digits), question, right, kind)
    return Turn(question + (" :" if drawn < 0.75 else ""), tuple(digits), "", right, kind)


def listed(digits: list[str], rng: random.Random) -> Turn:
    """Transcribe with a list of key words, which decides between spellings that sound alike."""
    other = {word: rng.choice((word, twin)) for word, twin in questions.HOMOPHONES.items()}
    listed = rng.sample(list(other.values()), rng.randint(1, len(other)))
    plain = [word for word in questions.DIGITS if word not in other]
    words = listed + rng.sample(plain, rng.randint(0, 3))
    rng.shuffle(words)
    right = " ".join(other[word] if other.get(word) in listed else word for word in digits)
    question = rng.choice(("transcribe", "repeat", "transcribe this"))
    return Turn(f"{questions.LISTED} {' '.join(words)} {question} :", tuple(digits), "", right, "listed")


def chat(
    rng: random.Random, length: int, longest: int = questions.LONGEST, favoured: Sequence[str] = ()
) -> list[Turn]:
    """Turns of one conversation, `length` words or a little more; a follow-up asks about the latest string."""
    turns: list[Turn] = []
    latest: tuple[str, ...] = ()
    words = 0
    while words < length:
        drawn = rng.random()
        if drawn < 0.25 and latest:
            question, right = questions.follow_up(latest, rng, some_kind(rng, favoured))
            turn = Turn(question, (), "", right, "follow_up")
        elif drawn < 0.4:
            name = rng.choice(list(questions.TEXT_TASKS))
            question, right = questions.text_task(rng, name)
            turn = Turn(question, (), "", right, name)
        elif drawn < 0.44:
            question, right = questions.small_talk(rng)
            if latest and right == questions.NO_DIGITS:
                continue
            turn = Turn(question, (), "", right, "small_talk")
        else:
            turn = new_string(rng, longest=longest, favoured=favoured)
            latest = turn.digits
        turns.append(turn)
        words += len(turn.text.split()) + len(turn.answer.split()) + 4
    return turns


def as_frames(digits: Sequence[str], rng: random.Random) -> list[str]:
    """Digit words as an encoder would give them: each for one to three frames, with fillers between and around."""
    frames = [FILLER] * rng.randint(1, 4)
    for word in digits:
        frames += [word] * rng.randint(1, 3) + [FILLER] * rng.randint(1, 4)
    return frames


def drill(rng: random.Random, longest: int) -> tuple[list[str], list[tuple[str, str]]]:
    """A string and a dozen statements about it, each as (what is given, what is learned).

    One question has one answer; here the same string is looked up again and again.
    """
    digits = string(rng, longest=longest)
    said = []
    for _ in range(12):
        kind = rng.choice(NAMING)
        asked = rng.choice(digits) if rng.random() < 0.6 else rng.choice(questions.DIGITS)
        words = questions.answer(kind, digits, asked).split()
        known = 3 if kind in ("after", "before") else 2
        said.append((" ".join(words[:known]), " ".join(words[known:])))
    return digits, said


def recall(rng: random.Random, longest: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Pairs of words, and the second of each looked up by the first in another order; `nothing` where it has none."""
    words = rng.sample(questions.DIGITS + questions.COLOURS + questions.ANIMALS, longest + 3)
    pairs = {word: rng.choice(words) for word in words[: rng.randint(2, longest)]}
    asked = rng.sample(words, len(words))
    return [word for pair in pairs.items() for word in pair], [
        (word, pairs.get(word, "nothing")) for word in asked
    ]
