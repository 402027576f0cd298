"""NeMo's side of the transcription and training-step benchmarks; runs in NeMo's environment."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import serve

VOCABULARY = 1024
DURATIONS = [0, 1, 2, 3, 4]
# Tokens a second of audio, about that of English speech, so that decoding weighs what it weighs in real use.
TOKEN_RATE = 3.0

_model: Any = None


def _tokenizer(folder: Path) -> None:
    """Train a 1024-piece SentencePiece model on invented words, with the files NeMo expects."""
    import sentencepiece

    rng = random.Random(0)
    syllables = [a + b + c for a in "bdfghklmnprstvz" for b in "aeiou" for c in ("", "n", "r", "st", "l")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(4000)]
    text = folder / "text.txt"
    text.write_text("\n".join(" ".join(rng.choices(words, k=12)) for _ in range(4000)), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=VOCABULARY, model_type="bpe"
    )
    pieces = [
        line.split("\t")[0] for line in (folder / "tokenizer.vocab").read_text(encoding="utf-8").splitlines()
    ]
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")


def _config(tokenizer: Path, head: str) -> dict[str, Any]:
    """FastConformer-L (17 x 512) with a TDT or RNN-T head, as the public 110 M checkpoints have it."""
    modules = "nemo.collections.asr.modules."
    durations = DURATIONS if head == "tdt" else []
    return {
        "sample_rate": 16000,
        "preprocessor": {
            "_target_": modules + "AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
            "dither": 1e-5,
            "pad_to": 0,
        },
        "tokenizer": {"dir": str(tokenizer), "type": "bpe"},
        "encoder": {
            "_target_": modules + "ConformerEncoder",
            "feat_in": 80,
            "n_layers": 17,
            "d_model": 512,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 256,
            "self_attention_model": "rel_pos",
            "n_heads": 8,
            "xscaling": True,
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
        },
        "model_defaults": {
            "enc_hidden": 512,
            "pred_hidden": 640,
            "joint_hidden": 640,
            "tdt_durations": durations,
            "num_tdt_durations": len(durations),
        },
        "decoder": {
            "_target_": modules + "RNNTDecoder",
            "blank_as_pad": True,
            "prednet": {"pred_hidden": 640, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.2},
        },
        "joint": {
            "_target_": modules + "RNNTJoint",
            "log_softmax": None,
            "fuse_loss_wer": True,
            "fused_batch_size": 4,
            "num_extra_outputs": len(durations),
            "jointnet": {
                "joint_hidden": 640,
                "activation": "relu",
                "dropout": 0.2,
                "encoder_hidden": 512,
                "pred_hidden": 640,
            },
        },
        "decoding": {
            "strategy": "greedy_batch",
            **({"model_type": "tdt", "durations": durations} if durations else {}),
            "greedy": {"max_symbols": 10},
        },
        # NeMo's fast TDT loss needs CUDA; on a CPU its plain PyTorch one is all there is.
        "loss": (
            {"loss_name": "tdt_pytorch", "tdt_pytorch_kwargs": {"durations": durations, "sigma": 0.02}}
            if durations
            else {"loss_name": "warprnnt_numba", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0}}
        ),
        "spec_augment": {
            "_target_": modules + "SpectrogramAugmentation",
            "freq_masks": 2,
            "time_masks": 10,
            "freq_width": 27,
            "time_width": 0.05,
        },
    }


def build(path: str, clips: str, head: str = "tdt") -> float:
    """Make the model with seeded random weights, keep it, and write it to `path` as a .nemo archive.

    With random weights every frame would emit as many tokens as it may. The bias of the blank is therefore set, by
    bisection on the .npy file `clips`, to where the model emits `TOKEN_RATE` tokens a second;
    the rate reached is returned.
    """
    global _model
    from nemo.collections.asr.models import EncDecRNNTBPEModel
    from omegaconf import OmegaConf

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        _tokenizer(Path(folder))
        _model = EncDecRNNTBPEModel(cfg=OmegaConf.create(_config(Path(folder), head))).eval()
        if head == "tdt":
            # NeMo's plain TDT loss moves its tables to a GPU; here they stay where they are. It is also built with
            # the durations counted as tokens, so that its blank would lie beyond the scores.
            torch.Tensor.cuda = lambda self, *_, **__: self
            _model.loss._loss.blank = VOCABULARY
        rate = _calibrate(torch.from_numpy(np.load(clips)[:4]))
        _model.save_to(path)
    return rate


@torch.inference_mode()
def _calibrate(signal: torch.Tensor) -> float:
    # Larger output weights make frames differ more, as they do in a trained model.
    _model.joint.joint_net[-1].weight.mul_(8.0)
    encoded, lengths = _model(
        input_signal=signal, input_signal_length=torch.full((len(signal),), signal.shape[1])
    )
    bias = _model.joint.joint_net[-1].bias
    # transformers does not bound the tokens of a frame, and a random model would repeat some for ever: a token
    # without duration is therefore made improbable, as it is in trained models.
    bias[VOCABULARY + 1 : VOCABULARY + 2] -= 100.0
    seconds, rate, low, high = signal.numel() / 16000, 0.0, -20.0, 60.0
    for _ in range(14):
        bias[VOCABULARY] = (low + high) / 2
        hypotheses = _model.decoding.rnnt_decoder_predictions_tensor(encoded, lengths, return_hypotheses=True)
        rate = sum(len(hypothesis.y_sequence) for hypothesis in hypotheses) / seconds
        low, high = ((low + high) / 2, high) if rate > TOKEN_RATE else (low, (low + high) / 2)
    return rate


def transcribe(clips: str, batch: int) -> dict[str, Any]:
    """Transcribe the first `batch` rows of the .npy file `clips` at once; return seconds and texts."""
    signals = list(np.load(clips)[:batch])
    start = time.perf_counter()
    hypotheses = _model.transcribe(signals, batch_size=batch, verbose=False)
    return {"seconds": time.perf_counter() - start, "texts": [hypothesis.text for hypothesis in hypotheses]}


def training_step(clips: str, batch: int, tokens: int) -> float:
    """Seconds of one forward, backward and optimizer step on `batch` clips with `tokens` random targets each."""
    _model.train()
    optimizer = getattr(_model, "bench_optimizer", None) or torch.optim.AdamW(_model.parameters(), lr=1e-6)
    _model.bench_optimizer = optimizer
    signal = torch.from_numpy(np.load(clips)[:batch])
    lengths = torch.full((batch,), signal.shape[1])
    targets = torch.randint(0, VOCABULARY, (batch, tokens), generator=torch.Generator().manual_seed(0))
    target_lengths = torch.full((batch,), tokens)
    start = time.perf_counter()
    encoded, encoded_lengths = _model(input_signal=signal, input_signal_length=lengths)
    predicted, _, _ = _model.decoder(targets=targets, target_length=target_lengths)
    loss, _, _, _ = _model.joint(
        encoder_outputs=encoded,
        decoder_outputs=predicted,
        encoder_lengths=encoded_lengths,
        transcripts=targets,
        transcript_lengths=target_lengths,
        compute_wer=False,
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    elapsed = time.perf_counter() - start
    _model.eval()
    return elapsed


if __name__ == "__main__":
    serve({"build": build, "transcribe": transcribe, "training_step": training_step})
