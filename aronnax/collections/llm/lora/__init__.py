"""LoRA adapters of a backbone: attach, save, load, merge and drop them."""

from aronnax.collections.llm.lora.attaching import (
    activate,
    adapter_names,
    adapter_tensors,
    attach,
    drop,
    merge,
)
from aronnax.collections.llm.lora.config import DEFAULT, LoRA
from aronnax.collections.llm.lora.saved import load_adapter, read_adapter, save_adapter

__all__ = [
    "DEFAULT",
    "LoRA",
    "activate",
    "adapter_names",
    "adapter_tensors",
    "attach",
    "drop",
    "load_adapter",
    "merge",
    "read_adapter",
    "save_adapter",
]
