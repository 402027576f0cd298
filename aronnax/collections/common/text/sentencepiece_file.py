"""The little of SentencePiece's file format that adding pieces takes.

A model file is a protocol buffer (sentencepiece_model.proto): pieces are field 1 (text 1, score 2, type 3),
the trainer's settings field 2 (model type 3, vocabulary size 4). Messages written one after the other read as
one, repeated fields joined and later settings winning, so new pieces are appended and nothing is rewritten.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

PieceType = Literal["normal", "user_defined"]

_TYPES: dict[PieceType, int] = {"normal": 1, "user_defined": 4}
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Piece(NamedTuple):
    """One entry of the vocabulary."""

    text: str
    score: float
    type: PieceType


def append_pieces(model: bytes, old_size: int, pieces: Sequence[Piece]) -> bytes:
    """The model file with `pieces` after its `old_size` old ones, whose ids stay as they are."""
    added = b"".join(_field(1, _piece(piece)) for piece in pieces)
    size = _varint(4 << 3 | _VARINT) + _varint(old_size + len(pieces))
    return model + added + _field(2, size)


def model_type(model: bytes) -> str:
    """`unigram`, `bpe`, `word` or `char`; a file that does not say is `unigram`."""
    kind = 1
    for number, value in _fields(model):
        if number == 2 and isinstance(value, bytes):
            for inner, setting in _fields(value):
                if inner == 3 and isinstance(setting, int):
                    kind = setting
    return _MODEL_TYPES.get(kind, "unigram")


def ordinary_pieces(model: bytes) -> frozenset[int]:
    """Ids of the pieces that are neither unknown, control, user-defined, unused nor bytes."""
    types = []
    for number, value in _fields(model):
        if number == 1 and isinstance(value, bytes):
            types.append(next((kind for inner, kind in _fields(value) if inner == 3), _TYPES["normal"]))
    return frozenset(token for token, kind in enumerate(types) if kind == _TYPES["normal"])


def _piece(piece: Piece) -> bytes:
    score = _varint(2 << 3 | _FIXED32) + struct.pack("<f", piece.score)
    kind = _varint(3 << 3 | _VARINT) + _varint(_TYPES[piece.type])
    return _field(1, piece.text.encode()) + score + kind


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _read_varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = _read_varint(data, at)
        else:
            length = 8 if wire == _FIXED64 else 4
        yield number, data[at : at + length]
        at += length
