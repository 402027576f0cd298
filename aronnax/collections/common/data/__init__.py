"""Recordings and their transcripts: manifests, Lhotse cuts, buckets, batches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aronnax.collections.common.data.config import (
    BatchingConfig,
    DataConfig,
    FilterConfig,
    InputConfig,
    StreamConfig,
)
from aronnax.collections.common.data.manifest import ManifestEntry, read_manifest, write_manifest

if TYPE_CHECKING:
    from aronnax.collections.common.data.loading import DataStats
    from aronnax.collections.common.data.module import SpeechDataModule
    from aronnax.collections.common.data.recordings import made_cut

__all__ = [
    "BatchingConfig",
    "DataConfig",
    "DataStats",
    "FilterConfig",
    "InputConfig",
    "ManifestEntry",
    "SpeechDataModule",
    "StreamConfig",
    "made_cut",
    "read_manifest",
    "write_manifest",
]

_LATER = {"DataStats": "loading", "SpeechDataModule": "module", "made_cut": "recordings"}


def __getattr__(name: str) -> Any:
    """Import what needs Lhotse and Lightning only when it is asked for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
