"""LoRA layers of peft inside a backbone: the fast step honours them, and a call may choose among them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from aronnax.collections.llm.backbone.hf_step import HfSteps
from aronnax.collections.llm.backbone.steps import FixedSteps
from aronnax.core.errors import OptionError
from tests.llm.backbone.shapes import SHAPES, VOCABULARY, make, texts

TARGETS = {
    "llama": ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
    "qwen3": ["q_proj", "v_proj"],
    "smollm3": ["k_proj", "up_proj", "lm_head"],
    "nemotron_h": ["in_proj", "q_proj", "up_proj"],
}


def with_adapters(architecture, *names, empty=False, **options):
    backbone = make(architecture)
    for seed, name in enumerate(names):
        config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS[architecture], **options)
        inject_adapter_in_model(config, backbone.causal, adapter_name=name)
        torch.manual_seed(seed)
        for label, parameter in backbone.named_parameters():
            if f".{name}." in label and not (empty and "lora_B" in label):
                parameter.data.normal_(0.0, 0.2)
    for layer in backbone.modules():
        if hasattr(layer, "lora_A"):
            layer.set_adapter(list(names)[:1])
    return backbone.eval()


@torch.no_grad()
def stepwise(backbone, **how):
    """Scores after prompts and after each of three tokens."""
    ids, lengths = texts()
    decoder = backbone.bind(backbone.embed(ids), lengths, **how)
    scores, cache = decoder.prefill(ids, lengths, capacity=50)
    more = torch.arange(5, 17).reshape(3, 4)
    return torch.stack([scores, *(decoder.step(tokens, cache) for tokens in more)])


@torch.no_grad()
def whole(backbone, adapter=None):
    """The same by forward passes over each row alone."""
    ids, lengths = texts()
    more = torch.arange(5, 17).reshape(3, 4)
    found = torch.empty(4, 4, VOCABULARY)
    for row, n in enumerate(lengths.tolist()):
        text = torch.cat([ids[row, :n], more[:, row]])[None]
        hidden = backbone(backbone.embed(text), adapter=adapter)[0, n - 1 :]
        found[:, row] = backbone.logits(hidden, adapter=adapter)
    return found


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("architecture", list(SHAPES))
def test_the_step_honours_the_active_adapter(architecture, fixed):
    backbone = with_adapters(architecture, "one")
    backbone.fixed = fixed
    found = stepwise(backbone)
    assert float((found - whole(backbone)).abs().max()) < 5e-5
    assert float((found - stepwise(make(architecture))).abs().max()) > 0.1


@pytest.mark.parametrize("architecture", list(SHAPES))
def test_without_adapters_the_base_is_restored_to_the_bit(architecture):
    backbone, base = with_adapters(architecture, "one"), make(architecture)
    assert torch.equal(whole(backbone, adapter=False), whole(base))
    assert torch.equal(stepwise(backbone, adapter=False), stepwise(base))


@pytest.mark.parametrize("architecture", list(SHAPES))
def test_a_fresh_adapter_changes_nothing(architecture):
    backbone, base = with_adapters(architecture, "one", empty=True), make(architecture)
    assert torch.equal(whole(backbone), whole(base))
    assert torch.equal(stepwise(backbone), stepwise(base))


def test_a_call_chooses_among_several_adapters_and_leaves_the_model_alone():
    backbone = with_adapters("llama", "one", "two")
    active = whole(backbone)
    second = whole(backbone, adapter="two")
    assert torch.equal(whole(backbone, adapter="one"), active)
    assert float((second - active).abs().max()) > 0.1
    assert float((stepwise(backbone, adapter="two") - second).abs().max()) < 5e-5
    assert torch.equal(whole(backbone), active)
    for layer in backbone.modules():
        if hasattr(layer, "lora_A"):
            layer.set_adapter(["two"])
    assert torch.equal(whole(backbone), second)
    assert float((stepwise(backbone) - second).abs().max()) < 5e-5


def test_calls_in_other_threads_choose_for_themselves():
    backbone = with_adapters("qwen3", "one", "two")
    wanted = {adapter: stepwise(backbone, adapter=adapter) for adapter in ("one", "two", False)}
    with ThreadPoolExecutor(3) as pool:
        calls = [(adapter, pool.submit(stepwise, backbone, adapter=adapter)) for adapter in [*wanted] * 3]
    assert all(torch.equal(call.result(), wanted[adapter]) for adapter, call in calls)


def test_gradients_reach_the_chosen_adapter_alone():
    backbone = with_adapters("llama", "one", "two").train()
    for label, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora" in label)
    ids, lengths = texts(2, 6)
    backbone(backbone.embed(ids), lengths, adapter="two").sum().backward()
    reached = {label for label, p in backbone.named_parameters() if p.grad is not None}
    assert reached
    assert all(".two." in label for label in reached)


@pytest.mark.parametrize(
    ("options", "kind"), [({"use_dora": True}, HfSteps), ({"use_rslora": True}, FixedSteps)]
)
def test_other_kinds_of_adapters_decode_too(options, kind):
    backbone = with_adapters("qwen3", "one", **options)
    ids, lengths = texts()
    assert isinstance(backbone.bind(backbone.embed(ids), lengths).steps, kind)
    assert float((stepwise(backbone) - whole(backbone)).abs().max()) < 5e-5


def test_an_unknown_adapter_is_named():
    ids, lengths = texts()
    backbone = with_adapters("llama", "one")
    with pytest.raises(OptionError, match="no adapter 'tow': it has one"):
        backbone.bind(backbone.embed(ids), lengths, adapter="tow")
    with pytest.raises(OptionError, match="no adapter 'one': it has none"):
        make("llama").bind(backbone.embed(ids), lengths, adapter="one")


def test_merged_adapters_cannot_be_left_out():
    backbone = with_adapters("llama", "one")
    ids, lengths = texts()
    unmerged = stepwise(backbone)
    for layer in backbone.modules():
        if hasattr(layer, "lora_A"):
            layer.merge()
    assert float((stepwise(backbone) - unmerged).abs().max()) < 5e-5
    with pytest.raises(OptionError, match="merged"):
        backbone.bind(backbone.embed(ids), lengths, adapter=False)
