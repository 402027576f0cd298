"""Beam search with length penalty and several answers, choosing as NeMo 3.0.0 does.

Legend: `N` rows of the caller, `k` hypotheses of each, `V` vocabulary.

With `nemo_beam` two oddities of NeMo's are kept: a hypothesis whose very first token ends it goes on after it, and
with a length penalty the score of a hypothesis that moves is multiplied by the penalty of the place it moves to.
Without, such a hypothesis is over, and scores are plain sums of log-probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aronnax.collections.common.nn.confidence import confidence
from aronnax.collections.common.nn.generation.options import Finish, Generated, GenerationOptions
from aronnax.collections.common.nn.generation.protocols import Decoder
from aronnax.collections.common.nn.generation.stopping import Stopping, pack
from aronnax.core.errors import OptionError


@dataclass(frozen=True)
class Hypothesis:
    """A beginning of an answer; tokens hang together backwards."""

    before: Hypothesis | None
    token: int
    log_prob: float
    sure: float | None
    length: int
    """Tokens so far, an end among them."""
    said: int
    """Those of them that are no ends; what the length penalty counts."""
    finished: Finish | None = None
    keep: int = 0
    """Tokens of the answer, once finished."""

    def chain(self) -> list[Hypothesis]:
        """From the first token to this one."""
        found: list[Hypothesis] = []
        here: Hypothesis | None = self
        while here is not None:
            found.append(here)
            here = here.before
        return found[::-1]


@dataclass
class _Row:
    """A row of the caller: its hypotheses and where it stands."""

    row: int
    prompt: int
    room: int
    hypotheses: list[Hypothesis]

    def penalties(self, alpha: float) -> list[float]:
        """What each hypothesis' score is divided by; as in NeMo the prompt counts, and one token more."""
        return [((5 + self.prompt + 1 + h.said) / 6) ** alpha for h in self.hypotheses]


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    prompt: Tensor,
    lengths: Tensor,
    room: list[int],
    options: GenerationOptions,
    stopping: Stopping,
    compact: bool,
) -> list[list[Generated]]:
    """The `n_best` answers to prompts [B, P] of lengths [B], best first; `room` are each row's most new tokens."""
    beam = options.beam
    answers: list[list[Generated]] = [
        [Generated([], [], [] if options.confidence else None, 0.0, "limit")] for _ in room
    ]
    steps = max(room, default=0)
    if not steps:
        return answers
    scores, cache = decoder.prefill(prompt, lengths, capacity=prompt.shape[1] + steps)
    try:
        if beam > scores.shape[-1]:
            raise OptionError(
                f"beam is {beam}: the model has no more than {scores.shape[-1]} tokens to choose from"
            )
        rows = [
            _Row(row, length, space, []) for row, (length, space) in enumerate(zip(lengths.tolist(), room))
        ]
        active = [space > 0 for space in room]
        totals, tokens, _ = _extend(rows, active, scores[:, None], None, options, stopping)
        cache.repeat(beam)
        while True:
            for place, row in enumerate(rows):
                if active[place] and _over(row, totals[place], options):
                    active[place] = False
                    answers[row.row] = _answers(row, totals[place].tolist(), options)
            if not any(active):
                return answers
            if compact and not all(active):
                kept = pack(active)
                cache.select(kept)
                rows = [rows[place] for place in kept]
                index = torch.tensor(kept, device=totals.device)
                totals, tokens = totals.index_select(0, index), tokens.index_select(0, index)
                active = [True] * len(kept)
            scores = decoder.step(tokens.flatten(), cache).unflatten(0, (len(rows), beam))
            totals, tokens, parents = _extend(rows, active, scores, totals, options, stopping)
            cache.reorder([place * beam + parent for place, row in enumerate(parents) for parent in row])
    finally:
        decoder.release(cache)


