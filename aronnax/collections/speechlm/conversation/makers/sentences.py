"""Sentences of a text, and the span of them that is spoken.

Source: VoiceTextBlender, arXiv 2410.17485, section 3.1 (mixed-modal SFT).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

_BORDER = re.compile(
    r"""[.!?…]+["'”’»)\]]*\s+   # the end of a sentence and the blanks after it
      | [。！？]+["'”’»」』）]*\s*  # the same without blanks
      | \s*\n\s*                # the end of a line
    """,
    re.VERBOSE,
)
_ABBREVIATIONS = (
    "mr. mrs. ms. dr. prof. st. no. vs. etc. e.g. i.e. cf. fig. approx. jr. sr. inc. ltd. z.b. d.h. usw."
)
"""After these a sentence goes on."""


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with the blanks that follow it: joined they are the text.

    >>> sentences("Look at Dr. No! What is 1.5 x 2?\\nTell me.")
    ['Look at Dr. No! ', 'What is 1.5 x 2?\\n', 'Tell me.']
    """
    found, start = [], 0
    for border in _BORDER.finditer(text):
        if border.end() < len(text) and _ends(text, start, border) and text[start : border.end()].strip():
            found.append(text[start : border.end()])
            start = border.end()
    if start < len(text):
        found.append(text[start:])
    return found


def _ends(text: str, start: int, border: re.Match[str]) -> bool:
    """Whether a sentence ends here: not after an abbreviation or initial, nor before a small letter."""
    if "\n" in border[0] or border[0][0] in "。！？":
        return True
    last = text[start : border.end()].split()[-1].lower().lstrip("(\"'“‘«[")
    initial = len(last) == 2 and last[0].isalpha() and last[1] == "."
    return not (last in _ABBREVIATIONS.split() or initial or text[border.end()].islower())


def draw_span(count: int, rng: random.Random) -> tuple[int, int]:
    """Begin and end of the sentences that are spoken out of `count`: [begin, end), never empty.

    The begin is uniform over all sentences, the end over all that follow it.
    """
    begin = rng.randint(0, count - 1)
    return begin, rng.randint(begin + 1, count)


def parted(found: Sequence[str], begin: int, end: int) -> tuple[str, str, str]:
    """What stands before the span, the span without blanks at its ends, and the rest; joined they are the text."""
    span = "".join(found[begin:end])
    spoken = span.strip()
    lead, _, trail = span.partition(spoken)
    return "".join(found[:begin]) + lead, spoken, trail + "".join(found[end:])
