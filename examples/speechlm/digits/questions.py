"""Questions about digit strings with their answers, and text tasks that have nothing to do with digits.

Everything is lower-case words. A string is English digit words, `["seven", "three", "nine"]` or the same as one
text; it stands before or after its question, where a speech model later hears it. Pure Python, no torch: the small
language model, the speech models on top of it and their evaluations all ask with this module.

    >>> import random
    >>> ask("seven three nine", random.Random(0), kind="french")[1]
    'sept trois neuf'
    >>> answer("after", ["seven", "three", "nine"], "seven")
    'after seven comes three'
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GERMAN = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")
FRENCH = ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf")
SPANISH = ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve")
LONGEST = 6
"""Digits of the longest string that is asked about."""
HOMOPHONES = {"one": "won", "two": "too", "four": "for", "eight": "ate"}
"""Other spellings of digit words, which only a list of key words tells apart."""
LISTED = "following words may occur in audio"
"""How such a list begins."""

_TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty")
NUMBERS = (*DIGITS, *_TEENS, *_TENS)
"""Every word that `number` writes."""


def number(value: int) -> str:
    """An English number below sixty: `twenty three`."""
    if value < 20:
        return NUMBERS[value]
    tens, rest = divmod(value, 10)
    return _TENS[tens - 2] + (f" {DIGITS[rest]}" if rest else "")


def _say(words: Sequence[str]) -> Callable[[list[int], int | None], str]:
    return lambda values, _: " ".join(words[value] for value in values)


def _after(values: list[int], asked: int | None) -> str:
    place = values.index(asked) + 1 if asked in values else len(values)
    return f"after {DIGITS[asked or 0]} comes {DIGITS[values[place]] if place < len(values) else 'nothing'}"


def _before(values: list[int], asked: int | None) -> str:
    place = values.index(asked) - 1 if asked in values else -1
    return f"before {DIGITS[asked or 0]} comes {DIGITS[values[place]] if place >= 0 else 'nothing'}"


def _contains(values: list[int], asked: int | None) -> str:
    return f"{DIGITS[asked or 0]} is {'there' if asked in values else 'not there'}"


def _often(values: list[int], asked: int | None) -> str:
    count = values.count(asked if asked is not None else -1)
    return f"{DIGITS[asked or 0]} comes {number(count)} time{'' if count == 1 else 's'}"


def _add(values: list[int], _: int | None) -> str:
    """The sum with its way: `seven plus three is ten plus nine is nineteen`."""
    total, said = values[0], DIGITS[values[0]]
    for value in values[1:]:
        total += value
        said += f" plus {DIGITS[value]} is {number(total)}"
    return said


@dataclass(frozen=True)
class Kind:
    """One kind of question; `#` in a wording is the digit asked for."""

    name: str
    wordings: tuple[str, ...]
    answer: Callable[[list[int], int | None], str]

    @property
    def names_digit(self) -> bool:
        """Whether the question itself names a digit."""
        return "#" in self.wordings[0]


_KINDS = (
    Kind(
        "repeat",
        (
            *("transcribe", "transcribe this", "repeat", "repeat this", "repeat the digits", "say it again"),
            *("what is said", "what was said", "what do you hear", "write it down", "which digits are these"),
            *("transcribe the following", "transcribe the digits", "what are the digits", "in english"),
        ),
        _say(DIGITS),
    ),
    *(
        Kind(
            language,
            (
                *(f"in {language}", f"say it in {language}", f"translate into {language}"),
                *(f"translate this into {language}", f"translate to {language}", f"and in {language}"),
                *(
                    f"what is that in {language}",
                    f"repeat this in {language}",
                    f"how do you say this in {language}",
                ),
            ),
            _say(words),
        )
        for language, words in (("german", GERMAN), ("french", FRENCH), ("spanish", SPANISH))
    ),
    Kind(
        "count",
        (
            *("how many digits are there", "how many", "how many digits", "count them", "count the digits"),
            *("how many digits do you hear", "how many digits are said", "how long is it"),
        ),
        lambda values, _: number(len(values)),
    ),
    Kind(
        "first",
        (
            *("what is the first digit", "which digit comes first", "the first digit", "what comes first"),
            *("what is said first", "which is the first", "say the first one"),
        ),
        lambda values, _: DIGITS[values[0]],
    ),
    Kind(
        "last",
        (
            *("what is the last digit", "which digit comes last", "the last digit", "what comes last"),
            *("what is said last", "which is the last", "say the last one"),
        ),
        lambda values, _: DIGITS[values[-1]],
    ),
    Kind(
        "after",
        (
            *(
                "what comes after #",
                "what comes after the #",
                "what is said after #",
                "what is said after the #",
            ),
            *("what is said after the number #", "which digit follows #", "what follows the #"),
        ),
        _after,
    ),
    Kind(
        "before",
        (
            *("what comes before #", "what comes before the #", "what is said before #"),
            *("what is said before the #", "what is said before the number #", "which digit is before #"),
        ),
        _before,
    ),
    Kind(
        "contains",
        (
            *("is there a #", "do you hear a #", "is # said", "is # there", "is the number # in it"),
            "does it contain a #",
        ),
        _contains,
    ),
    Kind(
        "often",
        ("how often is there a #", "how often is # said", "how often do you hear #", "how often does # come"),
        _often,
    ),
    Kind(
        "largest",
        (
            *("what is the largest digit", "which digit is the largest", "the largest", "find the largest"),
            *("what is the biggest digit", "which is the biggest"),
        ),
        lambda values, _: DIGITS[max(values)],
    ),
    Kind(
        "smallest",
        (
            *(
                "what is the smallest digit",
                "which digit is the smallest",
                "the smallest",
                "find the smallest",
            ),
            "which is the smallest",
        ),
        lambda values, _: DIGITS[min(values)],
    ),
    Kind(
        "backwards",
        (
            *("backwards", "say it backwards", "repeat this backwards", "read it backwards"),
            *("reverse the digits", "in reverse order", "repeat the digits in reverse order"),
        ),
        lambda values, _: " ".join(DIGITS[value] for value in reversed(values)),
    ),
    Kind(
        "add",
        (
            "add them",
            "add the digits",
            "add them up",
            "what is the sum",
            "what do they add up to",
            "sum them up",
        ),
        _add,
    ),
)
KINDS = {kind.name: kind for kind in _KINDS}
"""Every kind of question by name."""


def values_of(digits: str | Sequence[str]) -> list[int]:
    """The numbers of digit words; ValueError for a word that is no digit."""
    words = digits.split() if isinstance(digits, str) else digits
    return [DIGITS.index(word) for word in words]


def answer(kind: str, digits: str | Sequence[str], asked: str | None = None) -> str:
    """The right answer of a question; `asked` is the digit word the question names, if it names one."""
    return KINDS[kind].answer(values_of(digits), None if asked is None else DIGITS.index(asked))


def ask(
    digits: str | Sequence[str], rng: random.Random, kind: str | None = None, wording: int | None = None
) -> tuple[str, str]:
    """A question about a string and its answer; kind and wording are drawn where they are not given.

    A digit that the question names is one of the string three times in four, else any.
    """
    values = values_of(digits)
    chosen = KINDS[kind if kind is not None else rng.choice(list(KINDS))]
    text = rng.choice(chosen.wordings) if wording is None else chosen.wordings[wording]
    asked = None
    if chosen.names_digit:
        asked = rng.choice(values) if values and rng.random() < 0.75 else rng.randrange(10)
        text = text.replace("#", DIGITS[asked])
    return text, chosen.answer(values, asked)


def follow_up(digits: str | Sequence[str], rng: random.Random, kind: str | None = None) -> tuple[str, str]:
    """A question that only a chat can ask: the string was in an earlier turn. Often begins with `and`."""
    text, right = ask(digits, rng, kind)
    return (text if text.startswith("and ") or rng.random() < 0.5 else f"and {text}"), right


def string(rng: random.Random, shortest: int = 1, longest: int = LONGEST) -> list[str]:
    """Digit words, every length and every digit equally likely."""
    return [rng.choice(DIGITS) for _ in range(rng.randint(shortest, longest))]


def place(question: str, digits: str | Sequence[str], rng: random.Random) -> str:
    """One user turn in text: the string after its question, with or without a colon, or before it."""
    said = digits if isinstance(digits, str) else " ".join(digits)
    drawn = rng.random()
    if drawn < 0.4:
        return f"{said} {question}"
    return f"{question}: {said}" if drawn < 0.75 else f"{question} {said}"


# ---- text tasks that have nothing to do with digits: what a model forgets is measured on them

COLOURS = (
    "red",
    "green",
    "blue",
    "yellow",
    "black",
    "white",
    "brown",
    "pink",
    "grey",
    "purple",
    "orange",
    "gold",
)
ANIMALS = (
    *("dog", "cat", "cow", "horse", "sheep", "goat", "pig", "duck", "hen", "lion", "bear", "wolf", "fox"),
    *("mouse", "frog", "bee"),
)
OPPOSITES = (
    *(
        ("hot", "cold"),
        ("big", "small"),
        ("old", "young"),
        ("up", "down"),
        ("left", "right"),
        ("day", "night"),
    ),
    *(
        ("fast", "slow"),
        ("hard", "soft"),
        ("open", "closed"),
        ("full", "empty"),
        ("wet", "dry"),
        ("rich", "poor"),
    ),
    *(("high", "low"), ("light", "dark"), ("early", "late"), ("strong", "weak")),
)
CRIES = {
    "dog": "barks",
    "cat": "meows",
    "cow": "moos",
    "horse": "neighs",
    "sheep": "bleats",
    "duck": "quacks",
    "hen": "clucks",
    "lion": "roars",
    "wolf": "howls",
    "pig": "grunts",
    "frog": "croaks",
    "bee": "buzzes",
}


def _words(rng: random.Random, shortest: int = 2, longest: int = 5) -> list[str]:
    return rng.sample(COLOURS + ANIMALS, rng.randint(shortest, longest))


def _reverse_words(rng: random.Random) -> tuple[str, str]:
    words = _words(rng)
    return f"reverse the words: {' '.join(words)}", " ".join(reversed(words))


def _sort_words(rng: random.Random) -> tuple[str, str]:
    words = _words(rng, 2, 4)
    return f"sort the words: {' '.join(words)}", " ".join(sorted(words))


def _only(rng: random.Random) -> tuple[str, str]:
    words = _words(rng)
    name, group = rng.choice((("animals", ANIMALS), ("colours", COLOURS)))
    return f"name only the {name}: {' '.join(words)}", " ".join(w for w in words if w in group) or "none"


def _count_words(rng: random.Random) -> tuple[str, str]:
    words = _words(rng)
    name, group = rng.choice((("animals", ANIMALS), ("colours", COLOURS)))
    return f"how many {name}: {' '.join(words)}", number(sum(word in group for word in words))


def _opposite(rng: random.Random) -> tuple[str, str]:
    one, other = rng.choice(OPPOSITES)
    if rng.random() < 0.5:
        one, other = other, one
    return f"what is the opposite of {one}", other


def _cry(rng: random.Random) -> tuple[str, str]:
    animal = rng.choice(sorted(CRIES))
    return f"what does a {animal} do", f"a {animal} {CRIES[animal]}"


TEXT_TASKS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "reverse_words": _reverse_words,
    "sort_words": _sort_words,
    "only": _only,
    "count_words": _count_words,
    "opposite": _opposite,
    "cry": _cry,
}
"""Text tasks by name: each makes (instruction, answer)."""


def text_task(rng: random.Random, name: str | None = None) -> tuple[str, str]:
    """One instruction without digits and its answer."""
    return TEXT_TASKS[name if name is not None else rng.choice(list(TEXT_TASKS))](rng)


# ---- small talk

_HELP = "i repeat digits say them in german french or spanish count them add them and find one"
NO_DIGITS = "tell me some digits first"
_SMALL_TALK = {
    "hello": "hello ask me about digits",
    "hi": "hello ask me about digits",
    "good morning": "good morning ask me about digits",
    "who are you": "i am a small model that knows digits",
    "what is your name": "i am a small model that knows digits",
    "what can you do": _HELP,
    "help": _HELP,
    "what do you know": _HELP,
    "thank you": "you are welcome",
    "thanks": "you are welcome",
    "bye": "goodbye",
    "goodbye": "goodbye",
    "how are you": "i am well thank you",
}


def small_talk(rng: random.Random) -> tuple[str, str]:
    """A turn of small talk, or a question whose string was forgotten."""
    if rng.random() < 0.25:
        return ask([rng.choice(DIGITS)], rng)[0], NO_DIGITS
    said = rng.choice(list(_SMALL_TALK))
    return said, _SMALL_TALK[said]


def vocabulary() -> list[str]:
    """Every word of questions, answers, tasks and small talk, in a fixed order."""
    texts = [" ".join(words) for words in (NUMBERS, GERMAN, FRENCH, SPANISH, COLOURS, ANIMALS, *OPPOSITES)]
    texts += [wording for kind in _KINDS for wording in kind.wordings]
    texts += [
        "there is not nothing no none plus is and after before comes time times what is the opposite of",
        NO_DIGITS,
        ":",
    ]
    texts += ["reverse sort the words name only animals colours how many what does a do", *CRIES.values()]
    texts += [word for pair in _SMALL_TALK.items() for word in pair]
    texts += [*HOMOPHONES.values(), LISTED]
    return list(dict.fromkeys(" ".join(texts).replace("#", " ").replace(":", " : ").split()))
