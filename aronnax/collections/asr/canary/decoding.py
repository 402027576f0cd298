"""From encoder states and prompts to hypotheses, through the decoding engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aronnax.collections.asr.canary.stepping import BoundDecoder
from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.common.nn.cache import KeyValueCache
from aronnax.collections.common.nn.generation import Generated, GenerationOptions, Guard, generate
from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.asr.canary.config import CanaryConfig
    from aronnax.collections.asr.canary.model import CanaryModel


def generation_options(
    config: CanaryConfig, *, beam: int | None = None, length_penalty: float | None = None
) -> GenerationOptions:
    """How text is searched: what the caller says, else what the checkpoint does; OptionError for nonsense."""
    for name, value, least in (("beam", beam, 1), ("length_penalty", length_penalty, 0)):
        kinds = int if name == "beam" else (int, float)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds) or value < least):
            raise OptionError(f"{name}={value!r} must be a number of at least {least}")
    chosen = config.decoding
    return GenerationOptions(
        beam=chosen.beam if beam is None else beam,
        length_penalty=chosen.length_penalty if length_penalty is None else float(length_penalty),
    )


def decode_prompted(
    model: CanaryModel,
    states: Tensor,
    lengths: Tensor,
    prompts: Sequence[Sequence[int]],
    generation: GenerationOptions,
    measure: str | None,
    guards: Sequence[Guard] = (),
) -> list[list[Hypothesis]]:
    """The `generation.n_best` hypotheses of each row of states [B, T, D], best first."""
    _check_prompts(model, prompts, len(states))
    if not len(states):
        return []
    tokens, prompt_lengths = _padded(prompts, model.text.pad_id, states.device)
    delta = model.config.decoding.max_generation_delta
    answers = generate(
        _Known(model.stepper.bind(states, lengths), model.text.vocab_size),
        tokens,
        prompt_lengths,
        eos=model.text.end_id,
        limits=model.transf_decoder.limits(lengths, delta, generation.beam),
        options=replace(generation, confidence=measure),
        pad=model.text.pad_id,
        guards=guards,
    )
    return [[_hypothesis(answer) for answer in row] for row in answers]


class _Known:
    """A decoder that never writes the outputs beyond the vocabulary, which only fill up a multiple of eight."""

    def __init__(self, inner: BoundDecoder, vocab_size: int) -> None:
        self.inner, self.vocab_size = inner, vocab_size

    def prefill(self, tokens: Tensor, lengths: Tensor, *, capacity: int) -> tuple[Tensor, KeyValueCache]:
        scores, cache = self.inner.prefill(tokens, lengths, capacity=capacity)
        return scores[:, : self.vocab_size], cache

    def step(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        return self.inner.step(tokens, cache)[:, : self.vocab_size]

    def release(self, cache: KeyValueCache) -> None:
        self.inner.release(cache)


def _check_prompts(model: CanaryModel, prompts: Sequence[Sequence[int]], rows: int) -> None:
    """OptionError unless there is one prompt a row, each leaving room for text."""
    longest = model.config.decoder.max_sequence_length
    if len(prompts) != rows:
        raise OptionError(f"{len(prompts)} prompts were given for {rows} recordings; each needs one")
    for prompt in prompts:
        if not prompt:
            raise OptionError("a prompt has at least one token")
        if len(prompt) >= longest:
            raise OptionError(
                f"a prompt of {len(prompt)} tokens leaves no room for text: together they have at most {longest};"
                " shorten the context"
            )


def _padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts [B, P] and their lengths [B]."""
    lengths = [len(prompt) for prompt in prompts]
    rows = [[*prompt, *[pad] * (max(lengths) - len(prompt))] for prompt in prompts]
    return torch.tensor(rows, device=device), torch.tensor(lengths, device=device)


def _hypothesis(answer: Generated) -> Hypothesis:
    return Hypothesis(
        tokens=answer.tokens,
        confidences=answer.confidences or [],
        log_probs=answer.log_probs,
        score=answer.score,
        cut_short=answer.finished == "limit",
    )
