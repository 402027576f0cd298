"""A name -> a local path: an existing path, a bundled model, or a Hugging Face hub id."""

from __future__ import annotations

from pathlib import Path

from aronnax.core.errors import HubError

_BUNDLED = Path(__file__).resolve().parent.parent / "bundled"


def bundled() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in _BUNDLED.glob("*/config.yaml"))


def resolve(name: str, *, revision: str | None = None) -> Path:
    """The local file or folder of a checkpoint."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name in bundled():
        return _BUNDLED / name
    raise HubError(f"{name} is neither a file, a folder nor a bundled model ({', '.join(bundled())})")
