"""When the words of a decoder's text were said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aronnax.collections.common.results import Word

if TYPE_CHECKING:
    from aronnax.collections.asr.hypothesis import Hypothesis
    from aronnax.collections.asr.words import Clock
    from aronnax.collections.common.text.prompts import CanaryTokenizer


def words_of_canary(hypothesis: Hypothesis, tokenizer: CanaryTokenizer, clock: Clock) -> list[Word]:
    """Words with the times the model wrote around them.

    A word without such times lies somewhere between the mark before it and the mark after it, and in a text
    without any mark somewhere in the piece that was heard: that span is given. A word's confidence is the smallest
    of its tokens'.
    """
    start, stop = clock.sample(0), clock.stop
    words: list[Word] = []
    open_words: list[tuple[str, float | None]] = []
    group: list[int] = []
    sure: list[float] = []

    def finish_word() -> None:
        text = tokenizer.decode(group)
        if text:
            open_words.append((text, round(min(sure), 6) if sure else None))
        group.clear()
        sure.clear()

    def finish_span(end: int) -> None:
        finish_word()
        end = max(start, end)
        words.extend(
            Word(text, start / clock.sample_rate, end / clock.sample_rate, confidence)
            for text, confidence in open_words
        )
        open_words.clear()

    for place, token in enumerate(hypothesis.tokens):
        if token in tokenizer.frame_ids:
            finish_span(clock.sample(tokenizer.frame_ids[token]))
            start = max(start, clock.sample(tokenizer.frame_ids[token]))
            continue
        if tokenizer.is_special(token):
            continue
        if tokenizer.starts_word(token):
            finish_word()
        group.append(token)
        if hypothesis.confidences:
            sure.append(hypothesis.confidences[place])
    finish_span(stop)
    return words
