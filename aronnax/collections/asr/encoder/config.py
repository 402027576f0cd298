"""The typed configuration of the FastConformer encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class FastConformerConfig:
    """FastConformer (arXiv 2305.05084) and the original Conformer (arXiv 2005.08100); defaults: 17 x 512.

    feat_in: mel bands of the input.
    n_layers, d_model, n_heads: depth, width and attention heads.
    subsampling: "dw_striding" (depthwise, FastConformer) or "striding" (full convolutions, Conformer).
    subsampling_factor: feature frames to one encoder frame, a power of two; 1 projects frame by frame.
    subsampling_conv_channels: channels of the subsampling convolutions; -1 means d_model.
    causal_downsampling: subsample without looking ahead.
    ff_expansion_factor: inner width of the feed-forward modules over d_model.
    self_attention_model: "rel_pos" (full) or "rel_pos_local_attn" (sliding window).
    att_context_size: (left, right) pairs in encoder frames, -1 unlimited; several pairs are drawn from in
        training with `att_context_probs` (uniform when None), inference uses the first.
    att_context_style: "regular" windows or "chunked_limited" (chunks of right + 1 frames).
    xscaling: multiply the subsampled features by sqrt(d_model).
    untie_biases: every layer has its own position biases.
    conv_kernel_size: frames of the depthwise convolution, odd.
    conv_norm_type: "batch_norm" or "layer_norm" behind the depthwise convolution.
    conv_context_size: None (centred), "causal", or (left, right) frames that sum to the kernel minus one.
    use_bias: biases in all linear and convolution layers of the blocks.
    global_tokens, global_tokens_spacing, global_attn_separate: of local attention, see `Attention`; the last
        gives the global tokens projections of their own.
    dropout, dropout_pre_encoder, dropout_emb, dropout_att: of modules, subsampled input, positions, scores.
    stochastic_depth_*: probability of skipping a layer in training, its growth with depth, the first such.
    activation_checkpointing: recompute layers in the backward pass to save memory.
    """

    feat_in: int = 80
    n_layers: int = 17
    d_model: int = 512
    subsampling: Literal["dw_striding", "striding"] = "dw_striding"
    subsampling_factor: int = 8
    subsampling_conv_channels: int = 256
    causal_downsampling: bool = False
    ff_expansion_factor: int = 4
    n_heads: int = 8
    self_attention_model: Literal["rel_pos", "rel_pos_local_attn"] = "rel_pos"
    att_context_size: tuple[tuple[int, int], ...] = ((-1, -1),)
    att_context_probs: Union[tuple[float, ...], None] = None  # noqa: UP007
    att_context_style: Literal["regular", "chunked_limited"] = "regular"
    xscaling: bool = True
    untie_biases: bool = True
    conv_kernel_size: int = 9
    conv_norm_type: Literal["batch_norm", "layer_norm"] = "batch_norm"
    conv_context_size: Union[Literal["causal"], tuple[int, int], None] = None  # noqa: UP007
    use_bias: bool = True
    global_tokens: int = 0
    global_tokens_spacing: int = 1
    global_attn_separate: bool = False
    dropout: float = 0.1
    dropout_pre_encoder: float = 0.1
    dropout_emb: float = 0.0
    dropout_att: float = 0.1
    stochastic_depth_drop_prob: float = 0.0
    stochastic_depth_mode: Literal["linear", "uniform"] = "linear"
    stochastic_depth_start_layer: int = 1
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        factor = self.subsampling_factor
        _require(factor >= 1 and factor & (factor - 1) == 0, "subsampling_factor", factor, "a power of two")
        _require(
            self.d_model % self.n_heads == 0, "d_model", self.d_model, f"a multiple of n_heads {self.n_heads}"
        )
        _require(self.conv_kernel_size % 2 == 1, "conv_kernel_size", self.conv_kernel_size, "odd")
        left, right = self.conv_context
        _require(
            left + right + 1 == self.conv_kernel_size and min(left, right) >= 0,
            "conv_context_size",
            self.conv_context_size,
            f"two sides that sum to {self.conv_kernel_size - 1}",
        )
        self._check_contexts()
        probability = self.stochastic_depth_drop_prob
        _require(0.0 <= probability < 1.0, "stochastic_depth_drop_prob", probability, "in [0, 1)")
        start = self.stochastic_depth_start_layer
        _require(
            probability == 0.0 or 1 <= start <= self.n_layers,
            "stochastic_depth_start_layer",
            start,
            "a layer",
        )

    def _check_contexts(self) -> None:
        _require(
            len(self.att_context_size) > 0, "att_context_size", self.att_context_size, "at least one pair"
        )
        for left, right in self.att_context_size:
            if self.self_attention_model == "rel_pos_local_attn":
                fits, wanted = min(left, right) >= 0 and max(left, right) > 0, "limited for local attention"
            elif self.att_context_style == "chunked_limited":
                fits, wanted = left <= 0 or left % (right + 1 or 1) == 0, "left a multiple of right + 1"
            else:
                fits, wanted = True, ""
            _require(
                fits and min(left, right) >= -1, "att_context_size", (left, right), wanted or "-1 or more"
            )
        probabilities = self.att_context_probs
        if probabilities is not None:
            fits = len(probabilities) == len(self.att_context_size) and abs(sum(probabilities) - 1) < 1e-4
            _require(fits, "att_context_probs", probabilities, "one per att_context_size and sum to 1")

    @property
    def conv_context(self) -> tuple[int, int]:
        """Frames the depthwise convolution sees to the left and right."""
        if self.conv_context_size is None:
            half = (self.conv_kernel_size - 1) // 2
            return half, half
        if self.conv_context_size == "causal":
            return self.conv_kernel_size - 1, 0
        left, right = self.conv_context_size
        return int(left), int(right)


def _require(fits: bool, name: str, value: object, wanted: str) -> None:
    if not fits:
        raise ConfigError(f"encoder.{name} is {value!r} but must be {wanted}")
