"""The three models: tensor names, heads, losses, independence of neighbours."""

from __future__ import annotations

import pytest
import torch

from aronnax.collections.asr.batch import SpeechBatch
from aronnax.collections.asr.ctc.loss import ctc_loss
from aronnax.collections.asr.ctc.loss import losses as ctc_losses
from aronnax.collections.asr.ctc.model import CTCModel, CTCModelConfig
from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.asr.hybrid.loss import losses as hybrid_losses
from aronnax.collections.asr.hybrid.model import HybridModel, HybridModelConfig
from aronnax.collections.asr.transducer.joint import JointConfig
from aronnax.collections.asr.transducer.loss import losses as transducer_losses
from aronnax.collections.asr.transducer.model import TransducerModel, TransducerModelConfig
from aronnax.collections.asr.transducer.prediction import PredictionConfig
from aronnax.core.errors import ConfigError, OptionError

ENCODER = FastConformerConfig(n_layers=1, d_model=16, n_heads=2, subsampling_conv_channels=8, dropout=0.0)
SMALL = {"vocab_size": 9, "encoder": ENCODER, "prediction": PredictionConfig(hidden=12)}
DURATIONS = (0, 1, 2)


def make(kind):
    torch.manual_seed(0)
    joint = JointConfig(hidden=14, dropout=0.2)
    if kind == "ctc":
        return CTCModel(CTCModelConfig(vocab_size=9, encoder=ENCODER))
    if kind == "rnnt":
        return TransducerModel(TransducerModelConfig(**SMALL, joint=joint))
    if kind == "tdt":
        return TransducerModel(TransducerModelConfig(**SMALL, joint=joint, durations=DURATIONS))
    return HybridModel(HybridModelConfig(**SMALL, joint=joint, durations=DURATIONS))


def batch():
    return SpeechBatch(
        torch.randn(3, 16000),
        torch.tensor([16000, 9000, 12000]),
        torch.randint(0, 9, (3, 4)),
        torch.tensor([4, 1, 0]),
        [""] * 3,
        [""] * 3,
    )


@pytest.mark.parametrize(
    ("kind", "heads"),
    [("ctc", ("ctc",)), ("rnnt", ("rnnt",)), ("tdt", ("tdt",)), ("hybrid", ("tdt", "ctc"))],
)
def test_every_head_decodes_and_another_is_refused(kind, heads):
    model = make(kind).eval()
    assert model.heads == heads
    states, lengths = torch.randn(2, 12, 16), torch.tensor([12, 7])
    for head in heads:
        hypotheses, carry = model.decode(states, lengths, head=head)
        assert len(hypotheses) == 2
        model.decode(states, lengths, head=head, carry=carry)
    with pytest.raises(OptionError, match="beam"):
        model.decode(states, lengths, head="beam")


def test_tensor_names_are_those_of_the_checkpoints():
    names = {name: tuple(value.shape) for name, value in make("hybrid").state_dict().items()}
    assert names["ctc_decoder.decoder_layers.0.weight"] == (10, 16, 1)
    assert names["decoder.prediction.embed.weight"] == (10, 12)
    assert names["decoder.prediction.dec_rnn.lstm.weight_ih_l0"] == (48, 12)
    assert names["joint.joint_net.2.weight"] == (13, 14)
    assert make("ctc").state_dict()["decoder.decoder_layers.0.weight"].shape == (10, 16, 1)
    plain = TransducerModel(TransducerModelConfig(**SMALL, joint=JointConfig(hidden=14, dropout=0.0)))
    assert "joint.joint_net.1.weight" in plain.state_dict()


@pytest.mark.parametrize(
    ("kind", "losses"),
    [("ctc", ctc_losses), ("rnnt", transducer_losses), ("tdt", transducer_losses), ("hybrid", hybrid_losses)],
)
def test_every_parameter_learns_from_the_losses(kind, losses):
    model, data = make(kind), batch()
    output = model.encode(data.signal, data.signal_lengths)
    values = losses(model, output, data)
    assert tuple(values) == model.heads
    torch.stack(list(values.values())).sum().backward()
    # Two frames of a key's shift cancel in the softmax: that bias has no gradient in any attention.
    silent = [n for n, p in model.named_parameters() if p.grad is None and "linear_k.bias" not in n]
    assert not silent
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_loss_of_a_row_does_not_depend_on_its_neighbours():
    model, data = make("hybrid").eval(), batch()
    output = model.encode(data.signal, data.signal_lengths)
    together = transducer_losses(model, output, data, reduction="none")["tdt"]
    ctc = ctc_loss(
        model.ctc_decoder(output.states), output.lengths, data.tokens, data.token_lengths, reduction="none"
    )
    for row in range(3):
        samples, tokens = int(data.signal_lengths[row]), int(data.token_lengths[row])
        alone = SpeechBatch(
            data.signal[row : row + 1, :samples],
            data.signal_lengths[row : row + 1],
            data.tokens[row : row + 1, :tokens],
            data.token_lengths[row : row + 1],
            [""],
            [""],
        )
        own = model.encode(alone.signal, alone.signal_lengths)
        values = hybrid_losses(model, own, alone)
        torch.testing.assert_close(values["tdt"], together[row], atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(values["ctc"], ctc[row], atol=1e-4, rtol=1e-5)


def test_impossible_durations_are_refused():
    with pytest.raises(ConfigError, match="advance"):
        TransducerModelConfig(vocab_size=3, durations=(0,))
    with pytest.raises(ConfigError, match="durations"):
        TransducerModelConfig(vocab_size=3, durations=(1, 1))
