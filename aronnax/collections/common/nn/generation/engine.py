"""Greedy decoding and sampling, and the way into beam search.

Legend: `B` rows, `P` prompt tokens, `V` vocabulary.

    options = GenerationOptions(beam=4, n_best=2)
    answers = generate(decoder, prompts, prompt_lengths, eos=3, options=options, limits=limits)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from aronnax.collections.common.nn.confidence import confidence
from aronnax.collections.common.nn.generation.beam import beam_search
from aronnax.collections.common.nn.generation.options import Finish, Generated, GenerationOptions, Said
from aronnax.collections.common.nn.generation.protocols import Decoder, Guard, QuickDecoder
from aronnax.collections.common.nn.generation.sampling import choose, uniforms
from aronnax.collections.common.nn.generation.stopping import Stopping, pack, rooms
from aronnax.core.errors import OptionError


def generate(
    decoder: Decoder,
    prompt: Tensor,
    prompt_lengths: Tensor,
    *,
    eos: int,
    limits: Tensor,
    options: GenerationOptions | None = None,
    pad: int | None = None,
    guards: Sequence[Guard] = (),
    compact: bool = True,
) -> list[list[Generated]]:
    """Answers to prompts [B, P] of lengths [B], `options.n_best` a row, best first.

    `limits` [B] are the most tokens of prompt and answer together. `pad` is cut off an answer's end, and ends a
    hypothesis of beam search. Rows that are done leave the batch, unless `compact` is False.
    """
    options = options or GenerationOptions()
    stopping = Stopping(eos, pad, options.stop, tuple(guards))
    room = rooms(prompt_lengths, limits, options)
    if options.beam > 1:
        return beam_search(decoder, prompt, prompt_lengths, room, options, stopping, compact)
    answers: list[list[Generated]] = [[] for _ in room]
    for said in _one_by_one(decoder, prompt, prompt_lengths, room, options, stopping, compact):
        if said.answer is not None:
            answers[said.row].append(said.answer)
    if options.n_best > 1:
        answers = [sorted(answer, key=lambda one: -one.score) for answer in answers]
    return answers


def generate_stream(
    decoder: Decoder,
    prompt: Tensor,
    prompt_lengths: Tensor,
    *,
    eos: int,
    limits: Tensor,
    options: GenerationOptions | None = None,
    pad: int | None = None,
    guards: Sequence[Guard] = (),
) -> Iterator[Said]:
    """As `generate`, but tells each token as soon as it is chosen.

    Raises OptionError for beam search, which knows its tokens only at the end.
    """
    options = options or GenerationOptions()
    if options.beam > 1:
        raise OptionError(f"beam={options.beam} cannot be streamed: beam search knows its tokens at the end")
    stopping = Stopping(eos, pad, options.stop, tuple(guards))
    room = rooms(prompt_lengths, limits, options)
    return _one_by_one(decoder, prompt, prompt_lengths, room, options, stopping, True)


@dataclass
class _Answer:
    """An answer in the making."""

    row: int
    sample: int
    room: int
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    confidences: list[float] | None = None
    score: float = 0.0
    done: bool = False

    def close(self, finished: Finish, keep: int, pad: int | None) -> Said:
        self.done = True
        while keep and self.tokens[keep - 1] == pad:
            keep -= 1
        sure = None if self.confidences is None else self.confidences[:keep]
        answer = Generated(self.tokens[:keep], self.log_probs[:keep], sure, self.score, finished)
        return Said(self.row, self.sample, None, finished, answer)

    def add(
        self, token: int, log_prob: float | None, sure: float | None, stopping: Stopping
    ) -> Iterator[Said]:
        """Note one token; tells it, and the answer if it ends."""
        self.score += log_prob or 0.0
        if token == stopping.eos:
            yield self.close("eos", len(self.tokens), stopping.pad)
            return
        self.tokens.append(token)
        if log_prob is not None:
            self.log_probs.append(log_prob)
        if self.confidences is not None and sure is not None:
            self.confidences.append(sure)
        keep = stopping.stops(self.row, self.tokens)
        if keep is None:
            yield Said(self.row, self.sample, token, None, log_prob=log_prob)
            if len(self.tokens) >= self.room:
                yield self.close("limit", len(self.tokens), stopping.pad)
        else:
            yield self.close("stopped", keep, stopping.pad)


@torch.inference_mode()
def _one_by_one(
    decoder: Decoder,
    prompt: Tensor,
    lengths: Tensor,
    room: list[int],
    options: GenerationOptions,
    stopping: Stopping,
    compact: bool,
) -> Iterator[Said]:
    samples = options.n_best
    answers = [
        _Answer(row, sample, space, confidences=[] if options.confidence else None)
        for row, space in enumerate(room)
        for sample in range(samples)
    ]
    for answer in answers:
        if not answer.room:
            yield answer.close("limit", 0, None)
    steps = max(room, default=0)
    if not steps:
        return
    scores, cache = decoder.prefill(prompt, lengths, capacity=prompt.shape[1] + steps)
    try:
        cache.repeat(samples)
        if samples > 1:
            scores = scores.repeat_interleave(samples, dim=0)
        drawn = None
        if options.temperature > 0.0:
            drawn = uniforms(len(room), samples, steps, options.seed, scores.device)
        tokens = choose(scores, options, None if drawn is None else drawn[:, 0])
        quick = decoder if options.tokens_only and isinstance(decoder, QuickDecoder) else None
        for step in range(1, steps + 1):
            yield from _note(answers, tokens, scores, options, stopping)
            groups = [
                not all(answer.done for answer in answers[place : place + samples])
                for place in range(0, len(answers), samples)
            ]
            if not any(groups):
                return
            if compact and not all(groups):
                kept = pack(groups)
                cache.select(kept)
                rows = [group * samples + sample for group in kept for sample in range(samples)]
                answers = [answers[row] for row in rows]
                index = torch.tensor(rows, device=tokens.device)
                tokens = tokens.index_select(0, index)
                drawn = None if drawn is None else drawn.index_select(0, index)
            if quick is not None:
                tokens = quick.best(tokens, cache)
            else:
                scores = decoder.step(tokens, cache)
                tokens = choose(scores, options, None if drawn is None else drawn[:, step])
    finally:
        decoder.release(cache)


def _note(
    answers: list[_Answer], tokens: Tensor, scores: Tensor, options: GenerationOptions, stopping: Stopping
) -> Iterator[Said]:
    """Write one step into the answers that still go on; `scores` are its own, if asked for."""
    log_probs = sure = [None] * len(answers)
    if options.log_probs or options.confidence is not None:
        every = scores.float().log_softmax(dim=-1)
        if options.log_probs:
            log_probs = every.gather(1, tokens[:, None]).squeeze(1).tolist()
        if options.confidence is not None:
            sure = confidence(every, options.confidence).tolist()
    for answer, token, log_prob, certain in zip(answers, tokens.tolist(), log_probs, sure):
        if not answer.done:
            yield from answer.add(token, log_prob, certain, stopping)
