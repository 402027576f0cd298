"""From a decoder that is bound to prompts to replies: options, stop strings, times, and text as it comes.

Legend: B rows, n answers a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor

from aronnax.collections.common.calls import at_least_one
from aronnax.collections.common.nn.generation import (
    Decoder,
    Generated,
    GenerationOptions,
    Said,
    generate,
    generate_stream,
)
from aronnax.collections.common.results.reply import Reply
from aronnax.core.errors import OptionError

_BROKEN = "�"
"""What an unfinished character decodes to."""


class Text(Protocol):
    """What answering asks of a tokenizer."""

    @property
    def end_ids(self) -> Sequence[int]:
        """Tokens that end an answer."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""


class AnswerSettings(TypedDict, total=False):
    """The options of `generate` that `AnswerOptions.checked` takes and gives defaults."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    stop: str | Sequence[str]
    beam: int
    n_best: int
    log_probs: bool


@dataclass(frozen=True)
class AnswerOptions:
    """How to answer, checked."""

    generation: GenerationOptions
    stop: tuple[str, ...] = ()
    """Texts that end an answer and are left out of it, with the blanks before them."""

    @classmethod
    def checked(
        cls,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        beam: int = 1,
        n_best: int = 1,
        log_probs: bool = True,
    ) -> AnswerOptions:
        """The options of a call; OptionError names the one that cannot be."""
        texts = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(isinstance(text, str) and text for text in texts):
            raise OptionError(f"stop={stop!r} must be texts of one character or more")
        generation = GenerationOptions(
            at_least_one("max_new_tokens", max_new_tokens),
            beam,
            n_best,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            log_probs=log_probs,
        )
        return cls(generation, texts)


@dataclass(frozen=True)
class Piece:
    """What a stream tells at one token: the text that has become certain, perhaps none yet."""

    text: str
    token: int | None
    """None in the last piece, which only ends the answer."""
    time: float
    """Seconds since the answer was asked for."""
    log_prob: float | None
    reply: Reply | None = None
    """The whole reply, in the last piece."""


def answer(
    decoder: Decoder,
    lengths: Tensor,
    text: Text,
    options: AnswerOptions,
    *,
    context: int,
    model: str | None = None,
    notes: Sequence[Sequence[str]] | None = None,
    began: float | None = None,
) -> list[list[Reply]]:
    """The `n_best` replies to each of the prompts of lengths [B] that `decoder` holds, best first.

    context: the most positions of prompt and answer together. notes: what to note on each row's replies.
    began: the clock (`time.perf_counter`) at which tokens' times are 0; now by default. Beam search knows its tokens
    only at the end, so that its replies have no times.
    """
    began = time.perf_counter() if began is None else began
    asked = _Asked(text, options, lengths, context)
    said = [tuple(row) for row in notes] if notes is not None else [()] * len(lengths)
    if options.generation.beam > 1:
        found = [[_Timed(one, []) for one in row] for row in generate(decoder, **asked.arguments())]
    else:
        found = _timed(generate_stream(decoder, **asked.arguments()), len(lengths), began)
    return [
        [asked.reply(one.answer, one.times, model, said[row]) for one in answers]
        for row, answers in enumerate(found)
    ]


def answer_stream(
    decoder: Decoder,
    lengths: Tensor,
    text: Text,
    options: AnswerOptions,
    *,
    context: int,
    model: str | None = None,
    notes: Sequence[str] = (),
    began: float | None = None,
) -> Iterator[Piece]:
    """The reply to one prompt of length [1], piece by piece; the texts of the pieces together are its text.

    Raises OptionError for beam search and for several answers, which are known only at the end.
    """
    began = time.perf_counter() if began is None else began
    if options.generation.n_best > 1:
        raise OptionError(f"n_best={options.generation.n_best} cannot be streamed: stream one answer")
    asked = _Asked(text, options, lengths, context)
    writing = Writing(text.decode, options.stop)
    told = ""
    times: list[float] = []
    for said in generate_stream(decoder, **asked.arguments()):
        now = time.perf_counter() - began
        if said.token is not None:
            times.append(now)
            new = writing.add(said.token)
            told += new
            yield Piece(new, said.token, now, said.log_prob)
        if said.answer is not None:
            reply = asked.reply(said.answer, times, model, tuple(notes))
            yield Piece(reply.text[len(told) :], None, now, None, reply)


class Writing:
    """Text that grows token by token, told as soon as no later token can change it.

    Held back are unfinished characters, and what may become one of the stop texts or the blanks before it.

    >>> writing = Writing(lambda ids: "".join("ab!?"[i] for i in ids), stop=("!?",))
    >>> [writing.add(token) for token in (0, 2, 1)]
    ['a', '', '!b']
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        """`decode` gives the text of token ids; none of the `stop` texts is told, not even its beginning."""
        self._decode, self._stop = decode, stop
        self._tokens: list[int] = []
        self._before = self._done = 0
        self._held = ""

    def add(self, token: int) -> str:
        """The text that has become certain with one more token."""
        self._tokens.append(token)
        # Decoders treat the beginning of a text in their own way, so the piece before stays in view.
        old = self._decode(self._tokens[self._before : self._done])
        new = self._decode(self._tokens[self._before :])
        if len(new) <= len(old) or new.endswith(_BROKEN):
            return ""
        self._before, self._done = self._done, len(self._tokens)
        self._held += new[len(old) :]
        told = self._before_stop(self._held)
        self._held = self._held[len(told) :]
        return told

    def _before_stop(self, text: str) -> str:
        """What of a text stays, even if one of the stop texts stands in it or begins at its end."""
        if not self._stop:
            return text
        cut = _cut(text, self._stop)
        if cut is not None:
            return cut
        kept = max(_overlap(text, stop) for stop in self._stop)
        return text[: len(text) - kept].rstrip()


