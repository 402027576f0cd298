"""Writes tiny random `.nemo` archives and their outputs with NeMo 3.0.0 (run it with NeMo's own Python).

    python tests/parity/make/nemo_archives.py tests/parity/fixtures/nemo
    python tests/parity/make/nemo_archives.py --outputs FOLDER

The second form restores every archive of a folder with NeMo and writes beside it what it computes for the same
recordings.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

SAMPLE_RATE = 16000
TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "how vexingly quick daft zebras jump",
    "sphinx of black quartz judge my vow",
    "two driven jocks help fax my big quiz",
]
MODULES = "nemo.collections.asr.modules"
LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]


def recordings() -> tuple[torch.Tensor, torch.Tensor]:
    """Three ragged rows of tones and noise: signal [3, S] and lengths [3]."""
    generator = np.random.default_rng(7)
    lengths = [23000, 16160, 9999]
    signal = np.zeros((3, max(lengths)), dtype=np.float32)
    for row, length in zip(signal, lengths):
        time = np.arange(length) / SAMPLE_RATE
        sweep = np.sin(2 * np.pi * (200 + generator.uniform(50, 900) * time) * time)
        row[:length] = 0.3 * sweep + 0.05 * generator.standard_normal(length)
    return torch.from_numpy(signal), torch.tensor(lengths)


def train_tokenizer(folder: Path, size: int, lines: list[str]) -> dict[str, str]:
    """A small SentencePiece model without normalisation tables, in NeMo's folder layout."""
    import sentencepiece

    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 20),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=size,
        model_type="bpe",
        bos_id=-1,
        eos_id=-1,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    pieces = [line.split("\t")[0] for line in (folder / "tokenizer.vocab").read_text().splitlines()]
    (folder / "vocab.txt").write_text("\n".join(pieces[1:]) + "\n")
    return {"dir": str(folder), "type": "bpe"}


def common(encoder: dict, normalize: str = "per_feature") -> dict:
    base = {
        "_target_": f"{MODULES}.ConformerEncoder",
        "feat_in": 16,
        "feat_out": -1,
        "n_layers": 2,
        "d_model": 16,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 8,
        "n_heads": 2,
        "self_attention_model": "rel_pos",
        "att_context_size": [-1, -1],
        "xscaling": False,
        "conv_kernel_size": 9,
    }
    return {
        "sample_rate": SAMPLE_RATE,
        "preprocessor": {
            "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": SAMPLE_RATE,
            "normalize": normalize,
            "window_size": 0.025,
            "window_stride": 0.01,
            "features": 16,
            "n_fft": 512,
            "pad_to": 0,
        },
        "spec_augment": {
            "_target_": f"{MODULES}.SpectrogramAugmentation",
            "freq_masks": 2,
            "time_masks": 3,
            "freq_width": 4,
            "time_width": 0.05,
        },
        "encoder": {**base, **encoder},
        "optim": {"name": "adamw", "lr": 1e-3},
    }


def ctc_head(vocabulary: list[str]) -> dict:
    return {
        "_target_": f"{MODULES}.ConvASRDecoder",
        "feat_in": 16,
        "num_classes": len(vocabulary) or -1,
        "vocabulary": vocabulary,
    }


def transducer(durations: list[int], layers: int = 1, labels: list[str] | None = None) -> dict:
    loss = {"loss_name": "default"}
    if durations:
        loss = {"loss_name": "tdt", "tdt_kwargs": {"durations": durations, "sigma": 0.02, "omega": 0.1}}
    return {
        "model_defaults": {
            "enc_hidden": 16,
            "pred_hidden": 12,
            "joint_hidden": 20,
            "tdt_durations": durations,
        },
        "labels": labels or [],
        "decoder": {
            "_target_": f"{MODULES}.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {"pred_hidden": 12, "pred_rnn_layers": layers, "t_max": None, "dropout": 0.2},
        },
        "joint": {
            "_target_": f"{MODULES}.RNNTJoint",
            "log_softmax": None,
            "num_extra_outputs": len(durations),
            "jointnet": {"joint_hidden": 20, "activation": "relu", "dropout": 0.2},
        },
        "decoding": {
            "strategy": "greedy_batch",
            "model_type": "tdt" if durations else "rnnt",
            **({"durations": durations} if durations else {}),
            "greedy": {"max_symbols": 5, "use_cuda_graph_decoder": False},
        },
        "loss": loss,
    }


