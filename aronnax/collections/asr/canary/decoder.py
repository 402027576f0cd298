"""The Transformer decoder of Canary models, its head, and their teacher-forced pass; names and numbers are NeMo's.

Legend: `B` batch, `U` tokens, `T` encoder frames, `D` width, `H` heads, `K` width of a head, `V` vocabulary.
The cached decoding of one token at a time is in `stepping.py`.

    decoder = TransformerDecoder(TransformerDecoderConfig(n_layers=4), vocab_size=5248)
    head = TokenClassifier(1024, 5248)
    head.tie(decoder.token_embedding)
    log_probs = head(decoder(tokens, states, state_lengths))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.collections.common.nn.linear import Dropout, StepLinear
from aronnax.collections.common.nn.masks import any_padding, valid_frames
from aronnax.core.errors import ConfigError, OptionError

Attend = Callable[[Tensor], Tensor]
"""From the normalised input of an attention to its output."""


@dataclass(frozen=True)
class TransformerDecoderConfig:
    """Shape of the decoder; defaults are those of Canary-1B (24 layers of width 1024)."""

    hidden_size: int = 1024
    """Width `D`; encoder states must have it too."""
    inner_size: int = 4096
    """Width inside the feed-forward blocks."""
    n_layers: int = 24
    """Decoder blocks."""
    n_heads: int = 8
    """Heads of both attentions; must divide `hidden_size`."""
    max_sequence_length: int = 512
    """Most tokens of prompt and answer together."""
    activation: Literal["relu", "gelu"] = "relu"
    """Activation of the feed-forward blocks."""
    pre_ln: bool = True
    """Whether a block normalises its input (all public models) or its output."""
    pre_ln_final: bool = True
    """Whether a pre-normalising decoder normalises its last output."""
    learned_positions: bool = False
    """Whether the positions are learned; else sines, which are stored in the checkpoint."""
    embedding_dropout: float = 0.0
    """Dropout of the embedding."""
    attention_dropout: float = 0.0
    """Dropout of attention weights (NeMo: attn_score_dropout)."""
    layer_dropout: float = 0.0
    """Dropout of each attention's output (NeMo: attn_layer_dropout)."""
    ffn_dropout: float = 0.0
    """Dropout of each feed-forward block's output."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.n_heads:
            raise ConfigError(f"hidden_size {self.hidden_size} is not a multiple of n_heads {self.n_heads}")


def sinusoids(length: int, width: int) -> Tensor:
    """Position table [length, D]: sine and cosine by turns (arXiv 1706.03762, 3.5), divided by sqrt(D)."""
    rates = torch.exp(torch.arange(0.0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(0.0, length)[:, None] * rates
    table = torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)[:, :width]
    return table / math.sqrt(width)


class FixedPositions(nn.Module):
    """A table of positions that is stored, not trained."""

    pos_enc: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.register_buffer("pos_enc", sinusoids(length, width))

    @property
    def table(self) -> Tensor:
        """[length, D]."""
        return self.pos_enc


class LearnedPositions(nn.Embedding):
    """A table of positions that is trained."""

    @property
    def table(self) -> Tensor:
        """[length, D]."""
        return self.weight


class TokenEmbedding(nn.Module):
    """LayerNorm(token + position), with dropout."""

    def __init__(self, config: TransformerDecoderConfig, vocab_size: int) -> None:
        super().__init__()
        width, length = config.hidden_size, config.max_sequence_length
        self.token_embedding = nn.Embedding(vocab_size, width, padding_idx=0)
        positions = LearnedPositions if config.learned_positions else FixedPositions
        self.position_embedding: LearnedPositions | FixedPositions = positions(length, width)
        self.layer_norm = nn.LayerNorm(width, eps=1e-5)
        self.dropout = Dropout(config.embedding_dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, U] -> [B, U, D]; positions count from the row's start."""
        table = self.position_embedding.table
        x = self.token_embedding(tokens) + table[: tokens.shape[1]]
        return self.dropout(self.layer_norm(x))

    def at(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """One token [B] a row, at its position [B] -> [B, 1, D]."""
        table = self.position_embedding.table
        x = self.token_embedding(tokens) + table.index_select(0, positions)
        return self.layer_norm(x)[:, None]


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with four projections."""

    def __init__(self, config: TransformerDecoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.n_heads
        self.query_net = StepLinear(width, width)
        self.key_net = StepLinear(width, width)
        self.value_net = StepLinear(width, width)
        self.out_projection = StepLinear(width, width)
        self.attention_dropout = config.attention_dropout
        self.dropout = Dropout(config.layer_dropout)

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor | None, causal: bool = False) -> Tensor:
        """x [B, U, D] looks at memory [B, T, D]; `bias` [B, 1, 1, T] is added to the scores."""
        query, key, value = self.project(x, memory)
        dropout = self.attention_dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(query, key, value, bias, dropout_p=dropout, is_causal=causal)
        return self.dropout(self.leave(out))

    def heads_of(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, H, K]."""
        return x.unflatten(-1, (self.heads, -1))

    def leave(self, out: Tensor) -> Tensor:
        """[B, H, U, K] -> [B, U, D], through the last projection."""
        return self.out_projection(out.transpose(1, 2).flatten(2))

    def project(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, U, K], keys and values [B, H, T, K]."""
        parts = (self.query_net(x), self.key_net(memory), self.value_net(memory))
        query, key, value = (self.heads_of(part).transpose(1, 2) for part in parts)
        return query, key, value

    def weights(self, x: Tensor, memory: Tensor, bias: Tensor | None) -> Tensor:
        """The attention weights [B, H, U, T] of the same call."""
        query, key, _ = self.project(x, memory)
        scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.shape[-1])
        return torch.softmax(scores if bias is None else scores + bias, dim=-1)


class FeedForward(nn.Module):
    """Linear, activation, linear, dropout."""

    def __init__(self, config: TransformerDecoderConfig) -> None:
        super().__init__()
        self.dense_in = StepLinear(config.hidden_size, config.inner_size)
        self.dense_out = StepLinear(config.inner_size, config.hidden_size)
        self.activation = F.relu if config.activation == "relu" else F.gelu
        self.dropout = Dropout(config.ffn_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, U, D] -> [B, U, D]."""
        return self.dropout(self.dense_out(self.activation(self.dense_in(x))))


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each with a residual and a normalisation."""

    def __init__(self, config: TransformerDecoderConfig) -> None:
        super().__init__()
        self.pre_ln = config.pre_ln
        self.layer_norm_1 = nn.LayerNorm(config.hidden_size, eps=1e-5)
        self.first_sub_layer = MultiHeadAttention(config)
        self.layer_norm_2 = nn.LayerNorm(config.hidden_size, eps=1e-5)
        self.second_sub_layer = MultiHeadAttention(config)
        self.layer_norm_3 = nn.LayerNorm(config.hidden_size, eps=1e-5)
        self.third_sub_layer = FeedForward(config)

    def forward(
        self, x: Tensor, states: Tensor, bias: Tensor | None, seen: list[Tensor] | None = None
    ) -> Tensor:
        """x [B, U, D] and states [B, T, D] -> [B, U, D]; cross-attention weights are added to `seen`."""

        def across(normed: Tensor) -> Tensor:
            if seen is not None:
                seen.append(self.second_sub_layer.weights(normed, states, bias))
            return self.second_sub_layer(normed, states, bias)

        return self.run(x, lambda normed: self.first_sub_layer(normed, normed, None, causal=True), across)

    def run(self, x: Tensor, back: Attend, across: Attend) -> Tensor:
        """x [B, U, D] -> [B, U, D], with given ways to look back at tokens and across at encoder states."""
        if self.pre_ln:
            x = x + back(self.layer_norm_1(x))
            x = x + across(self.layer_norm_2(x))
            return x + self.third_sub_layer(self.layer_norm_3(x))
        x = self.layer_norm_1(x + back(x))
        x = self.layer_norm_2(x + across(x))
        return self.layer_norm_3(x + self.third_sub_layer(x))


class DecoderStack(nn.Module):
    """The layers and the last normalisation."""

    def __init__(self, config: TransformerDecoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.n_layers)])
        final = config.pre_ln and config.pre_ln_final
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=1e-5) if final else None

    def forward(
        self, x: Tensor, states: Tensor, bias: Tensor | None, seen: list[Tensor] | None = None
    ) -> Tensor:
        """[B, U, D] -> [B, U, D]."""
        for layer in self.layers:
            x = layer(x, states, bias, seen)
        return x if self.final_layer_norm is None else self.final_layer_norm(x)


def padding_bias(lengths: Tensor, frames: int, dtype: torch.dtype) -> Tensor | None:
    """What to add to scores so that nothing looks beyond `lengths` [B]: [B, 1, 1, T], or None if nothing is."""
    if not any_padding(lengths, frames):
        return None
    # A row without frames looks at its first one, whatever that holds, instead of giving NaN.
    valid = valid_frames(lengths.clamp(min=1), frames)
    bias = torch.zeros(valid.shape, dtype=dtype, device=lengths.device)
    return bias.masked_fill_(~valid, -math.inf)[:, None, None, :]


class TransformerDecoder(nn.Module):
    """The decoder under NeMo's name `transf_decoder`.

    Rows are padded on the right: no token looks ahead, so padding needs no mask of its own, and what stands at
    padded places of the output means nothing.
    """

    def __init__(self, config: TransformerDecoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self._embedding = TokenEmbedding(config, vocab_size)
        self._decoder = DecoderStack(config)
        self.reset_parameters()

    @property
    def embedding(self) -> TokenEmbedding:
        """Tokens and positions."""
        return self._embedding

    @property
    def stack(self) -> DecoderStack:
        """The layers."""
        return self._decoder

    @property
    def token_embedding(self) -> nn.Embedding:
        """Embedding of the tokens [V, D], to tie the head to."""
        return self._embedding.token_embedding

    def reset_parameters(self) -> None:
        """Initial values of NeMo's Canary: Xavier for products, normal of 1/sqrt(D) for embeddings."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, 0.0, self.config.hidden_size**-0.5)

    def forward(self, tokens: Tensor, states: Tensor, state_lengths: Tensor) -> Tensor:
        """tokens [B, U] over states [B, T, D] of lengths [B] -> [B, U, D] for the head.

        Raises OptionError where U exceeds `max_sequence_length`.
        """
        return self._run(tokens, states, state_lengths, None)

    def alignment(self, tokens: Tensor, states: Tensor, state_lengths: Tensor) -> list[Tensor]:
        """Cross-attention weights [B, H, U, T] of every layer, of the teacher-forced pass over `tokens`."""
        seen: list[Tensor] = []
        self._run(tokens, states, state_lengths, seen)
        return seen

    def _run(
        self, tokens: Tensor, states: Tensor, state_lengths: Tensor, seen: list[Tensor] | None
    ) -> Tensor:
        longest = self.config.max_sequence_length
        if tokens.shape[1] > longest:
            raise OptionError(
                f"a row of {tokens.shape[1]} tokens is longer than the decoder's maximum of {longest}: "
                "shorten the text, or cut the audio into shorter pieces"
            )
        bias = padding_bias(state_lengths, states.shape[1], states.dtype)
        return self._decoder(self._embedding(tokens), states, bias, seen)

    def limits(self, state_lengths: Tensor, delta: int = 50, beam: int = 1) -> Tensor:
        """Most tokens [B] of prompt and answer together: min(max_sequence_length, frames + delta), as NeMo.

        A negative `delta` leaves only the decoder's maximum. NeMo's beam search (`beam` above 1) says one token more.
        It takes the frames of the batch's longest row, we each row's own, so that rows do not depend on their batch.
        """
        longest = torch.full_like(state_lengths, self.config.max_sequence_length)
        if delta >= 0:
            longest = torch.minimum(longest, state_lengths + delta)
        return longest + int(beam > 1)


class _Output(nn.Module):
    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.layer0 = StepLinear(width, vocab_size)


class TokenClassifier(nn.Module):
    """The head: one product and a log-softmax, under NeMo's name `log_softmax`."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.mlp = _Output(width, vocab_size)
        nn.init.xavier_uniform_(self.mlp.layer0.weight)
        nn.init.zeros_(self.mlp.layer0.bias)

    def tie(self, embedding: nn.Embedding) -> None:
        """Share the weight [V, D] with the token embedding; the bias stays the head's own."""
        self.mlp.layer0.weight = embedding.weight

    def logits(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return self.mlp.layer0(x)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> log-probabilities [..., V]."""
        return torch.log_softmax(self.logits(x), dim=-1)
