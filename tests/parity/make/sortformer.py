"""Writes tiny random Sortformer archives and what NeMo 3.0.0 computes with them (run it with NeMo's own Python).

    python tests/parity/make/sortformer.py tests/parity/fixtures/sortformer
    python tests/parity/make/sortformer.py --outputs FOLDER
    python tests/parity/make/sortformer.py --streams FOLDER

The second form restores every archive of a folder with NeMo and writes its offline probabilities beside it; the
third hears the streams of a folder's v2 archive again. Streams are three minutes and shorter; every STRIDE-th frame
is kept, and of each compression of the speaker cache the chosen indices and a projection of its content.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

RATE = 16000
SECONDS = (180.0, 143.37, 95.013)
STRIDE = 7
WIDTH = 24
PROFILES = {
    0.32: (3, 1, 188, 144, 188),
    1.04: (6, 7, 188, 144, 188),
    10.0: (124, 1, 124, 124, 188),
    30.4: (340, 40, 40, 300, 188),
}
MODULES = "nemo.collections.asr.modules"


def sessions() -> tuple[torch.Tensor, torch.Tensor]:
    """Three ragged sessions of up to four tone "voices" with pauses and overlap: signal [3, S], lengths [3]."""
    generator = np.random.default_rng(11)
    lengths = [int(seconds * RATE) for seconds in SECONDS]
    signal = np.zeros((len(lengths), max(lengths)), dtype=np.float32)
    for row, length in zip(signal, lengths):
        start = 0
        while start < length:
            turn = int(generator.uniform(0.4, 6.0) * RATE)
            voice = int(generator.integers(0, 5))
            if voice < 4:
                time = np.arange(min(turn, length - start)) / RATE
                pitch = 90.0 + 55.0 * voice
                wave = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
                envelope = 0.5 + 0.5 * np.sin(2 * np.pi * generator.uniform(2, 5) * time)
                row[start : start + len(time)] += 0.1 * (wave * envelope).astype(np.float32)
            start += int(turn * generator.uniform(0.7, 1.2))
        row[:length] += 0.003 * generator.standard_normal(length).astype(np.float32)
    return torch.from_numpy(signal), torch.tensor(lengths)


def projection(width: int) -> np.ndarray:
    """A fixed direction [width] onto which cached frames are projected."""
    return np.cos(np.arange(width) * 1.7 + 0.3).astype(np.float32)


def configuration(version: str) -> dict:
    """A miniature of the published configuration of `version` (v1 or v2)."""
    mels, streaming = (80, False) if version == "v1" else (128, True)
    widths = {"fc_d_model": WIDTH, "tf_d_model": 16}
    modules = {
        "_target_": f"{MODULES}.sortformer_modules.SortformerModules",
        "num_spks": 4,
        "dropout_rate": 0.5,
        **widths,
    }
    if streaming:
        modules |= {"spkcache_len": 188, "fifo_len": 0, "chunk_len": 188, "spkcache_update_period": 188}
        modules |= {"causal_attn_rate": 0.5, "causal_attn_rc": 7, "scores_add_rnd": 0, "max_index": 99999}
    return {
        "sample_rate": RATE,
        "pil_weight": 0.5,
        "ats_weight": 0.5,
        "max_num_of_spks": 4,
        "streaming_mode": streaming,
        "model_defaults": widths,
        "train_ds": None,
        "validation_ds": None,
        "test_ds": None,
        "preprocessor": {
            "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
            "normalize": "per_feature" if version == "v1" else "NA",
            "window_size": 0.025,
            "sample_rate": RATE,
            "window_stride": 0.01,
            "window": "hann",
            "features": mels,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 0.00001,
        },
        "sortformer_modules": modules,
        "encoder": {
            "_target_": f"{MODULES}.ConformerEncoder",
            "feat_in": mels,
            "feat_out": -1,
            "n_layers": 1 if streaming else 2,
            "d_model": WIDTH,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 4,
            "ff_expansion_factor": 2,
            "self_attention_model": "rel_pos",
            "n_heads": 4,
            "att_context_size": [-1, -1],
            "att_context_style": "regular",
            "xscaling": True,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
            "dropout": 0.1,
            "dropout_pre_encoder": 0.1,
            "dropout_emb": 0.0,
            "dropout_att": 0.1,
        },
        "transformer_encoder": {
            "_target_": f"{MODULES}.transformer.transformer_encoders.TransformerEncoder",
            "num_layers": 2,
            "hidden_size": 16,
            "inner_size": 32,
            "num_attention_heads": 4,
            "attn_score_dropout": 0.5,
            "attn_layer_dropout": 0.5,
            "ffn_dropout": 0.5,
            "hidden_act": "relu",
            "pre_ln": False,
            "pre_ln_final_layer_norm": True,
        },
        "loss": {
            "_target_": "nemo.collections.asr.losses.bce_loss.BCELoss",
            "weight": None,
            "reduction": "mean",
        },
    }


def build(version: str, signal: torch.Tensor, lengths: torch.Tensor):
    """A random model whose probabilities are spread as a trained one's: much silence, mostly one speaker."""
    from nemo.collections.asr.models import SortformerEncLabelModel

    torch.manual_seed(5)
    config = OmegaConf.create(configuration(version))
    config.target = "nemo.collections.asr.models.sortformer_diar_models.SortformerEncLabelModel"
    model = SortformerEncLabelModel(cfg=config).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        model.streaming_mode = False
        seen = {}
        head = model.sortformer_modules.single_hidden_to_spks
        hook = head.register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0]))
        model(audio_signal=signal[:1, : 60 * RATE], audio_signal_length=lengths[:1].clamp(max=60 * RATE))
        hook.remove()
        hidden = seen["x"][0]
        # The outputs follow both ends of the two strongest directions of what the head sees, mostly quiet.
        centred = hidden - hidden.mean(0)
        _, _, directions = torch.linalg.svd(centred, full_matrices=False)
        directions = torch.stack([directions[0], -directions[0], directions[1], -directions[1]])
        scores = centred @ directions.T
        gain = 2.5 / scores.std(0)
        head.weight.copy_(directions * gain[:, None])
        head.bias.copy_(-(hidden @ head.weight.T).quantile(0.72, dim=0))
        model.streaming_mode = config.streaming_mode
    return model


