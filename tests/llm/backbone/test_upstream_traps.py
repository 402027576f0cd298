"""What transformers gets wrong for NemotronH, and what the backbone does instead.

Every trap is expected to fail, for its own reason and no other. When one passes, transformers has mended it, and the
way around it may go.
"""

from __future__ import annotations

import re
from functools import wraps

import pytest
import torch
import transformers

from tests.llm.backbone.shapes import make

IDS = torch.arange(3, 19)[None]
MASK = torch.ones_like(IDS)


@pytest.fixture(scope="module")
def causal():
    """The model as transformers makes it: without the limits the backbone sets."""
    made = make("nemotron_h")
    config = made.causal.config
    for layer in made.causal.model.layers:
        if layer.block_type == "linear_attention":
            layer.mixer.time_step_limit = (config.time_step_min, float("inf"))
    return made.causal


class TrapError(Exception):
    """A test failed as it is known to."""


def trap(kind, says):
    """The test must fail with such an error, whose message has `says` in it; anything else is a failure."""

    def mark(test):
        @wraps(test)
        def run(*given, **named):
            try:
                test(*given, **named)
            except kind as error:
                if re.search(says, str(error)) is None:
                    raise
                raise TrapError from error

        return pytest.mark.xfail(strict=True, raises=TrapError, reason="upstream")(run)

    return mark


def generated(causal, **more):
    return causal.generate(attention_mask=MASK, max_new_tokens=6, do_sample=False, pad_token_id=0, **more)


@trap(ValueError, "NemotronHForCausalLM doesn't have its forwarding implemented")
def test_generate_takes_embeddings(causal):
    generated(causal, inputs_embeds=causal.get_input_embeddings()(IDS))


@trap(ValueError, "assisted generation is not supported with stateful models")
def test_assisted_decoding_works_with_recurrent_states(causal):
    generated(causal, input_ids=IDS, prompt_lookup_num_tokens=2)


@trap(ValueError, "Invalid layer type: linear_attention")
def test_batches_may_be_continuous(causal):
    found = causal.generate_batch(
        [IDS[0].tolist()], transformers.GenerationConfig(max_new_tokens=2, do_sample=False, eos_token_id=2)
    )
    assert len(found) == 1


@trap(AssertionError, "the first text runs on into the second")
@torch.no_grad()
def test_packed_rows_keep_their_states_apart(causal):
    second = IDS.flip(1)
    packed, places = torch.cat([IDS, second], dim=1), torch.arange(16).repeat(2)[None]
    found = causal(input_ids=packed, position_ids=places).logits[:, 16:]
    run_on = causal(input_ids=packed).logits[:, 16:]
    assert not torch.equal(found, run_on), "the first text runs on into the second"
    assert float((found - causal(input_ids=second).logits).abs().max()) < 1e-3


@trap(ValueError, "can't keep packed sequences apart without `causal_conv1d`")
@torch.no_grad()
def test_packed_rows_may_be_numbered(causal):
    second = IDS.flip(1)
    packed = torch.cat([IDS, second], dim=1)
    numbers = torch.arange(2).repeat_interleave(16)[None].int()
    found = causal(input_ids=packed, seq_idx=numbers).logits[:, 16:]
    assert float((found - causal(input_ids=second).logits).abs().max()) < 1e-3


def single_steps(causal):
    """The gap between a text in one piece and position by position, with very small time steps."""
    with torch.no_grad():
        for layer in causal.model.layers:
            if layer.block_type == "linear_attention":
                layer.mixer.dt_bias.sub_(6.0)
        whole = causal(input_ids=IDS).logits[0]
        states = transformers.DynamicCache(config=causal.config)
        single = [causal(input_ids=IDS[:, [n]], past_key_values=states).logits[0, 0] for n in range(16)]
        for layer in causal.model.layers:
            if layer.block_type == "linear_attention":
                layer.mixer.dt_bias.add_(6.0)
    return float((whole[1:] - torch.stack(single)[1:]).abs().max())


@trap(AssertionError, r"^assert 0\.0006\d+ < 0\.0001")
def test_time_steps_are_limited_alike_in_a_text_and_in_a_step(causal):
    assert single_steps(causal) < 1e-4


def test_the_backbone_limits_time_steps_alike():
    assert single_steps(make("nemotron_h").causal) < 1e-4


@trap(RuntimeError, "Expected mat_a to be Float32, BFloat16 or Float16 matrix, got Double")
@torch.no_grad()
def test_experts_work_in_double_precision(causal):
    make("nemotron_h").causal.double()(input_ids=IDS)


@trap(AssertionError, "the token was masked")
def test_a_token_that_is_the_pad_token_counts_without_a_mask(causal):
    """`generate` takes it for padding and masks it: give the mask always."""
    ids = IDS.clone()
    ids[0, 4] = causal.config.pad_token_id
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": 2}
    found, seen, hidden = (
        causal.generate(ids, attention_mask=mask, **options) for mask in (None, MASK, (ids > 0).long())
    )
    assert not torch.equal(found, hidden), "the token was masked"
    assert torch.equal(found, seen)


def test_no_layer_for_further_tokens_is_loaded():
    """`num_nextn_predict_layers` is read and ignored: the backbone promises nothing there either."""
    causal = make("nemotron_h", num_nextn_predict_layers=1).causal
    assert not [name for name, _ in causal.named_parameters() if "mtp" in name]


@trap(AssertionError, "^assert 'sliding_attention' == 'full_attention'")
def test_sliding_layers_are_those_with_positions_unless_told():
    """SmolLM3 makes the layers without positions slide, the reverse of what SWAN does: say `layer_types`."""
    config = transformers.SmolLM3Config(
        num_hidden_layers=4, no_rope_layers=[0, 1, 1, 1], use_sliding_window=True, sliding_window=8
    )
    assert config.layer_types[0] == "full_attention"