def _cut(text: str, stop: Sequence[str]) -> str | None:
    """The text before the first stop text and the blanks there; None where there is no stop text."""
    places = [text.find(one) for one in stop if one in text]
    return text[: min(places)].rstrip() if places else None


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    return next((n for n in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:n])), 0)


class _Asked:
    """One call of the engine: what it is asked, and how its answers become replies."""

    def __init__(self, text: Text, options: AnswerOptions, lengths: Tensor, context: int) -> None:
        self.text, self.options, self.lengths, self.context = text, options, lengths, context
        self.longest = max((len(stop.encode()) for stop in options.stop), default=0)

    def arguments(self) -> dict[str, Any]:
        """What the engine is asked beside the decoder; it does not need the prompts' ids."""
        first, *others = self.text.end_ids
        room = int(self.lengths.max()) if len(self.lengths) else 0
        return {
            "prompt": self.lengths.new_zeros(len(self.lengths), room),
            "prompt_lengths": self.lengths,
            "eos": first,
            "limits": torch.full_like(self.lengths, self.context),
            "options": replace(self.options.generation, stop=tuple((token,) for token in others)),
            "guards": (self.guard,) if self.options.stop else (),
        }

    def guard(self, row: int, tokens: Sequence[int]) -> int | None:
        """Ends an answer that holds one of the stop texts; all its tokens are kept until the text is cut."""
        # A token has at least one byte; the stop text may begin inside the first of the window.
        window = self.text.decode(tokens[-self.longest - 4 :])
        return len(tokens) if any(stop in window for stop in self.options.stop) else None

    def reply(
        self, found: Generated, times: Sequence[float], model: str | None, notes: tuple[str, ...]
    ) -> Reply:
        """The reply an answer is, cut before its stop text."""
        written = self.text.decode(found.tokens)
        kept, finished = len(found.tokens), found.finished
        cut = _cut(written, self.options.stop)
        if cut is not None:
            written, finished = cut, "stopped"
            while kept and len(self.text.decode(found.tokens[: kept - 1])) >= len(written):
                kept -= 1
        elif finished == "stopped":
            finished = "eos"
        return Reply(
            text=written,
            tokens=tuple(found.tokens[:kept]),
            log_probs=tuple(found.log_probs[:kept]),
            times=tuple(times[:kept]),
            finished=finished,
            model=model,
            notes=notes,
        )


class _Timed(NamedTuple):
    answer: Generated
    times: list[float]


def _timed(events: Iterator[Said], rows: int, began: float) -> list[list[_Timed]]:
    """The answers of each row with the time of each token, best first."""
    times: dict[tuple[int, int], list[float]] = {}
    answers: list[list[_Timed]] = [[] for _ in range(rows)]
    for said in events:
        own = times.setdefault((said.row, said.sample), [])
        if said.token is not None:
            own.append(time.perf_counter() - began)
        if said.answer is not None:
            answers[said.row].append(_Timed(said.answer, own))
    return [sorted(row, key=lambda one: -one.answer.score) for row in answers]