def offline(model, signal: torch.Tensor, lengths: torch.Tensor) -> dict[str, np.ndarray]:
    """Probabilities of each row by itself: NeMo scales by the largest sample of the whole batch."""
    found = {}
    model.streaming_mode, wanted = False, model.streaming_mode
    if wanted:
        # A streaming model hears the samples as they are; only the attention is over all of them.
        model.process_signal, kept = (
            lambda **kw: model.preprocessor(
                input_signal=kw["audio_signal"], length=kw["audio_signal_length"]
            ),
            model.process_signal,
        )
    for row, (samples, length) in enumerate(zip(signal, lengths)):
        probabilities = model(audio_signal=samples[None, :length], audio_signal_length=length[None])
        found[f"offline{row}"] = probabilities[0, ::STRIDE].numpy()
        found[f"offline_mean{row}"] = probabilities[0].double().mean(0).numpy()
    model.streaming_mode = wanted
    if wanted:
        model.process_signal = kept
    return found


def record(model, kept: list) -> None:
    """Keeps what every compression chose and what the cache held after it."""
    modules = model.sortformer_modules
    choose, squeeze = modules._get_topk_indices, modules._compress_spkcache

    def chosen(scores):
        indices, disabled = choose(scores)
        kept.append([torch.where(disabled, -1, indices)])
        return indices, disabled

    def squeezed(*args, **kwargs):
        result = squeeze(*args, **kwargs)
        kept[-1] += [result[0], result[1]]
        return result

    modules._get_topk_indices, modules._compress_spkcache = chosen, squeezed


def streaming(model, signal: torch.Tensor, lengths: torch.Tensor, latency: float, together: bool) -> dict:
    """Outputs of one profile: each row by itself with its cache, or all together and asynchronously."""
    modules = model.sortformer_modules
    names = ("chunk_len", "chunk_right_context", "fifo_len", "spkcache_update_period", "spkcache_len")
    for name, value in zip(names, PROFILES[latency]):
        setattr(modules, name, value)
    modules._check_streaming_parameters()
    model.async_streaming = together
    found = {}

    def heard(samples: torch.Tensor, counts: torch.Tensor, name: str) -> torch.Tensor:
        kept: list = []
        originals = modules._get_topk_indices, modules._compress_spkcache
        record(model, kept)
        probabilities = model(audio_signal=samples, audio_signal_length=counts)
        modules._get_topk_indices, modules._compress_spkcache = originals
        found[f"indices{name}"] = torch.cat([item[0] for item in kept]).numpy().astype(np.int16)
        caches = torch.cat([item[1] for item in kept]).numpy() @ projection(WIDTH)
        found[f"cache{name}"] = caches.astype(np.float32)
        said = torch.cat([item[2] for item in kept]).numpy() @ projection(4)
        found[f"heard{name}"] = said.astype(np.float32)
        return probabilities

    if together:
        probabilities = heard(signal, lengths, f"{latency}_async")
        for row, length in enumerate(lengths):
            frames = -(-int(length) // 160 // 8)
            found[f"async{latency}_{row}"] = probabilities[row, :frames:STRIDE].numpy()
        return found
    for row, (samples, length) in enumerate(zip(signal, lengths)):
        probabilities = heard(samples[None, :length], length[None], f"{latency}_{row}")[0]
        found[f"stream{latency}_{row}"] = probabilities[::STRIDE].numpy()
        found[f"stream_mean{latency}_{row}"] = probabilities.double().mean(0).numpy()
    return found


@torch.no_grad()
def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    signal, lengths = sessions()
    for version in ("v1", "v2"):
        model = build(version, signal, lengths)
        model.save_to(str(folder / f"sortformer_{version}.nemo"))
        np.savez_compressed(folder / f"sortformer_{version}.npz", **offline(model, signal, lengths))
    streams(folder)


@torch.no_grad()
def streams(folder: Path) -> None:
    from nemo.collections.asr.models import SortformerEncLabelModel

    signal, lengths = sessions()
    path = str(folder / "sortformer_v2.nemo")
    model = SortformerEncLabelModel.restore_from(path, map_location="cpu").eval()
    model.streaming_mode = True
    for latency in PROFILES:
        found = streaming(model, signal, lengths, latency, False)
        found |= streaming(model, signal, lengths, latency, True)
        np.savez_compressed(folder / f"stream_{latency}.npz", **found)


@torch.no_grad()
def outputs(folder: Path) -> None:
    from nemo.collections.asr.models import SortformerEncLabelModel

    signal, lengths = sessions()
    for path in sorted(folder.glob("*.nemo")):
        model = SortformerEncLabelModel.restore_from(str(path), map_location="cpu").eval()
        np.savez_compressed(path.with_suffix(".npz"), **offline(model, signal, lengths))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--outputs", action="store_true")
    parser.add_argument("--streams", action="store_true")
    arguments = parser.parse_args()
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(logging.ERROR)
    make = outputs if arguments.outputs else streams if arguments.streams else write
    make(arguments.folder)
