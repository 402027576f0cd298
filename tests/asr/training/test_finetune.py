from __future__ import annotations

import pytest
import torch

from aronnax.collections.asr.finetune import (
    adapt,
    extend_tokenizer,
    freeze,
    replace_tokenizer,
    trainable_parts,
)
from aronnax.collections.common.text import CharacterTokenizer, extend
from aronnax.core.errors import ConfigError

KINDS = ("ctc", "transducer", "hybrid")
# Name of a tensor with a row a piece -> rows that follow the pieces (blank, durations).
ROWS = {
    "ctc": {"decoder.decoder_layers.0.weight": 1, "decoder.decoder_layers.0.bias": 1},
    "transducer": {
        "decoder.prediction.embed.weight": 1,
        "joint.joint_net.2.weight": 5,
        "joint.joint_net.2.bias": 5,
    },
}
ROWS["hybrid"] = {
    **ROWS["transducer"],
    "ctc_decoder.decoder_layers.0.weight": 1,
    "ctc_decoder.decoder_layers.0.bias": 1,
}


@pytest.mark.parametrize("kind", KINDS)
def test_extension_keeps_the_rows_of_old_pieces_blank_and_durations_bitwise(tiny_model, kind) -> None:
    model = tiny_model(kind)
    tokenizer, kept = extend(model.tokenizer, ["e", "("])
    grown = extend_tokenizer(model, tokenizer, kept)
    old, new = model.state_dict(), grown.state_dict()
    for name, after in ROWS[kind].items():
        assert len(old[name]) == 5 + after
        assert torch.equal(new[name][:5], old[name][:5]), name
        assert torch.equal(new[name][7:], old[name][5:]), name
    for name in set(old) - set(ROWS[kind]):
        assert torch.equal(new[name], old[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_an_extended_model_says_what_it_said_before(tiny_model, tone_batch, tone_texts, kind) -> None:
    model = tiny_model(kind).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, parameter in model.named_parameters():
            if name.endswith("embed.weight"):
                parameter[-1].zero_()
            if name.endswith(("joint_net.2.bias", "decoder_layers.0.bias")):
                parameter[model.config.vocab_size] -= 2.0  # a blank that does not win everywhere
    tokenizer, kept = extend(model.tokenizer, ["e", "f"])
    grown = extend_tokenizer(model, tokenizer, kept)
    batch = tone_batch(tone_texts, model.tokenizer)
    for head in model.heads:
        spoken = []
        for each in (model, grown):
            with torch.inference_mode():
                output = each.encode(batch.signal, batch.signal_lengths)
                hypotheses, _ = each.decode(output.states, output.lengths, head=head)
            spoken.append([each.tokenizer.decode(h.tokens) for h in hypotheses])
        assert spoken[0] == spoken[1]
        assert any(spoken[0]), "the test says something only if the model does"


def test_extension_in_the_middle_moves_each_row_to_its_new_place(tiny_model) -> None:
    model = tiny_model("hybrid")
    grown = extend_tokenizer(model, CharacterTokenizer(list("x abcd")), [-1, 0, 1, 2, 3, 4])
    for name in ROWS["hybrid"]:
        assert torch.equal(grown.state_dict()[name][1:], model.state_dict()[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_replacing_the_tokenizer_keeps_all_but_the_pieces_rows(tiny_model, kind) -> None:
    model = tiny_model(kind)
    torch.manual_seed(1)
    replaced = replace_tokenizer(model, CharacterTokenizer(list("vwxyz")))
    assert replaced.tokenizer.vocabulary == tuple("vwxyz")
    old, new = model.state_dict(), replaced.state_dict()
    for name in set(old) - set(ROWS[kind]):
        assert torch.equal(new[name], old[name]), name
    for name in ROWS[kind]:
        assert torch.equal(new[name][5:], old[name][5:]), name
        assert not torch.equal(new[name][:5], old[name][:5]), name


def test_freezing_takes_prefixes_and_patterns_and_is_reported(tiny_model) -> None:
    model = tiny_model("ctc")
    frozen = freeze(model, ["encoder.layers.0", "encoder.pre_encode.*.bias"])
    assert "encoder.layers.0.norm_out.weight" in frozen
    assert all(name.startswith(("encoder.layers.0.", "encoder.pre_encode.")) for name in frozen)
    parts = {part.name: part for part in trainable_parts(model)}
    assert 0 < parts["encoder"].trainable < parts["encoder"].total
    assert parts["decoder"].trainable == parts["decoder"].total
    total = parts["in all"]
    assert total.total - total.trainable == sum(
        p.numel() for name, p in model.named_parameters() if name in frozen
    )


def test_a_prefix_is_no_part_of_a_longer_name(tiny_model) -> None:
    model = tiny_model("ctc", n_layers=11)
    assert not any(name.startswith("encoder.layers.10.") for name in freeze(model, ["encoder.layers.1"]))


def test_freezing_what_is_not_there_names_the_nearest_part(tiny_model) -> None:
    with pytest.raises(ConfigError, match=r"encodr.*did you mean 'encoder'"):
        freeze(tiny_model("ctc"), ["encodr"])
    with pytest.raises(ConfigError, match=r"\*\.nothing"):
        freeze(tiny_model("ctc"), ["*.nothing"])


def test_options_change_while_weights_stay(tiny_model) -> None:
    model = tiny_model("ctc")
    changed = adapt(model, {"spec_augment": {"time_masks": 7}, "encoder": {"dropout": 0.3}})
    assert changed.config.spec_augment.time_masks == 7
    assert changed.config.encoder.dropout == 0.3
    assert changed.config.encoder.n_layers == model.config.encoder.n_layers
    for name, tensor in model.state_dict().items():
        assert torch.equal(changed.state_dict()[name], tensor), name


def test_options_that_would_lose_weights_are_refused(tiny_model) -> None:
    with pytest.raises(ConfigError, match="leave the options that shape it"):
        adapt(tiny_model("ctc"), {"encoder": {"d_model": 64}})
    with pytest.raises(ConfigError, match=r"encoder\.layers\.2"):
        adapt(tiny_model("ctc"), {"encoder": {"n_layers": 3}})
    with pytest.raises(ConfigError, match=r"encoder\.layers\.1.* would be lost"):
        adapt(tiny_model("ctc"), {"encoder": {"n_layers": 1}})
    with pytest.raises(ConfigError, match="did you mean dropout"):
        adapt(tiny_model("ctc"), {"encoder": {"dropot": 0.3}})


def test_a_hybrid_becomes_ctc_and_back_with_its_ctc_head(tiny_model) -> None:
    hybrid = tiny_model("hybrid")
    ctc = adapt(hybrid, {}, "ctc")
    assert ctc.heads == ("ctc",)
    again = adapt(
        ctc, {"durations": [0, 1, 2, 3], "prediction": {"hidden": 32}, "joint": {"hidden": 32}}, "hybrid"
    )
    for name, tensor in again.state_dict().items():
        if name.startswith(("encoder.", "ctc_decoder.")):
            assert torch.equal(tensor, hybrid.state_dict()[name]), name