def _extend(
    rows: list[_Row],
    active: list[bool],
    scores: Tensor,
    totals: Tensor | None,
    options: GenerationOptions,
    stopping: Stopping,
) -> tuple[Tensor, Tensor, list[list[int]]]:
    """The best continuations by scores [N, 1 or k, V]: their totals and tokens [N, k], and their parents."""
    beam = options.beam
    log_probs = torch.log_softmax(scores.float(), dim=-1)
    best, tokens = log_probs.topk(beam, dim=-1)
    if totals is None:
        sums = best.flatten(1)
        order = torch.arange(beam, device=sums.device).expand(len(rows), beam)
    else:
        over = torch.tensor([[h.finished is not None for h in row.hypotheses] for row in rows])
        # A finished hypothesis is its own only continuation.
        alone = torch.full((beam,), -torch.inf, device=totals.device)
        alone[0] = 0.0
        sums = totals[:, :, None] + torch.where(over.to(totals.device)[:, :, None], alone, best)
        penalties = torch.tensor([row.penalties(options.length_penalty) for row in rows]).to(sums)
        compared, order = (sums / penalties[:, :, None]).flatten(1).topk(beam, dim=1)
        sums = compared * penalties if options.nemo_beam else sums.flatten(1).gather(1, order)
    tokens = tokens.flatten(1).gather(1, order)
    sureness = None
    if options.confidence is not None:
        sureness = confidence(log_probs, options.confidence).tolist()
    parents = order.div(beam, rounding_mode="floor").tolist()
    each, values = best.flatten(1).gather(1, order).tolist(), tokens.tolist()
    for place, row in enumerate(rows):
        if row.hypotheses and not active[place]:
            continue
        found = []
        for k, parent in enumerate(parents[place]):
            before = row.hypotheses[parent] if row.hypotheses else None
            sure = None if sureness is None else sureness[place][parent]
            said = Hypothesis(before, values[place][k], each[place][k], sure, 1, 1)
            found.append(_longer(row, said, options, stopping))
        row.hypotheses = found
    return sums, tokens, parents


def _longer(row: _Row, new: Hypothesis, options: GenerationOptions, stopping: Stopping) -> Hypothesis:
    """The hypothesis with `new` as its last token, or the one before if that was finished."""
    before = new.before
    if before is not None and before.finished is not None:
        return before
    ends = (stopping.eos, stopping.pad)
    over = new.token in ends
    if before is None:
        length, said, over = 1, 1, over and not options.nemo_beam
        said -= over
    else:
        length, said = before.length + 1, before.said + (not over)
        if before.before is None and before.token in ends:
            said -= 1
    new = replace(new, length=length, said=said)
    if over:
        chain = new.chain()
        while chain and chain[-1].token in ends:
            chain.pop()
        return replace(new, finished="eos", keep=len(chain))
    if stopping.watches:
        keep = stopping.stops(row.row, [one.token for one in new.chain()])
        if keep is not None:
            return replace(new, finished="stopped", keep=keep)
    if length >= row.room:
        return replace(new, finished="limit", keep=length)
    return new


def _over(row: _Row, totals: Tensor, options: GenerationOptions) -> bool:
    """Whether nothing can change the row's answers any more."""
    if all(h.finished is not None for h in row.hypotheses):
        return True
    if options.length_penalty or options.n_best > 1:
        return False
    # Sums only fall: a finished hypothesis that is best stays best.
    return row.hypotheses[int(totals.argmax())].finished is not None


def _answers(row: _Row, totals: list[float], options: GenerationOptions) -> list[Generated]:
    penalties = row.penalties(options.length_penalty)
    order = sorted(range(len(totals)), key=lambda k: -totals[k] / penalties[k])
    answers = []
    for k in order[: options.n_best]:
        hypothesis = row.hypotheses[k]
        chain = hypothesis.chain()[: hypothesis.keep]
        sure = None if options.confidence is None else [one.sure or 0.0 for one in chain]
        answers.append(
            Generated(
                [one.token for one in chain],
                [one.log_prob for one in chain],
                sure,
                totals[k],
                hypothesis.finished or "limit",
            )
        )
    return answers
