"""Language models as a backbone: embeddings in, hidden states, logits and decoded text out."""

from aronnax.collections.llm.backbone.backbone import Backbone
from aronnax.collections.llm.backbone.config import BackboneConfig

__all__ = ["Backbone", "BackboneConfig"]