def build(folder: Path) -> dict:
    """Every family in miniature: {name: model}."""
    from nemo.collections.asr import models

    bpe = train_tokenizer(folder / "bpe", 60, TEXTS)
    languages = {
        "en": train_tokenizer(folder / "en", 45, TEXTS[:3]),
        "de": train_tokenizer(folder / "de", 40, ["zwei boxkaempfer jagen eva quer durch sylt", *TEXTS[3:]]),
    }
    aggregate = {"type": "agg", "langs": languages}
    streaming = {
        "causal_downsampling": True,
        "att_context_size": [[4, 1], [6, 2]],
        "att_context_style": "chunked_limited",
        "conv_context_size": "causal",
        "conv_norm_type": "layer_norm",
        "xscaling": True,
    }
    local = {
        "self_attention_model": "rel_pos_local_attn",
        "att_context_size": [4, 4],
        "global_tokens": 1,
        "use_bias": False,
    }
    conformer = {"subsampling": "striding", "subsampling_factor": 4, "conv_kernel_size": 31, "xscaling": True}
    head = {"ctc_loss_weight": 0.3, "decoder": ctc_head([]), "decoding": {"strategy": "greedy_batch"}}
    tdt = [0, 1, 2, 3, 4]
    recipes = {
        "ctc_bpe": (models.EncDecCTCModelBPE, {**common({}), "tokenizer": bpe, "decoder": ctc_head([])}),
        "ctc_local": (models.EncDecCTCModelBPE, {**common(local), "tokenizer": bpe, "decoder": ctc_head([])}),
        "ctc_char": (models.EncDecCTCModel, {**common(conformer), "decoder": ctc_head(LABELS)}),
        "rnnt_bpe": (models.EncDecRNNTBPEModel, {**common({}), "tokenizer": bpe, **transducer([], 2)}),
        "rnnt_char": (models.EncDecRNNTModel, {**common({}), **transducer([], 1, LABELS)}),
        "rnnt_agg": (models.EncDecRNNTBPEModel, {**common({}), "tokenizer": aggregate, **transducer([])}),
        "tdt_bpe": (models.EncDecRNNTBPEModel, {**common({}), "tokenizer": bpe, **transducer(tdt, 2)}),
        "hybrid_bpe": (
            models.EncDecHybridRNNTCTCBPEModel,
            {**common({}), "tokenizer": bpe, **transducer(tdt), "aux_ctc": head},
        ),
        "hybrid_streaming": (
            models.EncDecHybridRNNTCTCBPEModel,
            {**common(streaming, "NA"), "tokenizer": bpe, **transducer([]), "aux_ctc": head},
        ),
    }
    made = {}
    for seed, (name, (cls, config)) in enumerate(recipes.items()):
        torch.manual_seed(seed)
        made[name] = shake(cls(OmegaConf.create(config)))
    return made


