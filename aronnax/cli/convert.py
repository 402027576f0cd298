"""`aronnax convert`: any checkpoint to an aronnax folder or a `.nemo` archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from aronnax.cli.commands import Argument, Option
from aronnax.core.errors import OptionError

_DTYPES = ("float32", "float16", "bfloat16")


def convert(
    source: Annotated[
        str,
        Argument(metavar="IN", help="Bundled name, folder, .nemo file, transformers folder or hub id."),
    ],
    target: Annotated[Path, Argument(metavar="OUT", help="A name ending in .nemo, or a folder.")],
    dtype: Annotated[
        str | None, Option(help="Store the folder's weights as float32, float16 or bfloat16.")
    ] = None,
    force: Annotated[bool, Option("--force", help="Replace OUT if it is there.")] = False,
) -> None:
    """Convert a checkpoint between .nemo and an aronnax folder; transformers' Parakeet layout is read too."""
    import torch

    from aronnax.core.loading import load

    archive = target.suffix == ".nemo"
    if dtype is not None and (archive or dtype not in _DTYPES):
        wanted = (
            "is for folders; a .nemo archive keeps float32" if archive else f"must be {', '.join(_DTYPES)}"
        )
        raise OptionError(f"--dtype {dtype} {wanted}")
    occupied = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if occupied and not force:
        raise OptionError(f"{target} is there already; pass --force to replace it")
    model = load(source, device="cpu")
    if archive:
        model.save_nemo(target)
    else:
        card = (
            f"# {target.resolve().name}\n\nA {model.model_type} model of {model.num_parameters():,} parameters, "
            f"converted from `{source}` by `aronnax convert`. The licence is that of the original.\n"
        )
        model.save_pretrained(target, card=card, dtype=getattr(torch, dtype) if dtype else None)
    files = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    print(f"wrote {target}: {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")
