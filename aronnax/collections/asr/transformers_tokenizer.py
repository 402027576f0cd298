"""A Hugging Face tokenizer.json back into the SentencePiece model it was made from.

The pieces and their order are kept, and with BPE the order of the merges becomes the scores, so both libraries cut
text alike. The file format is a protocol buffer (sentencepiece_model.proto): pieces are field 1, the trainer's
settings field 2, the normaliser's field 3.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from aronnax.core.errors import CheckpointError

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_MODEL_TYPES = {"Unigram": 1, "BPE": 2}
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


def tokenizer_assets(
    data: Mapping[str, Any], vocab_size: int, *, write_specials: bool = False
) -> dict[str, bytes]:
    """The assets of the tokenizer whose first `vocab_size` pieces a tokenizer.json describes.

    With `write_specials` the special tokens are pieces that a text may hold, as prompts do.

    Raises:
        CheckpointError: it is of another kind, or lacks a piece.
    """
    model = data.get("model")
    kind = model.get("type") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or kind not in _MODEL_TYPES:
        raise CheckpointError(f"tokenizer.json is of type {kind!r}; supported are {', '.join(_MODEL_TYPES)}")
    scores = _bpe_scores(model) if kind == "BPE" else _unigram_scores(model)
    pieces = dict(scores)
    added = {}
    for token in data.get("added_tokens") or []:
        added[token["content"]] = _CONTROL if token.get("special") and not write_specials else _USER_DEFINED
        pieces.setdefault(token["content"], (token["id"], 0.0))
    by_id = {index: (piece, score) for piece, (index, score) in pieces.items() if index < vocab_size}
    missing = [index for index in range(vocab_size) if index not in by_id]
    if missing:
        raise CheckpointError(f"tokenizer.json has no piece with id {missing[0]}; the model has {vocab_size}")
    unknown = _unknown(model, by_id)
    # All 256 or none: a tokenizer.json may ask for bytes although its vocabulary has none.
    as_bytes = bool(model.get("byte_fallback")) and sum(map(_is_byte, by_id.values())) == 256
    out = bytearray()
    for index in range(vocab_size):
        piece, score = by_id[index]
        type_ = added.get(piece, _BYTE if as_bytes and _is_byte(by_id[index]) else _NORMAL)
        out += _message(1, _piece(piece, score, _UNKNOWN if piece == unknown else type_))
    out += _message(2, _trainer(kind, vocab_size, unknown, by_id, as_bytes))
    out += _message(3, _normaliser(data))
    return {"tokenizer.yaml": b"type: sentencepiece\n", "tokenizer.model": bytes(out)}


def _bpe_scores(model: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """{piece: (id, score)}: the sooner a piece is merged, the higher its score."""
    ranks: dict[str, int] = {}
    merges = model.get("merges") or []
    for rank, merge in enumerate(merges):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    return {
        piece: (index, -float(ranks.get(piece, len(merges) + index)))
        for piece, index in (model.get("vocab") or {}).items()
    }


def _unigram_scores(model: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    return {piece: (index, float(score)) for index, (piece, score) in enumerate(model.get("vocab") or [])}


def _unknown(model: Mapping[str, Any], by_id: Mapping[int, tuple[str, float]]) -> str:
    """The piece that stands for what cannot be written; SentencePiece cannot do without one."""
    if isinstance(model.get("unk_id"), int):
        return by_id[model["unk_id"]][0]
    name = model.get("unk_token") or "<unk>"
    if name not in {piece for piece, _ in by_id.values()}:
        raise CheckpointError(f"tokenizer.json has no piece for the unknown ({name})")
    return str(name)


def _trainer(
    kind: str, vocab_size: int, unknown: str, by_id: Mapping[int, tuple[str, float]], as_bytes: bool
) -> bytes:
    unknown_id = next(index for index, (piece, _) in by_id.items() if piece == unknown)
    # Begin, end and padding of sentence (41, 42, 43) are -1: none.
    none = (1 << 64) - 1
    return (
        _number(3, _MODEL_TYPES[kind])
        + _number(4, vocab_size)
        + _number(35, int(as_bytes))
        + _number(40, unknown_id)
        + b"".join(_number(field, none) for field in (41, 42, 43))
        + _message(45, unknown.encode())
    )


def _normaliser(data: Mapping[str, Any]) -> bytes:
    table = b""
    for part in _parts(data.get("normalizer")):
        if part.get("type") == "Precompiled":
            try:
                table = base64.b64decode(part.get("precompiled_charsmap") or "")
            except (binascii.Error, ValueError, TypeError) as error:
                raise CheckpointError(f"tokenizer.json has a damaged normaliser: {error}") from None
    splits = [part for part in _parts(data.get("pre_tokenizer")) if part.get("type") == "Metaspace"]
    prefix = not splits or splits[0].get("prepend_scheme", "always") != "never"
    name = b"precompiled" if table else b"identity"
    return _message(1, name) + _message(2, table) + _number(3, int(prefix)) + _number(4, 1) + _number(5, 1)


def _parts(section: Any) -> Iterator[Mapping[str, Any]]:
    """A step of the pipeline and the steps inside it."""
    if isinstance(section, Mapping):
        yield section
        for inner in [*(section.get("normalizers") or []), *(section.get("pretokenizers") or [])]:
            yield from _parts(inner)


def _is_byte(entry: tuple[str, float]) -> bool:
    return _BYTE_PIECE.fullmatch(entry[0]) is not None


def _piece(text: str, score: float, type_: int) -> bytes:
    return _message(1, text.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", score) + _number(3, type_)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
