"""Times that the model writes itself: `<|n|>` before and after each word, n counting encoder frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aronnax.collections.asr.hypothesis import Hypothesis


def times_from_marks(
    tokens: Sequence[int],
    frame_of: Mapping[int, int],
    confidences: Sequence[float] = (),
    score: float = 0.0,
) -> Hypothesis:
    """The tokens without their marks, each with the frames between the marks around it.

    `frame_of` gives the frame a mark names. A mark lasts through its frame, so a word between `<|3|>` and `<|5|>`
    has the frames 3 and 4. Several tokens between two marks share their frames evenly. Where a mark is missing or
    goes back in time, the nearest earlier one stands in for it.
    """
    said = Hypothesis(score=score)
    now, since = 0, 0
    for place, token in enumerate(tokens):
        if token not in frame_of:
            said.tokens.append(token)
            said.frames.append(now)
            said.durations.append(0)
            if confidences:
                said.confidences.append(confidences[place])
            continue
        at = max(frame_of[token], now)
        _share(said, since, now, at)
        now, since = at, len(said.tokens)
    return said


def _share(said: Hypothesis, since: int, start: int, stop: int) -> None:
    """Spread the frames [start, stop) over the tokens from index `since` on."""
    count = len(said.tokens) - since
    for index in range(count):
        first = start + (stop - start) * index // count
        last = start + (stop - start) * (index + 1) // count
        said.frames[since + index] = first
        said.durations[since + index] = last - first
