"""The word tokenizer of the small language models, in Hugging Face's format: one piece a word, and seven marks."""

from __future__ import annotations

import json

from questions import DIGITS, vocabulary

SPECIALS = ("<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>", "<|audio|>", "<|filler|>")
"""Marks; `<|filler|>` is what stands between words when the model is made used to speech frames."""
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def tokenizer_files() -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json, whose chat template writes what the format `digits` writes.

    Text is put into lower case, punctuation other than the colon is dropped, and `7` is read as `seven`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = {word: index for index, word in enumerate((*SPECIALS, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            *(normalizers.Replace(str(value), f" {word} ") for value, word in enumerate(DIGITS)),
            normalizers.Replace(Regex(r"[^\w\s:]"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in SPECIALS])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": (json.dumps(settings, indent=1) + "\n").encode(),
    }
