"""Write the tokenizer fixtures: ids and texts that NeMo's tokenizers and its CTC decoding give.

Run in NeMo's environment: python tests/parity/make/text_pieces.py [OUT_FOLDER]
"""

from __future__ import annotations

import base64
import io
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sentencepiece
from nemo.collections.asr.parts.submodules.ctc_decoding import (
    CTCBPEDecoding,
    CTCBPEDecodingConfig,
    CTCDecoding,
    CTCDecodingConfig,
)
from nemo.collections.common.parts.preprocessing.parsers import make_parser
from nemo.collections.common.tokenizers import AggregateTokenizer, SentencePieceTokenizer
from transformers import BertTokenizer

TRAINING = [
    "Hello, world! It's a fine day; isn't it?",
    "The quick brown fox jumps over the lazy dog.",
    'She said: "wait..." and left. Well-known (very) things, no?',
    "Ein schöner Tag, nicht wahr? Straße und Übung.",
]
TEXTS = [
    *TRAINING,
    "",
    "  two   blanks ",
    "hello , world .",
    "unknown ☯ signs",
    "it 's odd - isn't it",
    "The zebra quizzed foxes!",
]
IDS = [[3, 9, 1, 20, 5], [0, 0], [7], [11, 4, 30, 2, 2, 16], [25, 1, 0, 14]]
_WORDPIECES = """
[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e f g h i l n o r s t u w x y z ##a ##b ##d ##e ##i ##l ##ll ##n ##o
##r ##s ##t ##y . , ! ? ' " : ; ( ) - The the quick fox ##es hello Hello world is it It She said
"""
WORDPIECES = _WORDPIECES.split()
LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]


def train(texts: list[str], size: int, kind: str) -> bytes:
    """Return a small SentencePiece model without normalisation rules, which alone would take 240 kB."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=size,
        model_type=kind,
        bos_id=-1,
        eos_id=-1,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return model.getvalue()


def case(tokenizer: Any, encode: Any, size: int) -> dict[str, Any]:
    """Return what NeMo encodes the texts to, and what its CTC decoding writes for ids."""
    decoding = CTCBPEDecoding(CTCBPEDecodingConfig(), tokenizer)
    encoded = [[int(token) for token in encode(text)] for text in TEXTS]
    ids = [*encoded, *[[token % size for token in row] for row in IDS]]
    return {
        "texts": TEXTS,
        "encoded": encoded,
        "ids": ids,
        "decoded": [decoding.decode_tokens_to_str_with_strip_punctuation(row) for row in ids],
        "pieces": [list(decoding.decode_ids_to_tokens(row)) for row in ids],
    }


def wordpiece(folder: Path) -> dict[str, Any]:
    """Return the case of NeMo's `wpe`: a cased BERT tokenizer over vocab.txt, made without asking the hub."""
    vocab = folder / "vocab.txt"
    vocab.write_text("".join(f"{piece}\n" for piece in WORDPIECES))
    bert = BertTokenizer(str(vocab), do_lower_case=False)
    wrapped = SimpleNamespace(
        tokenizer=bert,
        vocab=WORDPIECES,
        vocab_size=len(WORDPIECES),
        ids_to_tokens=bert.convert_ids_to_tokens,
        tokens_to_text=bert.convert_tokens_to_string,
    )
    encode = lambda text: bert.convert_tokens_to_ids(bert.tokenize(text))  # noqa: E731
    return {"vocabulary": WORDPIECES, **case(wrapped, encode, len(WORDPIECES))}


def characters() -> dict[str, Any]:
    """Return the case of NeMo's character models."""
    parser = make_parser(labels=LABELS, name="base", unk_id=len(LABELS), blank_id=len(LABELS))
    decoding = CTCDecoding(CTCDecodingConfig(), LABELS)
    encoded = [parser(text) for text in TEXTS]
    return {
        "labels": LABELS,
        "texts": TEXTS,
        "encoded": encoded,
        "ids": encoded,
        "decoded": [decoding.decode_tokens_to_str_with_strip_punctuation(row) for row in encoded],
    }


def main(out: Path) -> None:
    """Write `tokenizers.json`."""
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {"bpe": train(TRAINING, 90, "bpe"), "unigram": train(TRAINING, 60, "unigram")}
        for kind, model in models.items():
            (folder / kind).mkdir()
            (folder / kind / "tokenizer.model").write_bytes(model)
            (folder / kind / "vocab.txt").write_text("")
            tokenizer = SentencePieceTokenizer(str(folder / kind / "tokenizer.model"))
            tokenizer.tokenizer.vocab_size = tokenizer.vocab_size
            encoded = base64.b64encode(model).decode()
            cases[kind] = {"model": encoded, **case(tokenizer, tokenizer.text_to_ids, tokenizer.vocab_size)}
        parts = {kind: SentencePieceTokenizer(str(folder / kind / "tokenizer.model")) for kind in models}
        for part in parts.values():
            part.tokenizer.vocab_size = part.vocab_size
        joined = AggregateTokenizer(parts)
        ids = [joined.text_to_ids(text, language) for text in TEXTS for language in models]
        cases["aggregate"] = {
            "languages": list(models),
            "texts": TEXTS,
            "encoded": ids,
            "decoded": [joined.ids_to_text(row) for row in ids],
        }
        cases["wordpiece"] = wordpiece(folder)
    cases["characters"] = characters()
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizers.json").write_text(json.dumps(cases, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "fixtures")
