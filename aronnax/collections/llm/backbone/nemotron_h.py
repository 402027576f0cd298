"""Fast decoding of NemotronH: layers of Mamba-2, attention without positions, mixed experts and feed-forward.

The step and what surrounds the scan of a prompt are written here; the scan itself is transformers', which takes
faster kernels where they are installed. Time steps are kept inside the configuration's `time_step_limit`, everywhere.

Legend: `B` rows, `U` positions, `D` width, `H` heads of Mamba, `P` width of such a head, `G` groups, `N` numbers of
state, `Q` kernel of the convolution and `M` its channels, `E` experts, `V` vocabulary, `S` positions of a chunk of
prompts that are no padding, `L` rows that end in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aronnax.collections.llm.backbone.attention import Back, Over
from aronnax.collections.llm.backbone.cache import CacheShape, StepCache
from aronnax.collections.llm.backbone.experts import Experts, activation
from aronnax.collections.llm.backbone.norms import Norm
from aronnax.collections.llm.backbone.padding import Unpadded
from aronnax.collections.llm.backbone.products import MOST_COPIED, Product, part_of
from aronnax.collections.llm.backbone.steps import FixedSteps

Mix = Callable[[Tensor], Tensor]


def prepare(causal: Any) -> None:
    """Let the layers of transformers keep the limits of the configuration.

    They would keep time steps of a whole text above `time_step_min`, and those of single positions not, so that a
    text decoded would not be the text scored; the published models were trained without.
    """
    low, high = causal.config.time_step_limit
    for layer in causal.model.layers:
        if layer.block_type == "linear_attention":
            layer.mixer.time_step_limit = (float(low), float(high))


def supports(causal: Any) -> bool:
    """Whether the model's layers, as they are now, are those computed here."""
    return bool(causal.config.model_type == "nemotron_h") and causal.config.mamba_hidden_act == "silu"


def _product(layers: list[Any], copied: bool) -> Mix:
    """Linear layers with one input as one product; by their own forward passes if they are something else."""
    parts = [part_of(layer) for layer in layers]
    known = [part for part in parts if part is not None]
    if len(known) == len(parts):
        return Product(known, copied)
    return lambda x: torch.cat([layer(x) for layer in layers], dim=-1)


