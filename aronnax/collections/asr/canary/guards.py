"""Guards against text that nobody said: loops, and words over silence.

Encoder-decoders may write the same words on and on, or make up a sentence where there is no speech. Both guards
only take away; `guard=False` in `transcribe` turns them off.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_UNIT = 16
"""A loop repeats at most so many tokens."""

TIMES = {1: 12, 2: 8, 3: 6}
"""How often one, two or three tokens must come in a row to be a loop: people do say "no, no, no, no"."""

TIMES_OTHERWISE = 4
"""The same for more tokens."""


def loop(tokens: Sequence[int]) -> tuple[int, int] | None:
    """Where the loop at the end of `tokens` begins, and the length of what it repeats; None if there is none.

    >>> loop([5, *[7, 8] * 8])
    (1, 2)
    >>> loop([3, 3, 3]) is None
    True
    """
    for unit in range(1, min(LONGEST_UNIT, len(tokens) // TIMES_OTHERWISE) + 1):
        needed = unit * TIMES.get(unit, TIMES_OTHERWISE)
        if len(tokens) < needed:
            continue
        start = len(tokens) - unit
        while start > 0 and tokens[start - 1] == tokens[start - 1 + unit]:
            start -= 1
        if len(tokens) - start >= needed:
            return start, unit
    return None


def stop_at_loop(row: int, tokens: Sequence[int]) -> int | None:
    """A guard for `generate`: how many tokens of a looping answer to keep, one time of what it repeats; else None."""
    found = loop(tokens)
    return None if found is None else sum(found)
