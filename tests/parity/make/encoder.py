"""Writes tests/parity/fixtures/encoder.npz with NeMo's own ConformerEncoder; run in an environment with NeMo.

    python tests/parity/make/encoder.py

Weights and inputs are drawn by numpy's frozen RandomState from the tensor's name, so the fixture holds only
the configurations, the names and shapes of NeMo's parameters, and what NeMo made of them.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch

SMALL = {
    "feat_in": 80, "n_layers": 2, "d_model": 16, "n_heads": 4, "subsampling": "dw_striding",
    "subsampling_factor": 8, "subsampling_conv_channels": 8, "conv_kernel_size": 9,
}  # fmt: skip
STREAMING = {
    "causal_downsampling": True, "conv_norm_type": "layer_norm", "conv_context_size": "causal",
    "att_context_style": "chunked_limited",
}  # fmt: skip
LOCAL = {"self_attention_model": "rel_pos_local_attn", "att_context_size": [[5, 5]]}

# name: (changes to SMALL, what else is done with NeMo's encoder)
CASES: dict[str, tuple[dict, dict]] = {
    "fastconformer_large": ({"n_layers": 3}, {"layers": True}),
    "parakeet_ctc": ({"xscaling": False}, {}),
    "parakeet_tdt_v3": ({"feat_in": 128, "use_bias": False, "xscaling": False}, {}),
    "canary": ({"feat_in": 128, "xscaling": False}, {}),
    "parakeet_tdt_ctc_1b": ({**LOCAL, "global_tokens": 1, "xscaling": False}, {}),
    "global_separate": ({**LOCAL, "global_tokens": 1, "global_attn_separate": True}, {}),
    "local": (LOCAL, {}),
    "local_tied": ({**LOCAL, "untie_biases": False}, {}),
    "local_override": ({}, {"change": [6, 6]}),
    "streaming_multi": ({**STREAMING, "att_context_size": [[8, 1], [8, 3], [8, 0]]}, {}),
    "streaming_multi_zero": ({**STREAMING, "att_context_size": [[8, 1], [8, 0]]}, {"context": [8, 0]}),
    "streaming_no_bias": ({**STREAMING, "att_context_size": [[6, 2]], "use_bias": False, "feat_in": 128}, {}),
    "streaming_unlimited_left": ({**STREAMING, "att_context_size": [[-1, 3]]}, {}),
    "chunked_full_first": ({**STREAMING, "att_context_size": [[-1, -1], [8, 1]]}, {}),
    "causal_batch_norm": ({"causal_downsampling": True, "conv_context_size": "causal"}, {}),
    "regular_window": ({"att_context_size": [[6, 3]]}, {}),
    "regular_left": ({"att_context_size": [[7, -1]]}, {}),
    "regular_causal": ({"att_context_size": [[-1, 0]]}, {}),
    "conformer": (
        {
            "subsampling": "striding",
            "subsampling_factor": 4,
            "conv_kernel_size": 31,
            "subsampling_conv_channels": -1,
        },
        {},
    ),
    "conformer_causal": ({**STREAMING, "subsampling": "striding", "subsampling_factor": 4}, {}),
    "tied_biases": ({"untie_biases": False}, {}),
    "four_times": ({"subsampling_factor": 4}, {}),
    "twice": ({"subsampling_factor": 2}, {}),
    "conv_context": ({"conv_context_size": [6, 2]}, {}),
    "beyond_5000": (
        {"feat_in": 16, "subsampling_factor": 2, "n_layers": 1, "d_model": 8, "n_heads": 2},
        {"lengths": [10402, 600], "every": 401},
    ),
    "training": (
        {"dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_att": 0.0, "dropout_emb": 0.0},
        {"train": True},
    ),
}
LENGTHS = [211, 140, 77, 9, 1]


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of the parameter or input `name`; the same wherever they are drawn."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        return np.exp(0.5 * noise).astype(np.float32)
    if name.endswith(("bias", "running_mean", "pos_bias_u", "pos_bias_v")):
        return (0.3 * noise).astype(np.float32)
    if "norm" in name:
        return (1.0 + 0.2 * noise).astype(np.float32)
    if len(shape) < 2 or name == "features":
        return noise.astype(np.float32)
    return (1.2 * noise / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def fill(encoder: torch.nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Gives all parameters and statistics their drawn values; returns names and shapes."""
    state = encoder.state_dict()
    names = []
    for name, value in state.items():
        if value.dtype == torch.int64:
            continue
        drawn_as = name
        if getattr(encoder, "shares_biases", False) and name.endswith(("pos_bias_u", "pos_bias_v")):
            drawn_as = name.replace(name.split(".")[1], "0", 1)
        state[name] = torch.from_numpy(draw(drawn_as, tuple(value.shape)))
        names.append((name, tuple(value.shape)))
    encoder.load_state_dict(state)
    return names


def run(changes: dict, extra: dict) -> tuple[dict, dict[str, np.ndarray]]:
    """One case: what it was, and the arrays NeMo returned."""
    from nemo.collections.asr.modules import ConformerEncoder
    from omegaconf import OmegaConf

    config = {**SMALL, **changes}
    options = dict(config)
    if options.get("self_attention_model") == "rel_pos_local_attn":
        options["att_context_size"] = options["att_context_size"][0]
    encoder = ConformerEncoder(**options)
    encoder.shares_biases = (
        not config.get("untie_biases", True) and config.get("self_attention_model", "rel_pos") == "rel_pos"
    )
    names = fill(encoder)
    if "change" in extra:
        defaults = {"dropout": 0.1, "dropout_pre_encoder": 0.1, "dropout_emb": 0.0, "dropout_att": 0.1}
        encoder._cfg = OmegaConf.create({**defaults, "pos_emb_max_len": 5000, **options})
        encoder.change_attention_model("rel_pos_local_attn", extra["change"])
    if "context" in extra:
        encoder.set_default_att_context_size(extra["context"])
    # After the change of attention: NeMo's new modules start in training mode, with dropout.
    encoder.train(bool(extra.get("train")))
    lengths = extra.get("lengths", LENGTHS)
    features = torch.from_numpy(draw("features", (len(lengths), max(lengths), config["feat_in"])))
    captured: list[torch.Tensor] = []
    if extra.get("layers"):
        for layer in encoder.layers:
            layer.register_forward_hook(lambda module, given, out: captured.append(out))
    with torch.no_grad():
        states, out_lengths = encoder(audio_signal=features.transpose(1, 2), length=torch.tensor(lengths))
    every = extra.get("every", 1)
    arrays = {"states": states.transpose(1, 2)[:, ::every].numpy(), "lengths": out_lengths.numpy()}
    for i, layer_states in enumerate(captured):
        arrays[f"layer{i}"] = layer_states.numpy()
    if extra.get("train"):
        state = encoder.state_dict()
        for kind in ("running_mean", "running_var"):
            arrays[kind] = state[f"layers.0.conv.batch_norm.{kind}"].numpy()
    return {"config": config, "extra": {**extra, "lengths": lengths}, "names": names}, arrays


def main() -> None:
    """Runs every case and writes the fixture."""
    described, arrays = {}, {}
    for name, (changes, extra) in CASES.items():
        described[name], outputs = run(changes, extra)
        arrays.update({f"{name}/{key}": value for key, value in outputs.items()})
    target = Path(__file__).resolve().parents[1] / "fixtures" / "encoder.npz"
    np.savez_compressed(target, cases=np.array(json.dumps(described)), **arrays)
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB, {len(CASES)} cases")


if __name__ == "__main__":
    main()
