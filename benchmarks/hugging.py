"""transformers' Parakeet models with the weights of ours, for a comparison in the same process."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aronnax.collections.asr.encoder import FastConformer
from aronnax.collections.asr.transducer.joint import Joint
from aronnax.collections.asr.transducer.model import TransducerModel
from aronnax.collections.asr.transducer.prediction import PredictionNetwork
from aronnax.collections.asr.transformers_layout import rename


def _encoder_options(encoder: FastConformer) -> dict[str, object]:
    config = encoder.config
    return {
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.d_model * config.ff_expansion_factor,
        "conv_kernel_size": config.conv_kernel_size,
        "subsampling_conv_channels": config.subsampling_conv_channels,
        "num_mel_bins": config.feat_in,
        "scale_input": config.xscaling,
    }


def parakeet_encoder(encoder: FastConformer) -> nn.Module:
    """transformers' ParakeetEncoder with the weights of `encoder`."""
    from transformers import ParakeetEncoder, ParakeetEncoderConfig

    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    theirs: nn.Module = ParakeetEncoder(ParakeetEncoderConfig(**_encoder_options(encoder)))
    theirs.load_state_dict({name: state[rename(f"encoder.{name}")] for name in theirs.state_dict()})
    return theirs.eval()


def _transducer(
    state: dict[str, Tensor], encoder: dict[str, object], durations: tuple[int, ...], max_symbols: int
) -> nn.Module:
    """ParakeetForTDT, or ParakeetForRNNT without durations, with the tensors that `state` has for it."""
    import transformers

    kind = "TDT" if durations else "RNNT"
    rows, hidden = state["decoder.prediction.embed.weight"].shape
    config = getattr(transformers, f"Parakeet{kind}Config")(
        vocab_size=rows,
        blank_token_id=rows - 1,
        pad_token_id=rows - 1,
        decoder_hidden_size=hidden,
        num_decoder_layers=1,
        max_symbols_per_step=max_symbols,
        encoder_config=encoder,
        **({"durations": list(durations)} if durations else {}),
    )
    model: nn.Module = getattr(transformers, f"ParakeetFor{kind}")(config)
    found = {name: state[ours] for name in model.state_dict() if (ours := rename(name)) in state}
    model.load_state_dict(found, strict=False)
    model.generation_config.decoder_start_token_id = rows - 1
    if durations:
        # `generate` takes the best of all scores, and those of the durations follow those of the tokens.
        model.generation_config.suppress_tokens = list(range(rows, rows + len(durations)))
    return model.eval()


def _tokens(found: Any, lengths: list[int], blank: int) -> list[list[int]]:
    """The tokens of each row that `generate` found.

    A row that ends before the others goes on at its last frame until they end: that is cut off here.
    """
    frames = found.durations.cumsum(-1) - found.durations
    return [
        [
            token
            for token, frame in zip(row.tolist(), at.tolist(), strict=True)
            if token != blank and frame < length
        ]
        for row, at, length in zip(found.sequences, frames, lengths, strict=True)
    ]


class Parakeet:
    """transformers' transducer with the weights of `model`, from samples to text.

    All rows go through `generate` at once. Token ids become text through the tokenizer of `model`.
    """

    def __init__(self, model: TransducerModel) -> None:
        import transformers

        config = model.config
        encoder = _encoder_options(model.encoder)
        self.model = _transducer(model.state_dict(), encoder, config.durations, config.max_symbols)
        self.extractor = transformers.ParakeetFeatureExtractor(feature_size=config.preprocessor.n_mels)
        self.tokenizer = model.tokenizer
        self.blank = config.vocab_size

    @torch.inference_mode()
    def transcribe(self, signals: list[np.ndarray], rate: int) -> list[str]:
        """The text of each signal [S]."""
        inputs = self.extractor(signals, sampling_rate=rate, return_tensors="pt")
        mask = inputs["attention_mask"]
        found = self.model.generate(input_features=inputs["input_features"], attention_mask=mask)
        lengths = self.model.encoder._get_subsampling_output_length(mask.sum(-1)).tolist()
        return [self.tokenizer.decode(tokens) for tokens in _tokens(found, lengths, self.blank)]


class ParakeetDecoder:
    """transformers' transducer decoding alone, with the weights of ours; given states stand in for its encoder."""

    def __init__(
        self, network: PredictionNetwork, joint: Joint, durations: tuple[int, ...], max_symbols: int
    ) -> None:
        state = {f"decoder.{name}": value for name, value in network.state_dict().items()}
        state |= {f"joint.{name}": value for name, value in joint.state_dict().items()}
        encoder = {"hidden_size": state["joint.enc.weight"].shape[1], "num_hidden_layers": 1}
        self.model = _transducer(state, encoder, durations, max_symbols)
        self.blank = len(state["decoder.prediction.embed.weight"]) - 1

    @torch.inference_mode()
    def __call__(self, states: Tensor) -> list[list[int]]:
        """The tokens of each row of `states` [B, T, D]."""
        from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderModelOutput

        def encoded(**_: Any) -> Any:
            projected = self.model.encoder_projector(states)
            return ParakeetEncoderModelOutput(last_hidden_state=states, pooler_output=projected)

        self.model.get_audio_features = encoded
        batch, frames, _ = states.shape
        # Only the shape of these features matters: `generate` bounds its length by it.
        features = torch.zeros(batch, frames * 8, 1)
        found = self.model.generate(input_features=features)
        return _tokens(found, [frames] * batch, self.blank)
