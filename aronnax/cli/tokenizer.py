"""`aronnax tokenizer`: train a SentencePiece tokenizer on manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from aronnax.cli.commands import Argument, Option
from aronnax.core.errors import MissingExtraError, OptionError


def tokenizer(
    manifests: Annotated[
        list[Path],
        Argument(help="NeMo manifests, Lhotse cuts (.jsonl.gz), or text files, one text a line."),
    ],
    out: Annotated[Path, Option(help="Folder for tokenizer.model and its companions.")],
    vocab_size: Annotated[int, Option(help="Pieces in all; for char and characters at most so many.")] = 1024,
    type: Annotated[
        str, Option(help="bpe, unigram, char (SentencePiece), or characters (a plain list of labels).")
    ] = "bpe",
    special: Annotated[
        list[str] | None, Option(help="A piece that always stands whole, such as <|en|>.")
    ] = None,
    lower: Annotated[bool, Option(help="Lower-case all text.")] = False,
    coverage: Annotated[float, Option(help="Share of the characters to know; 0.9995 for Chinese.")] = 1.0,
    max_texts: Annotated[int | None, Option(help="Train on a random choice of so many texts.")] = None,
    seed: Annotated[int, Option(help="Of that choice.")] = 0,
) -> None:
    """Train a SentencePiece tokenizer on manifests.

    The folder can be named in a training configuration, and by NeMo as `tokenizer.dir` (type bpe).
    """
    from aronnax.collections.common.text import CharacterTokenizer, Tokenizer, train_sentencepiece

    texts = [text for path in manifests for text in read_texts(path)]
    trained: Tokenizer
    if type == "characters":
        labels = sorted({char for text in texts for char in (text.lower() if lower else text)})
        if len(labels) > vocab_size:
            raise OptionError(f"the texts have {len(labels)} characters, more than --vocab-size {vocab_size}")
        trained = CharacterTokenizer(labels)
    else:
        trained = train_sentencepiece(
            texts,
            vocab_size,
            type,  # type: ignore[arg-type]
            specials=special or (),
            character_coverage=coverage,
            lower=lower,
            max_texts=max_texts,
            seed=seed,
        )
    save(trained.assets(), trained.vocabulary, out)
    example = next((text for text in texts if text.strip()), "")
    ids = trained.encode(example)
    print(f"{out}: {trained.vocab_size} pieces from {len(texts)} texts")
    print(f"example: {example!r} becomes {' '.join(trained.pieces(ids))}")


def save(assets: dict[str, bytes], vocabulary: tuple[str, ...], out: Path) -> None:
    """Write a tokenizer's files, and `vocab.txt`, without which NeMo does not take the folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name, data in assets.items():
        (out / name).write_bytes(data)
    if "tokenizer.model" in assets:
        (out / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocabulary), encoding="utf-8")


def read_texts(path: Path) -> Iterator[str]:
    """Transcripts of a manifest, of Lhotse cuts, or of a text file with one a line."""
    from aronnax.collections.common.data.manifest import read_manifest

    if path.name.endswith(".jsonl.gz"):
        try:
            from lhotse import CutSet
        except ImportError:
            raise MissingExtraError("lhotse", "train", "reading Lhotse cuts") from None
        for cut in CutSet.from_jsonl_lazy(path):
            yield from (supervision.text for supervision in cut.supervisions if supervision.text)
    elif path.suffix == ".txt":
        yield from path.read_text(encoding="utf-8").splitlines()
    else:
        yield from (entry.text for entry in read_manifest(path) if entry.text)