class _Mamba:
    """A Mamba-2 layer; of a row it keeps the last Q - 1 inputs of its convolution, and the state [H, P, N]."""

    def __init__(self, mixer: Any, place: int, copied: bool) -> None:
        self.place = place
        """Where its two states stand in a cache."""
        self.enter = _product([mixer.in_proj], copied)
        self.leave = _product([mixer.out_proj], copied)
        self.inner = mixer.intermediate_size
        self.channels = mixer.conv_dim
        self.heads = mixer.num_heads
        self.groups = mixer.n_groups
        self.width = mixer.head_dim
        self.numbers = mixer.ssm_state_size
        self.chunk_size = mixer.chunk_size
        # A softplus is above nought already.
        limit = tuple(mixer.time_step_limit)
        self.limit = None if limit == (0.0, float("inf")) else limit
        self.kernel = mixer.conv1d.weight.squeeze(1)
        self.kernel_bias = mixer.conv1d.bias
        self.rates = -torch.exp(mixer.A_log.float())
        self.skip = mixer.D
        self.step_bias = mixer.dt_bias
        self.gate_norm = Norm(mixer.norm.weight.view(self.groups, -1), mixer.norm.variance_epsilon)

    def shapes(self, dtype: torch.dtype) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        """What a row keeps; the state adds up over a whole text, so it is never of half precision."""
        inputs = (self.channels, self.kernel.shape[1] - 1)
        exact = torch.promote_types(dtype, torch.float32)
        return (inputs, dtype), ((self.heads, self.width, self.numbers), exact)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate, inputs, steps = self.enter(x).split([self.inner, self.channels, self.heads], dim=-1)
        steps = F.softplus(steps + self.step_bias)
        return gate, inputs, steps if self.limit is None else steps.clamp(*self.limit)

    def _parts(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., M] -> x [..., H, P], B and C [..., G, N]."""
        share = self.groups * self.numbers
        x, b, c = inputs.split([self.inner, share, share], dim=-1)
        grouped = (self.groups, self.numbers)
        return x.unflatten(-1, (self.heads, self.width)), b.unflatten(-1, grouped), c.unflatten(-1, grouped)

    def _finish(self, y: Tensor, gate: Tensor, dtype: torch.dtype) -> Tensor:
        """[..., H, P], gated and normalised in groups -> [..., D]."""
        y = (y.flatten(-2).float() * F.silu(gate.float())).unflatten(-1, (self.groups, -1))
        return self.leave(self.gate_norm(y).flatten(-2).to(dtype))

    def step(self, x: Tensor, cache: StepCache, rows: int) -> Tensor:
        """One position [B, D] -> [B, D]; the states move on."""
        before, state = (whole[:rows] for whole in cache.states[self.place : self.place + 2])
        gate, inputs, steps = self._split(x)
        seen = torch.cat([before, inputs[:, :, None]], dim=2)
        before.copy_(seen[:, :, 1:])
        inputs = (seen * self.kernel).sum(-1)
        if self.kernel_bias is not None:
            inputs += self.kernel_bias
        x_heads, b, c = self._parts(F.silu(inputs))
        steps = steps.to(state.dtype)
        state.mul_(torch.exp(steps * self.rates)[:, :, None, None])
        added = (steps[:, :, None] * x_heads).reshape(rows, self.groups, -1, 1)
        grouped = state.view(rows, self.groups, -1, self.numbers)
        grouped.addcmul_(added, b[:, :, None].to(state.dtype))
        y = torch.matmul(grouped, c[..., None].to(state.dtype)).view(rows, self.heads, self.width)
        y = torch.addcmul(y, x_heads, self.skip[:, None])
        return self._finish(y, gate, x.dtype)

    def chunk(self, x: Tensor, cache: StepCache, packed: Unpadded) -> Tensor:
        """Unpadded positions of a chunk [S, D] -> [S, D]; a time step of nought in the padding changes no state."""
        from transformers.models.nemotron_h.modeling_nemotron_h import mamba2_chunk_scan

        rows, count = packed.shape
        before, state = (whole[:rows] for whole in cache.states[self.place : self.place + 2])
        gate, inputs, steps = self._split(x)
        seen = torch.cat([before, packed.unpack(inputs).transpose(1, 2)], dim=2)
        kept = packed.lengths[:, None] + torch.arange(before.shape[2], device=x.device)
        before.copy_(seen.gather(2, kept[:, None].expand_as(before)))
        inputs = F.conv1d(seen, self.kernel[:, None], self.kernel_bias, groups=self.channels)
        x_heads, b, c = self._parts(F.silu(inputs).transpose(1, 2))
        y, after = mamba2_chunk_scan(
            x_heads.contiguous(),
            packed.unpack(steps),
            self.rates,
            b.contiguous(),
            c.contiguous(),
            # A prompt shorter than a chunk would be padded to one.
            chunk_size=min(self.chunk_size, count),
            D=self.skip,
            initial_states=state,
            return_final_states=True,
        )
        state.copy_(after)
        y = packed.pack(y.view(rows, count, self.heads, self.width))
        return self._finish(y, gate, x.dtype)


class _Attention:
    """Attention without positions."""

    def __init__(self, mixer: Any, number: int, copied: bool) -> None:
        self.number = number
        self.qkv = _product([mixer.q_proj, mixer.k_proj, mixer.v_proj], copied)
        self.out = _product([mixer.o_proj], copied)
        self.width = mixer.head_dim
        self.shared = mixer.config.num_key_value_heads
        self.heads = mixer.config.num_attention_heads
        self.scale = mixer.scaling

    def __call__(self, x: Tensor, attend: Back | Over) -> Tensor:
        every = self.qkv(x).contiguous().unflatten(-1, (-1, self.width))
        query, key, value = every.split([self.heads, self.shared, self.shared], dim=-2)
        return self.out(attend(self.number, query, key, value, None, self.scale))


def _feed(mixer: Any, copied: bool) -> Mix:
    up, down = _product([mixer.up_proj], copied), _product([mixer.down_proj], copied)
    act = activation(mixer.act_fn)
    return lambda x: down(act(up(x)))


class NemotronHSteps(FixedSteps):
    """Prefill and step of NemotronH."""

    def __init__(self, causal: Any) -> None:
        super().__init__()
        model, config = causal.model, causal.config
        self.longest = config.max_position_embeddings
        self.eps = config.layer_norm_epsilon
        self.norm = Norm(model.norm_f.weight, self.eps, exact=True)
        copied = sum(one.numel() * one.element_size() for one in causal.parameters()) <= MOST_COPIED
        self.head = _product([causal.lm_head], copied)
        self.layers: list[tuple[Norm, Any]] = []
        mambas: list[_Mamba] = []
        attentions = 0
        for layer in model.layers:
            made: Any
            if layer.block_type == "linear_attention":
                made = _Mamba(layer.mixer, 2 * len(mambas), copied)
                mambas.append(made)
            elif layer.block_type == "full_attention":
                made, attentions = _Attention(layer.mixer, attentions, copied), attentions + 1
            else:
                experts = layer.block_type == "moe"
                feed = _feed(layer.mixer.shared_experts if experts else layer.mixer, copied)
                made = Experts(layer.mixer, feed) if experts else feed
            self.layers.append((Norm(layer.norm.weight, self.eps, exact=True), made))
        mixing = [isinstance(mix, (_Mamba, _Attention)) for _, mix in self.layers]
        self.alone = max((number + 1 for number, mixes in enumerate(mixing) if mixes), default=0)
        """From this layer on, positions do not look at each other."""
        like = self.norm.weight
        states = tuple(shape for mamba in mambas for shape in mamba.shapes(like.dtype))
        self.shape = CacheShape(attentions, config.num_key_value_heads, config.head_dim, like, states)

    def cache(self, rows: int, capacity: int, beam: int = 1) -> StepCache:
        """An empty cache."""
        return StepCache(self, self.shape, rows, capacity, None, beam)

    @torch.inference_mode()
    def run(self, embeddings: Tensor, cache: StepCache, rows: int, window: int) -> Tensor:
        """One step of the first `rows` rows, looking back at `window` positions at most: scores [B, V]."""
        back, x = Back(cache, rows, window, (None,)), embeddings
        with torch.autocast(x.device.type, enabled=False):
            for norm, mix in self.layers:
                inner = norm(x)
                if isinstance(mix, _Mamba):
                    out = mix.step(inner, cache, rows)
                elif isinstance(mix, _Attention):
                    out = mix(inner, back)
                else:
                    out = mix.step(inner) if isinstance(mix, Experts) else mix(inner)
                x = x + out
            cache.advance(rows)
            return self.scores(x)

    def chunk(self, embeddings: Tensor, packed: Unpadded, cache: StepCache) -> Tensor:
        """Hidden states [L, D] of the last positions in a chunk of prompts [B, U, D]."""
        over, x = Over(cache, packed), packed.pack(embeddings)
        for number, (norm, mix) in enumerate(self.layers):
            if number == self.alone:
                x = x.index_select(0, packed.last)
                if not len(x):
                    break
            inner = norm(x)
            if isinstance(mix, _Mamba):
                out = mix.chunk(inner, cache, packed)
            elif isinstance(mix, _Attention):
                out = mix(inner, over)
            else:
                out = mix.chunk(inner) if isinstance(mix, Experts) else mix(inner)
            x = x + out
        return x if self.alone < len(self.layers) else x.index_select(0, packed.last)

    def scores(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return self.head(self.norm(hidden)).contiguous().float()
