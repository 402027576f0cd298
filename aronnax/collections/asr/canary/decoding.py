"""From encoder states and prompts to hypotheses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.common.nn.confidence import check_measure, confidence
from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.asr.canary.config import CanaryConfig
    from aronnax.collections.asr.canary.model import CanaryModel


@dataclass(frozen=True)
class GenerationOptions:
    """Beam and length penalty."""

    beam: int = 1
    length_penalty: float = 0.0


def generation_options(
    config: CanaryConfig, *, beam: int | None = None, length_penalty: float | None = None
) -> Any:
    """How text is searched: what the caller says, else what the checkpoint does."""
    chosen = config.decoding
    return GenerationOptions(
        beam=chosen.beam if beam is None else beam,
        length_penalty=chosen.length_penalty if length_penalty is None else length_penalty,
    )


def check_prompts(model: CanaryModel, prompts: Sequence[Sequence[int]], rows: int) -> None:
    """OptionError unless there is one prompt a row, each leaving room for text."""
    longest = model.config.decoder.max_sequence_length
    if len(prompts) != rows:
        raise OptionError(f"{len(prompts)} prompts were given for {rows} recordings; each needs one")
    for prompt in prompts:
        if not prompt:
            raise OptionError("a prompt has at least one token")
        if len(prompt) >= longest:
            raise OptionError(
                f"a prompt of {len(prompt)} tokens leaves no room: the decoder's maximum is {longest} with the text;"
                " shorten the context"
            )


def decode_prompted(
    model: CanaryModel,
    states: Tensor,
    lengths: Tensor,
    prompts: Sequence[Sequence[int]],
    generation: Any,
    measure: str | None,
) -> list[Hypothesis]:
    """The best hypothesis of each row of states [B, T, D]."""
    check_measure(measure)
    check_prompts(model, prompts, len(states))
    limits = model.transf_decoder.limits(lengths, model.config.decoding.max_generation_delta).tolist()
    found = []
    for row, prompt in enumerate(prompts):
        tokens = list(prompt)
        hypothesis = Hypothesis()
        while len(tokens) < limits[row]:
            given = torch.tensor([tokens], device=states.device)
            log_probs = model.forward_tokens(states[row : row + 1], lengths[row : row + 1], given)[0, -1]
            token = int(log_probs[: model.config.vocab_size].argmax())
            if token == model.text.end_id:
                break
            tokens.append(token)
            hypothesis.tokens.append(token)
            hypothesis.log_probs.append(float(log_probs[token]))
            if measure:
                hypothesis.confidences.append(float(confidence(log_probs, measure)))
        hypothesis.score = sum(hypothesis.log_probs)
        found.append(hypothesis)
    return found
