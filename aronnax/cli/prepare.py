"""`aronnax prepare`: manifests or Lhotse cuts for a corpus or a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from aronnax.cli.commands import Argument, Option
from aronnax.core.errors import MissingExtraError, OptionError

_SHOWN = 3


def prepare(
    recipe: Annotated[
        str,
        Argument(help="fsdd, folder, librispeech, or any recipe of Lhotse's that needs only a folder."),
    ],
    source: Annotated[Path, Argument(help="The corpus as it was unpacked; for `folder` also a TSV or CSV.")],
    out: Annotated[Path, Argument(help="Folder to write to.")],
    format: Annotated[str, Option(help="nemo (.jsonl), lhotse (.jsonl.gz) or shar (folders).")] = "nemo",
    split: Annotated[
        str | None,
        Option(help="Parts to write (dev,test), or shares to deal all anew (train:0.9,dev:0.1)."),
    ] = None,
    seed: Annotated[int, Option(help="Of the dealing by shares.")] = 0,
) -> None:
    """Write manifests or Lhotse cuts for a corpus or a folder.

    `folder` takes audio files with a .txt beside each, or a TSV or CSV with a column of paths and one of texts.
    """
    try:
        from aronnax.collections.common.data import preparing
    except ImportError as error:
        raise MissingExtraError(error.name or "lhotse", "train", "aronnax prepare") from None
    if format not in ("nemo", "lhotse", "shar"):
        raise OptionError(f"--format {format!r} is not known; choose nemo, lhotse or shar")
    notes = preparing.Notes()
    parts = preparing.prepare(recipe, source, out, notes)
    if split is not None:
        parts = preparing.split_parts(parts, split, seed)
    written = preparing.write_parts(parts, out, format)  # type: ignore[arg-type]
    for name, path in written.items():
        hours = sum(cut.duration for cut in parts[name]) / 3600
        print(f"{path}: {len(parts[name])} recordings, {hours:.2f} h")
    for problem, names in notes.problems.items():
        shown = ", ".join(json.dumps(name, ensure_ascii=False) for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        print(f"left out, {problem}: {shown}{more}")
