"""One face for every causal language model of transformers, over embeddings rather than token ids.

Legend: `B` rows, `U` positions, `D` width, `V` vocabulary.

    backbone, tokenizer_files = Backbone.from_pretrained("Qwen/Qwen3-1.7B")
    prompts = backbone.embed(ids)                                # and anything else of width D between
    decoder = backbone.bind(prompts, lengths)
    answers = generate(decoder, ids * 0, lengths, eos=2, limits=lengths + 100)
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from aronnax.collections.common.nn.derived import Derived
from aronnax.collections.llm.backbone import adapters, llama_step, loading, nemotron_h
from aronnax.collections.llm.backbone.adapters import Adapter
from aronnax.collections.llm.backbone.bound import BoundDecoder
from aronnax.collections.llm.backbone.config import BackboneConfig
from aronnax.collections.llm.backbone.hf_step import HfSteps, head_of
from aronnax.collections.llm.backbone.llama_step import LlamaSteps
from aronnax.collections.llm.backbone.nemotron_h import NemotronHSteps
from aronnax.collections.llm.backbone.padding import (
    check_lengths,
    keeps_texts_apart,
    positions_of,
    to_left,
    to_right,
)
from aronnax.collections.llm.backbone.products import is_whole
from aronnax.collections.llm.backbone.steps import Steps
from aronnax.core.errors import OptionError

RECURRENT = {"linear_attention", "conv", "hybrid", "hybrid_sliding", "mamba"}
"""Kinds of layers that carry a state from position to position."""


class Backbone(nn.Module):
    """A language model; `Backbone(config)` builds it with fresh weights, and reads nothing."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self._own(config, config.build())

    def _own(self, config: BackboneConfig, causal: nn.Module) -> None:
        if config.architecture == "nemotron_h":
            nemotron_h.prepare(causal)
        self.config = config
        self.causal = causal
        """The module of transformers, with its own parameter names."""
        self.fixed: bool | None = None
        """Whether steps run in buffers of fixed sizes, as CUDA graphs need: None where there is a GPU."""
        self._steps = Derived()
        self._checkpointing = False

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, dtype: torch.dtype | None = None, random: bool = False
    ) -> tuple[Backbone, dict[str, bytes]]:
        """The model in a folder or on the hub, and the files of its tokenizer (name to content).

        `dtype` None keeps the stored type. `random` makes fresh weights instead of reading them.

        Raises:
            HubError: nothing is there under this name.
            ConfigError: it is no decoder-only language model, or transformers does not know it.
            CheckpointError: configuration or weights are missing, damaged, or unlike each other or the tokenizer.
        """
        folder = loading.folder_of(name)
        config = loading.read_config(folder)
        backbone = cls.__new__(cls)
        nn.Module.__init__(backbone)
        causal = (
            cast(nn.Module, config.build()).to(dtype=dtype)
            if random
            else loading.read_model(folder, config, dtype)
        )
        backbone._own(config, causal)
        files = loading.read_tokenizer(folder)
        loading.check_vocabulary(files, backbone.embedding, str(folder))
        return backbone.eval(), files

    @property
    def embedding(self) -> nn.Module:
        """The table of token embeddings [V, D]."""
        return cast(nn.Module, cast(Any, self.causal).get_input_embeddings())

    @property
    def width(self) -> int:
        """`D`."""
        return int(cast(Tensor, self.embedding.weight).shape[1])

    @property
    def vocab_size(self) -> int:
        """`V`: rows of the embedding."""
        return int(cast(Tensor, self.embedding.weight).shape[0])

    @property
    def max_length(self) -> int | None:
        """Most positions the model was made for, if it says so."""
        return getattr(self._text_config, "max_position_embeddings", None)

    @property
    def recurrent(self) -> bool:
        """Whether a layer carries a state from position to position, as Mamba's do."""
        return bool(RECURRENT & set(getattr(self._text_config, "layer_types", None) or ()))

    @cached_property
    def unpackable(self) -> str | None:
        """Why rows cannot hold several texts that do not see each other; None where they can."""
        name = self.config.architecture
        if self.recurrent:
            return f"{name} has recurrent layers, whose state runs from one text of a row into the next"
        if not keeps_texts_apart(self._base(self.causal), cast(Tensor, self.embedding.weight)):
            return f"{name} cannot be told where in a row a text begins"
        return None

    @property
    def _text_config(self) -> Any:
        return cast(Any, self.causal).config.get_text_config(decoder=True)

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training computes layers twice instead of keeping what is inside them."""
        return self._checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        # transformers 5.2x calls this activation checkpointing, and older ones gradient checkpointing.
        kind = "activation" if hasattr(self.causal, "activation_checkpointing_enable") else "gradient"
        if on:
            getattr(self.causal, f"{kind}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.causal, f"{kind}_checkpointing_disable")()
        self._checkpointing = on

    def checkpoint_resting_layers(self) -> None:
        """Has frozen layers in eval mode computed twice too, where gradients run through them to what learns.

        transformers does so in training mode alone; the parts of a layer, its dropout among them, stay in eval mode.
        """
        for part in self.causal.modules():
            if getattr(part, "gradient_checkpointing", False):
                part.training = True

    def train(self, mode: bool = True) -> Backbone:
        """Switch between training and inference, and forget copies of weights that may have changed unseen."""
        self._steps.clear()
        return super().train(mode)

    def embed(self, ids: Tensor) -> Tensor:
        """[B, U] -> [B, U, D]."""
        return cast(Tensor, self.embedding(ids))

    def forward(
        self,
        embeddings: Tensor,
        lengths: Tensor | None = None,
        *,
        left_padded: bool = False,
        segments: Tensor | None = None,
        adapter: Adapter = None,
    ) -> Tensor:
        """Hidden states [B, U, D] after the last norm; what comes out at padding means nothing.

        `segments` [B, U] number the texts that a row holds one after another: each sees itself only, and its
        positions begin at 0. `adapter` chooses among LoRA adapters for this call.

        Raises OptionError for lengths that do not fit, and for segments where texts cannot be kept apart.
        """
        if lengths is not None:
            check_lengths(lengths, *embeddings.shape[:2])
        base = self._base(adapters.choose(self.causal, adapter))
        if segments is not None:
            if self.unpackable:
                raise OptionError(f"{self.unpackable}: give each text a row of its own")
            if left_padded:
                raise OptionError("segments number the texts of a row from its start: pad on the right")
            out = base(inputs_embeds=embeddings, position_ids=positions_of(segments), use_cache=False)
            return cast(Tensor, out.last_hidden_state)
        turn = left_padded and lengths is not None
        if turn:
            embeddings = to_right(embeddings, cast(Tensor, lengths))
        hidden: Tensor = base(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        return to_left(hidden, cast(Tensor, lengths)) if turn else hidden

    def logits(self, hidden: Tensor, *, adapter: Adapter = None) -> Tensor:
        """Hidden states [..., D] -> [..., V]."""
        return head_of(adapters.choose(self.causal, adapter))(hidden)

    def prefill(
        self,
        embeddings: Tensor,
        lengths: Tensor,
        *,
        capacity: int,
        left_padded: bool = False,
        chunk: int | None = None,
        adapter: Adapter = None,
    ) -> tuple[Tensor, Any]:
        """Scores [B, V] after prompts [B, U, D], and a cache with room for `capacity` positions a row.

        At most `chunk` positions are computed at a time. `step` goes on with the cache. OptionError without a row.
        """
        decoder = self.bind(embeddings, lengths, left_padded=left_padded, chunk=chunk, adapter=adapter)
        scores, cache = decoder.prefill(embeddings[..., 0], decoder.lengths, capacity=capacity)
        return scores, cache

    def step(self, embeddings: Tensor, cache: Any) -> Tensor:
        """Scores [B, V] after one more position [B, D] of each row in use; the cache moves on in place."""
        return cast(Tensor, cache.steps.step(embeddings, cache))

    @torch.no_grad()
    def bind(
        self,
        embeddings: Tensor,
        lengths: Tensor,
        *,
        left_padded: bool = False,
        chunk: int | None = None,
        adapter: Adapter = None,
    ) -> BoundDecoder:
        """A decoder of prompts [B, U, D] for `generate`; the token ids that the engine is given are ignored."""
        check_lengths(lengths, *embeddings.shape[:2])
        if chunk is not None and chunk < 1:
            raise OptionError(f"chunk is {chunk}: it must be 1 or more, or None")
        if left_padded:
            embeddings = to_right(embeddings, lengths)
        embeddings = embeddings.to(cast(Tensor, self.embedding.weight).dtype)
        return BoundDecoder(self._steps_of(adapter), self.embed, embeddings, lengths, chunk, self.fixed)

    def _steps_of(self, adapter: Adapter) -> Steps:
        key = (adapter, adapters.state(self.causal))
        made: Steps = self._steps.get(list(self.causal.parameters()), lambda: self._make(adapter), key)
        return made

    def _make(self, adapter: Adapter) -> Steps:
        causal = adapters.choose(self.causal, adapter)
        if is_whole(causal) and llama_step.supports(causal):
            return LlamaSteps(causal)
        if is_whole(causal) and nemotron_h.supports(causal):
            return NemotronHSteps(causal)
        return HfSteps(causal, self._base(causal), head_of(causal))

    @staticmethod
    def _base(causal: nn.Module) -> nn.Module:
        return cast(nn.Module, getattr(causal, cast(str, causal.base_model_prefix)))
