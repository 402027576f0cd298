"""Embeddings in, hidden states and logits out, as transformers computes them from token ids."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from aronnax.collections.llm.backbone import Backbone, BackboneConfig
from aronnax.collections.llm.backbone.padding import positions_of, to_left, to_right
from aronnax.core.errors import ConfigError, OptionError
from tests.llm.backbone.shapes import OTHERS, SHAPES, make, texts

ALL = [*SHAPES, *OTHERS]
RECURRENT = ["nemotron_h", "mamba2", "lfm2"]


@pytest.fixture(scope="module", params=ALL)
def backbone(request):
    return make(request.param)


@torch.no_grad()
def alone(backbone, ids, lengths):
    """Logits of every row by transformers, from token ids without padding."""
    return [
        backbone.causal(input_ids=ids[row : row + 1, :n]).logits[0] for row, n in enumerate(lengths.tolist())
    ]


def gap(found, lengths, wanted):
    return max(float((found[row, :n] - wanted[row]).abs().max()) for row, n in enumerate(lengths.tolist()))


@torch.no_grad()
def test_embeddings_give_the_logits_of_their_ids(backbone):
    ids, _ = texts()
    assert backbone.embed(ids).shape == (4, 40, backbone.width)
    assert backbone.vocab_size == 60
    found = backbone.logits(backbone(backbone.embed(ids)))
    assert torch.equal(found, backbone.causal(input_ids=ids).logits)


@torch.no_grad()
def test_padding_on_either_side_does_not_change_a_row(backbone):
    ids, lengths = texts()
    embeddings = backbone.embed(ids)
    wanted = alone(backbone, ids, lengths)
    assert gap(backbone.logits(backbone(embeddings, lengths)), lengths, wanted) < 5e-5
    left = to_left(embeddings, lengths)
    hidden = to_right(backbone(left, lengths, left_padded=True), lengths)
    assert gap(backbone.logits(hidden), lengths, wanted) < 5e-5


def test_rows_turn_from_one_side_to_the_other_and_back():
    x = torch.arange(1.0, 9.0).reshape(2, 4, 1)
    lengths = torch.tensor([4, 2])
    assert to_left(x, lengths)[1, :, 0].tolist() == [7, 8, 5, 6]
    assert torch.equal(to_right(to_left(x, lengths), lengths), x)


def test_positions_begin_anew_with_each_segment():
    assert positions_of(torch.tensor([[0, 0, 0, 1, 1, 2], [5, 5, 5, 5, 5, 5]])).tolist() == [
        [0, 1, 2, 0, 1, 0],
        [0, 1, 2, 3, 4, 5],
    ]


@torch.no_grad()
@pytest.mark.parametrize("architecture", [name for name in ALL if name not in RECURRENT])
def test_packed_texts_equal_texts_in_rows_of_their_own(architecture):
    backbone = make(architecture)
    ids, lengths = texts()
    wanted = alone(backbone, ids, lengths)
    parts = [ids[row, :n] for row, n in enumerate(lengths.tolist())]
    packed = torch.cat(parts)[None]
    segments = torch.cat([torch.full_like(part, row) for row, part in enumerate(parts)])[None]
    found = backbone.logits(backbone(backbone.embed(packed), segments=segments))[0]
    assert float((found - torch.cat(wanted)).abs().max()) < 5e-5
    hidden = torch.cat([backbone(backbone.embed(part[None]))[0] for part in parts])
    assert float((backbone(backbone.embed(packed), segments=segments)[0] - hidden).abs().max()) < 1e-5
    assert float((backbone(backbone.embed(packed))[0] - hidden).abs().max()) > 0.1


@pytest.mark.parametrize("architecture", RECURRENT)
def test_texts_cannot_be_packed_where_states_run_on(architecture):
    backbone = make(architecture)
    ids, _ = texts()
    with pytest.raises(OptionError, match=f"{architecture} has recurrent layers"):
        backbone(backbone.embed(ids), segments=ids)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("bloom", {"hidden_size": 8, "n_layer": 1, "n_head": 2}),
        ("openai-gpt", {"n_embd": 8, "n_layer": 1, "n_head": 2}),
        ("falcon", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}),
        (
            "opt",
            {"hidden_size": 8, "word_embed_proj_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
        ),
    ],
)
def test_texts_cannot_be_packed_where_positions_or_masks_do_not_tell_them_apart(architecture, shape):
    backbone = Backbone(BackboneConfig(architecture, {"vocab_size": 20, **shape}))
    sentence = f"{architecture} cannot be told where in a row a text begins: give each"
    with pytest.raises(OptionError, match=sentence):
        backbone(torch.randn(1, 4, 8), segments=torch.tensor([[0, 0, 1, 1]]))


@pytest.mark.parametrize("architecture", list(SHAPES))
def test_gradient_checkpointing_gives_the_same_gradients(architecture):
    backbone = make(architecture).train()
    ids, lengths = texts(2, 12)
    gradients = []
    for on in (False, True):
        backbone.gradient_checkpointing = on
        assert backbone.gradient_checkpointing is on
        embeddings = backbone.embed(ids).detach().requires_grad_()
        backbone(embeddings, lengths)[:, 0].square().sum().backward()
        gradients.append(embeddings.grad)
    assert gradients[0].abs().max() > 0
    assert torch.allclose(*gradients, atol=1e-6)


@torch.no_grad()
def test_bfloat16_keeps_its_type(backbone):
    ids, lengths = texts()
    exact = backbone.logits(backbone(backbone.embed(ids), lengths))
    half = make(backbone.config.architecture).to(torch.bfloat16)
    hidden = half(half.embed(ids), lengths)
    # Mamba sums its layers up in single precision.
    mamba = backbone.config.architecture == "mamba2"
    assert hidden.dtype == (torch.float32 if mamba else torch.bfloat16)
    assert torch.nn.functional.cosine_similarity(half.logits(hidden).float()[0, 0], exact[0, 0], dim=0) > 0.95


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        ("lama", {}, "'lama' is unknown to the installed transformers; did you mean llama"),
        ("t5", {}, "'t5' is an encoder-decoder"),
        ("vit", {}, "'vit' is not a causal language model"),
        ("llama", {"hidden_size": "wide"}, "settings of llama"),
        ("llama", {"quantization_config": {}}, "stored quantised"),
    ],
)
def test_a_configuration_that_makes_no_backbone_says_why(architecture, settings, message):
    with pytest.raises(ConfigError, match=message):
        Backbone(BackboneConfig(architecture, settings))


@pytest.mark.parametrize("lengths", [[3], [0, 4], [2, 41]])
def test_lengths_that_do_not_fit_are_named(lengths):
    backbone = make("llama")
    ids, _ = texts(2)
    with pytest.raises(OptionError, match="length"):
        backbone(backbone.embed(ids), torch.tensor(lengths))


def test_the_package_is_imported_without_transformers():
    code = (
        "import sys, aronnax.collections.llm.backbone; assert not {'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
