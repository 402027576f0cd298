"""A name -> a local file or folder: an existing path, a bundled model, or a Hugging Face hub id."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aronnax.core.config import nearest
from aronnax.core.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

_BUNDLED = Path(__file__).resolve().parent.parent / "bundled"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_CONFIGS = ("config.yaml", "model_config.yaml", "config.json")
# What is fetched of a repository without a .nemo file: weights and plain data, never code.
_OURS = ("config.yaml", "model.safetensors")
_DATA = (".yaml", ".json", ".model", ".txt", ".md", ".jinja")
WHAT_IS_A_MODEL = (
    "give a bundled name, a folder (of aronnax, NeMo or transformers), a .nemo file, or a hub id such as "
    "nvidia/parakeet-tdt-0.6b-v3"
)
"""What every message says of a name that leads to no model."""
_logger = logging.getLogger("aronnax")


def bundled() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in _BUNDLED.glob("*/config.yaml"))


def resolve(name: str, *, revision: str | None = None, notify: Callable[[str], None] | None = None) -> Path:
    """The local file or folder of a checkpoint, downloaded from the hub if that is where it is.

    A copy in the hub's cache is used without asking the network. Before a download `notify` (a log message by
    default) is told the size and the licence.

    Raises:
        HubError: nothing is there under this name, or the hub cannot be reached.
    """
    path = Path(name).expanduser()
    # A folder that only happens to be called like a bundled model, say of recordings, does not hide the model.
    shadows = name in bundled() and path.is_dir() and not any((path / file).is_file() for file in _CONFIGS)
    if path.exists() and not shadows:
        return path
    if name in bundled():
        return _BUNDLED / name
    if name.endswith(".nemo") or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise HubError(f"there is no file or folder {name}")
    if not _HUB_ID.fullmatch(name):
        raise HubError(
            f"{name!r} is not a file, a folder, a bundled model or a hub id such as nvidia/parakeet-tdt-0.6b-v3; "
            f"{_bundled_hint(name)}"
        )
    return _cached(name, revision) or _download(name, revision, notify or _logger.warning)


def _cached(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    def find(file: str) -> Path | None:
        found = try_to_load_from_cache(name, file, revision=revision)
        return Path(found) if isinstance(found, str) else None

    archive = find(_archive_name(name))
    if archive is not None:
        return archive
    for config in ("config.yaml", "config.json"):
        found = find(config)
        if found is not None and any(found.parent.glob("model*.safetensors")):
            return found.parent
    return None


def _download(name: str, revision: str | None, notify: Callable[[str], None]) -> Path:
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{name} is not in the local cache and HF_HUB_OFFLINE is set; {_bundled_hint(name)}")
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
        files = _choose(name, info)
        size = sum(files.values())
        notify(f"downloading {name}: {_in_words(size)}, licence {_licence(info)}")
        if len(files) == 1:
            return Path(hf_hub_download(name, next(iter(files)), revision=info.sha))
        return Path(snapshot_download(name, revision=info.sha, allow_patterns=list(files)))
    except HubError:
        raise
    except OSError as error:
        raise _explain(name, revision, error) from error
    except Exception as error:  # whatever HTTP library the hub's client uses raises its own
        raise _explain(name, revision, error) from error


def _choose(name: str, info: ModelInfo) -> dict[str, int]:
    """The files to fetch with their sizes in bytes: `.nemo` first, then our folder, then transformers' layout."""
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    archives = [file for file in sizes if file.endswith(".nemo")]
    preferred = _archive_name(name)
    if preferred in archives or len(archives) == 1:
        chosen = preferred if preferred in archives else archives[0]
        return {chosen: sizes[chosen]}
    ours = set(_OURS) <= set(sizes)
    transformers = "config.json" in sizes and any(_is_weights(file) for file in sizes)
    if not ours and not transformers:
        kinds = (
            f"several .nemo files ({', '.join(archives)})"
            if archives
            else "no .nemo or safetensors checkpoint"
        )
        raise HubError(f"{name} on the hub holds {kinds}; aronnax cannot tell what to load")
    return {
        file: size
        for file, size in sizes.items()
        if file.endswith(_DATA) or (file == "model.safetensors" if ours else _is_weights(file))
    }


def _explain(name: str, revision: str | None, error: Exception) -> HubError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return HubError(
            f"{name} asks for its terms to be accepted: open https://huggingface.co/{name} and log in"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{name} on the hub has no revision {revision!r}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(f"{name} is not on the Hugging Face hub (or is private); {_bundled_hint(name)}")
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return HubError(
        f"{name} is not in the local cache and could not be fetched from the Hugging Face hub ({reason}); "
        f"{_bundled_hint(name)}"
    )


def _bundled_hint(name: str) -> str:
    names = bundled()
    if not names:
        return "this installation bundles no models"
    close = nearest(name, names)
    return close if close.startswith("did") else f"bundled models need no network: {', '.join(names)}"


def _archive_name(name: str) -> str:
    return f"{name.rpartition('/')[2]}.nemo"


def _is_weights(file: str) -> bool:
    return (
        "/" not in file
        and file.startswith("model")
        and file.endswith((".safetensors", ".safetensors.index.json"))
    )


def _licence(info: ModelInfo) -> str:
    card: Any = info.card_data
    return str((card.get("license") if card is not None else None) or "not stated")


def _in_words(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 0.1):.1f} MB"