@torch.no_grad()
def shake(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights that decide clearly: no ties between tokens, texts that vary from frame to frame."""
    model.eval()
    for tensor in model.parameters():
        if tensor.ndim == 1:
            tensor.add_(0.1 * torch.randn_like(tensor))
    for name, tensor in model.named_buffers():
        if name.endswith("running_mean"):
            tensor.copy_(0.1 * torch.randn_like(tensor))
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand_like(tensor))
    states = encode(model)[1].transpose(1, 2).flatten(0, 1)
    for head in (getattr(model, "ctc_decoder", None), model.decoder):
        if hasattr(head, "decoder_layers"):
            spread(head.decoder_layers[0], states)
    if hasattr(model, "joint"):
        blank = model.joint.num_classes_with_blank - 1 - model.joint.num_extra_outputs
        model.decoder.prediction["embed"].weight.normal_()
        model.decoder.prediction["embed"].weight[blank].zero_()
        for tensor in model.decoder.prediction["dec_rnn"].parameters():
            tensor.mul_(2.0)
        spread(model.joint.enc, states)
        tokens = torch.randint(blank, (1, 200))
        history = model.decoder(targets=tokens, target_length=torch.tensor([200]))[0]
        spread(model.joint.pred, history[0].T)
        # What is heard decides more than what was said.
        model.joint.pred.weight.mul_(0.5)
        model.joint.pred.bias.mul_(0.5)
        output = model.joint.joint_net[-1]
        output.weight.normal_()
        output.bias.zero_()
        scores = model.joint.joint(states[None, ::3], history.transpose(1, 2)[:, ::4])[0].flatten(0, 1)
        output.bias.copy_(-scores.mean(0))
        # Blank wins in about a quarter of the cases.
        scores -= scores.mean(0)
        output.bias[blank] += (scores[:, :blank].amax(1) - scores[:, blank]).quantile(0.25)
    return model


def spread(layer: torch.nn.Module, inputs: torch.Tensor) -> None:
    """Weights whose outputs over `inputs` [N, D] have mean zero and vary."""
    weight = torch.randn(layer.weight.shape[:2]) / inputs.std(0) / inputs.shape[1] ** 0.5
    layer.weight.copy_(weight.view_as(layer.weight))
    layer.bias.copy_(-weight @ inputs.mean(0))


def encode(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [B, F, T], encoder states [B, D, T] and their lengths for the recordings."""
    model.preprocessor.featurizer.dither = 0.0
    model.preprocessor.featurizer.pad_to = 0
    signal, lengths = recordings()
    features, feature_lengths = model.preprocessor(input_signal=signal, length=lengths)
    return features, *model.encoder(audio_signal=features, length=feature_lengths)


@torch.no_grad()
def outputs(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """What NeMo computes for the recordings: features, encoder, head outputs, texts."""
    model.eval()
    features, encoded, encoded_lengths = encode(model)
    found = {
        "features": features.transpose(1, 2),
        "encoded": encoded.transpose(1, 2),
        "lengths": encoded_lengths,
    }
    head = getattr(model, "ctc_decoder", None) or (None if hasattr(model, "joint") else model.decoder)
    if head is not None:
        decoding = getattr(model, "ctc_decoding", None) or model.decoding
        found["ctc"] = head(encoder_output=encoded)
        found["ctc_texts"] = texts(decoding.ctc_decoder_predictions_tensor(found["ctc"], encoded_lengths))
    if hasattr(model, "joint"):
        targets = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [3, 1, 2, 9]])
        states, _, _ = model.decoder(targets=targets, target_length=torch.tensor([4, 4, 4]))
        found["prediction"] = states.transpose(1, 2)
        found["joint"] = model.joint.joint(encoded.transpose(1, 2)[:, :8], states.transpose(1, 2))
        found["texts"] = texts(
            model.decoding.rnnt_decoder_predictions_tensor(encoded, encoded_lengths, return_hypotheses=False)
        )
    return {key: np.asarray(value) for key, value in found.items()}


def texts(hypotheses: list) -> list[str]:
    return [getattr(hypothesis, "text", hypothesis) for hypothesis in hypotheses]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", action="store_true", help="restore the archives there are")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder
    logging.disable(logging.WARNING)
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(logging.ERROR)
    if arguments.outputs:
        from nemo.core import ModelPT

        for archive in sorted(folder.glob("*.nemo")):
            model = ModelPT.restore_from(str(archive), map_location="cpu")
            found = outputs(model)
            signal, lengths = recordings()
            rows = [row[:length].numpy() for row, length in zip(signal, lengths)]
            found["transcribed"] = np.asarray(texts(model.transcribe(rows, batch_size=3, verbose=False)))
            np.savez_compressed(archive.with_suffix(".npz"), **found)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, model in build(Path(scratch)).items():
            model.save_to(str(folder / f"{name}.nemo"))
            np.savez_compressed(folder / f"{name}.npz", **outputs(model))
            print(name, (folder / f"{name}.nemo").stat().st_size)


if __name__ == "__main__":
    main()
