"""The FastConformer encoder on its own: padding, threads, gradients, long input, per-call attention."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from aronnax.collections.asr.encoder import Attention, EncoderOutput, FastConformer, FastConformerConfig
from aronnax.core.errors import ConfigError, OptionError

SMALL = {"feat_in": 16, "n_layers": 2, "d_model": 16, "n_heads": 2, "subsampling_conv_channels": 8}
STREAMING = {
    "causal_downsampling": True,
    "conv_norm_type": "layer_norm",
    "conv_context_size": "causal",
    "att_context_style": "chunked_limited",
    "att_context_size": ((8, 1), (8, 3)),
}
KINDS: dict[str, dict] = {
    "full": {},
    "no_bias": {"use_bias": False, "xscaling": False},
    "streaming": STREAMING,
    "window": {"att_context_size": ((6, 3),)},
    "local": {"self_attention_model": "rel_pos_local_attn", "att_context_size": ((4, 4),)},
    "global": {
        "self_attention_model": "rel_pos_local_attn",
        "att_context_size": ((4, 4),),
        "global_tokens": 2,
        "global_tokens_spacing": 3,
        "global_attn_separate": True,
    },
    "conformer": {"subsampling": "striding", "subsampling_factor": 4, "conv_kernel_size": 31},
    "tied": {"untie_biases": False, "subsampling_factor": 2},
}
NO_DROPOUT = {"dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_att": 0.0}


def _encoder(**changes: object) -> FastConformer:
    torch.manual_seed(0)
    encoder = FastConformer(FastConformerConfig(**{**SMALL, **changes}))
    with torch.no_grad():
        for name, value in encoder.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.is_floating_point() and value.dim() <= 2 and "weight" not in name:
                value.normal_(std=0.3)
    return encoder.eval()


def _batch(lengths: list[int], bands: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(lengths), max(lengths), bands, generator=generator), torch.tensor(lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_batch(kind: str) -> None:
    encoder = _encoder(**KINDS[kind])
    features, lengths = _batch([400, 233, 64, 9, 1])
    features[1, 233:] = float("nan")
    with torch.inference_mode():
        together = encoder(features, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = encoder(features[row : row + 1, :length], lengths[row : row + 1])
            frames = int(alone.lengths)
            assert together.lengths[row] == frames == encoder.output_length(length)
            assert (together.states[row, :frames] - alone.states[0]).abs().max() < 1e-4
            assert together.states[row, frames:].eq(0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_frames_stay_empty_and_finite(kind: str) -> None:
    encoder = _encoder(**KINDS[kind])
    out = encoder(*_batch([50, 0]))
    assert out.lengths.tolist()[1] == 0
    assert out.states.isfinite().all()
    empty = encoder(torch.zeros(2, 0, 16), torch.tensor([0, 0]))
    assert empty.states.shape == (2, 0, 16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_gives_every_parameter_a_finite_gradient(kind: str, checkpointing: bool) -> None:
    encoder = _encoder(
        **KINDS[kind], stochastic_depth_drop_prob=0.3, dropout_emb=0.1, activation_checkpointing=checkpointing
    ).train()
    encoder(*_batch([200, 77, 0])).states.square().mean().backward()
    missing = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        encoder = _encoder(activation_checkpointing=checkpointing).train()
        torch.manual_seed(3)
        encoder(*_batch([120, 80])).states.square().mean().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)


def test_gradients_equal_those_of_double_precision() -> None:
    encoder = _encoder(**NO_DROPOUT).train()
    double = copy.deepcopy(encoder).double()
    features, lengths = _batch([160, 90])
    encoder(features, lengths).states.square().mean().backward()
    double(features.double(), lengths).states.square().mean().backward()
    for (name, one), other in zip(encoder.named_parameters(), double.parameters()):
        scale = other.grad.abs().max() + 1e-6
        assert (one.grad - other.grad).abs().max() < 1e-3 * scale + 1e-6, name


def test_training_and_inference_agree_without_dropout_and_batch_statistics() -> None:
    encoder = _encoder(**NO_DROPOUT, conv_norm_type="layer_norm")
    batch = _batch([200, 90])
    with torch.inference_mode():
        expected = encoder(*batch).states
    torch.testing.assert_close(encoder.train()(*batch).states, expected, atol=1e-5, rtol=1e-4)


def test_local_attention_over_all_frames_equals_full_attention() -> None:
    encoder = _encoder()
    batch = _batch([400, 133])
    full = encoder(*batch).states
    wide = encoder(*batch, attention=Attention("local", 50, 50)).states
    narrow = encoder(*batch, attention=Attention("local", 2, 2)).states
    torch.testing.assert_close(full, wide)
    assert (full - narrow).abs().max() > 1e-3


@pytest.mark.parametrize(
    "attention",
    [
        Attention(),
        Attention("local", 20, 20),
        Attention("local", 20, 7, global_tokens=3, global_tokens_spacing=2),
        Attention("full", 20, 20),
        Attention("full", 12, 3, "chunked_limited"),
        Attention("full", -1, 5, "chunked_limited"),
        Attention("full", 9, -1),
    ],
)
def test_attention_in_blocks_equals_attention_at_once(
    attention: Attention, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aronnax.collections.common.nn import windows

    encoder = _encoder(subsampling_factor=2)
    batch = _batch([1100, 700])
    blocks = []
    plan = windows.plan_blocks

    def spy(*args: object) -> object:
        blocks.append(plan(*args))
        return blocks[-1]

    monkeypatch.setattr("aronnax.collections.common.nn.attention.plan_blocks", spy)
    monkeypatch.setattr(windows, "_block_size", lambda attention, rows, frames, most: frames)
    at_once = encoder(*batch, attention=attention).states
    monkeypatch.setattr(windows, "_block_size", lambda attention, *sizes: 16 * attention.chunk)
    in_blocks = encoder(*batch, attention=attention).states
    assert len(blocks[0]) == 1
    assert len(blocks[1]) > 5
    torch.testing.assert_close(in_blocks, at_once, atol=1e-5, rtol=1e-4)


def test_a_per_call_attention_leaves_no_trace() -> None:
    encoder = _encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    batch = _batch([300, 100])
    with torch.inference_mode():
        expected = encoder(*batch).states
        encoder(*batch, attention=Attention("local", 3, 3))
        assert torch.equal(encoder(*batch).states, expected)
    assert before.keys() == encoder.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_inference_sees_weights_that_changed_in_place() -> None:
    encoder = _encoder()
    batch = _batch([200])
    with torch.no_grad():
        first = encoder(*batch).states
        for name, value in encoder.state_dict().items():
            if name.endswith(("linear_pos.weight", "running_mean", "depthwise_conv.weight")):
                value.add_(0.2 * torch.randn(value.shape))
        changed = encoder(*batch).states
        expected = copy.deepcopy(encoder)(*batch).states
    assert torch.equal(changed, expected)
    assert (first - changed).abs().max() > 1e-3


def test_inference_sees_weights_that_changed_behind_torchs_back_after_eval() -> None:
    encoder = _encoder()
    batch = _batch([200])
    with torch.no_grad():
        encoder(*batch)
        encoder.layers[0].self_attn.linear_pos.weight.data.mul_(2.0)
        assert torch.equal(encoder.eval()(*batch).states, copy.deepcopy(encoder)(*batch).states)


def test_loading_with_assignment_keeps_shared_biases_shared() -> None:
    encoder = _encoder(untie_biases=False)
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    with torch.device("meta"):
        other = FastConformer(encoder.config)
    other.load_state_dict(state, assign=True)
    assert other.layers[0].self_attn.pos_bias_u is other.layers[1].self_attn.pos_bias_u
    batch = _batch([100])
    assert torch.equal(other.eval()(*batch).states, encoder(*batch).states)


def test_threads_get_the_serial_results() -> None:
    encoder = _encoder(**KINDS["full"])
    batches = [_batch([40 * (i % 7 + 1), 33]) for i in range(24)]
    with torch.inference_mode():
        serial = [_encoder()(*batch).states for batch in batches]

    def run(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        with torch.inference_mode():
            return encoder(*batch).states

    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(serial, pool.map(run, batches)):
            torch.testing.assert_close(one, other)


def test_subsampling_in_chunks_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from aronnax.collections.asr.encoder import subsampling

    for kind in ("full", "streaming", "conformer"):
        for frames in (640, 641, 647, 655):
            encoder = _encoder(**KINDS[kind])
            batch = _batch([frames])
            monkeypatch.setattr(subsampling, "CHUNK", 10**6)
            whole, lengths = encoder.pre_encode(*batch)
            monkeypatch.setattr(subsampling, "CHUNK", 7)
            torch.testing.assert_close(encoder.pre_encode(*batch)[0], whole, atol=1e-5, rtol=1e-4)
            assert whole.shape[1] == int(lengths) == encoder.output_length(frames)


def test_masked_batches_equal_rows_by_themselves() -> None:
    for kind in ("full", "streaming", "conformer"):
        pre_encode = _encoder(**KINDS[kind]).pre_encode
        features, lengths = _batch([203, 64, 8, 1])
        rows, out_lengths = pre_encode(features, lengths)
        # The way taken on an accelerator: one masked batch.
        batch = pre_encode._project(pre_encode.conv(features[:, None], lengths))
        for row, length in enumerate(out_lengths.tolist()):
            torch.testing.assert_close(batch[row, :length], rows[row, :length], atol=1e-5, rtol=1e-4)


def test_all_layers_end_with_the_states() -> None:
    encoder = _encoder()
    out = encoder(*_batch([90, 30]), all_layers=True)
    assert isinstance(out, EncoderOutput)
    assert len(out.layers or ()) == 2
    assert torch.equal(out.layers[-1], out.states)


def test_training_draws_among_the_contexts() -> None:
    encoder = _encoder(**STREAMING, att_context_probs=(0.5, 0.5)).train()
    assert {(encoder._attention().left, encoder._attention().right) for _ in range(50)} >= {(8, 1), (8, 3)}
    assert encoder.eval()._attention().right == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_give_about_the_same_states(dtype: torch.dtype) -> None:
    encoder = _encoder()
    batch = _batch([200, 90])
    with torch.inference_mode():
        expected = encoder(*batch).states
        got = copy.deepcopy(encoder).to(dtype)(batch[0].to(dtype), batch[1]).states
    assert got.dtype == dtype
    assert (got.float() - expected).norm() / expected.norm() < (0.03 if dtype == torch.bfloat16 else 1e-4)


def test_autocast_trains() -> None:
    encoder = _encoder().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = encoder(*_batch([200, 90])).states
    states.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"subsampling_factor": 6}, "subsampling_factor"),
        ({"n_heads": 3}, "d_model"),
        ({"conv_kernel_size": 8}, "conv_kernel_size"),
        ({"conv_context_size": (2, 2)}, "conv_context_size"),
        ({"att_context_size": ()}, "att_context_size"),
        ({"att_context_style": "chunked_limited", "att_context_size": ((7, 1),)}, "att_context_size"),
        ({"self_attention_model": "rel_pos_local_attn"}, "att_context_size"),
        ({"att_context_probs": (0.5, 0.5)}, "att_context_probs"),
        ({"stochastic_depth_drop_prob": 1.0}, "stochastic_depth_drop_prob"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_named(changes: dict, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        FastConformerConfig(**{**SMALL, **changes})


@pytest.mark.parametrize(
    "options", [("local",), ("local", 0, 0), ("near", 1, 1), ("full", -2, 0), ("full", 1, 1, "odd")]
)
def test_an_attention_that_cannot_be_is_refused(options: tuple) -> None:
    with pytest.raises(OptionError):
        Attention(*options)


@pytest.mark.slow
def test_hours_of_input_stay_in_bounded_memory() -> None:
    import resource

    encoder = _encoder(n_layers=1, feat_in=80, d_model=64, n_heads=4, subsampling_conv_channels=64)
    frames = 4 * 3600 * 100
    features = torch.randn(1, frames, 80)
    with torch.inference_mode():
        encoder(features[:, :50_000], torch.tensor([50_000]), attention=Attention("local", 128, 128))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        out = encoder(features, torch.tensor([frames]), attention=Attention("local", 128, 128))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert out.states.shape == (1, 180_000, 64)
    # States of 46 MB, the largest inner ones four times that.
    assert grown < 900, f"{grown} MiB"
