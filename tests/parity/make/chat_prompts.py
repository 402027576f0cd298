"""Write the fixture of chat prompts: ids and masks that NeMo's prompt formatters give with two small tokenizers.

Run in NeMo's environment: python tests/parity/make/chat_prompts.py [OUT_FOLDER]
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from nemo.collections.common.prompts.formatter import PromptFormatter
from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

AUDIO = "<|audioplaceholder|>"
TEXTS = [
    "Transcribe the following: Hello, world! What is said after the number seven?",
    "You are a helpful assistant. user\nassistant\nsystem\nmodel\n seven three nine. Hi there, über straße.",
    "[INST] <<SYS>> <</SYS>> [/INST] Instruct: Output: Human: AI: <think> </think> /no_think",
]
SPECIALS = [
    *(
        "<unk>",
        "<s>",
        "</s>",
        "<pad>",
        "<|im_start|>",
        "<|im_end|>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
    ),
    *("<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<SPECIAL_10>", "<SPECIAL_11>"),
]
CHATS: dict[str, list[dict[str, str]]] = {
    "question": [{"role": "user", "content": f"Transcribe the following: {AUDIO}"}],
    "answered": [
        {"role": "user", "content": f"{AUDIO} What is said after the number seven?"},
        {"role": "assistant", "content": "three, nine"},
    ],
    "two rounds": [
        {"role": "user", "content": "Hi there."},
        {"role": "assistant", "content": "Hello, world!"},
        {"role": "user", "content": f"{AUDIO} and {AUDIO}\n über straße?"},
        {"role": "assistant", "content": " seven  "},
    ],
    "two rounds asked": [
        {"role": "user", "content": "Hi there."},
        {"role": "assistant", "content": "<think>so</think> Hello, world!"},
        {"role": "user", "content": "seven three"},
    ],
    "thought": [
        {"role": "user", "content": "seven three"},
        {"role": "assistant", "content": "<think>Hello </think>\n\nnine"},
    ],
}
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
FORMATS = {
    "bytes": [
        "qwen",
        "qwen3",
        "nemotron-nano-v3",
        "nemotron-h",
        "llama3",
        "plain",
        "phi2_qa",
        "phi2_chat",
        "phi2_code",
    ],
    "blanks": ["llama2", "gemma", "mistral", "plain"],
}
HAS_SYSTEM = {"qwen3", "nemotron-nano-v3", "nemotron-h", "llama3"}


def make_tokenizer(kind: str) -> Tokenizer:
    """A BPE of bytes as Qwen's and Llama 3's, or of pieces with a mark for blanks as Llama 2's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if kind == "blanks" else None))
    alphabet: list[str] = []
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in SPECIALS])
    return tokenizer


def turns_of(name: str, chat: list[dict[str, str]], system: bool) -> list[dict[str, Any]]:
    """The turns as the formatter of that name takes them."""
    chat = copy.deepcopy(chat)
    if not system:
        return chat
    if name == "llama2":
        first = {"system": SYSTEM["content"], "message": chat[0]["content"]}
        return [{"role": "system_and_user", "slots": first}, *chat[1:]]
    return [dict(SYSTEM), *chat]


def cases_of(kind: str, folder: str) -> list[dict[str, Any]]:
    """Ids and masks of every format and conversation."""
    tokenizer = AutoTokenizer(folder, additional_special_tokens=[AUDIO])
    cases = []
    for name in FORMATS[kind]:
        formatter = PromptFormatter.resolve(name)(tokenizer)
        for label, chat in CHATS.items():
            for system in (False, True) if name in HAS_SYSTEM or name == "llama2" else (False,):
                for thinking in (True, False) if name in ("qwen3", "nemotron-nano-v3") else (True,):
                    options = {} if thinking else {"enable_thinking": False}
                    random.seed(7)
                    made = formatter.encode_dialog(turns_of(name, chat, system), **options)
                    ids = made["input_ids"].tolist()
                    audio = tokenizer.token_to_id(AUDIO)
                    cases.append(
                        {
                            "format": name,
                            "chat": label,
                            "system": system,
                            "thinking": thinking,
                            "ids": [-1 if token == audio else token for token in ids],
                            "learned": [index for index, one in enumerate(made["mask"].tolist()) if one]
                            if "mask" in made
                            else [],
                        }
                    )
    return cases


def main(out: Path) -> None:
    """Write chat_prompts.json."""
    fixture: dict[str, Any] = {"chats": CHATS, "system": SYSTEM, "tokenizers": {}, "cases": {}}
    for kind in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = make_tokenizer(kind)
            tokenizer.save(f"{folder}/tokenizer.json", pretty=False)
            names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
            settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
            Path(folder, "tokenizer_config.json").write_text(json.dumps(settings))
            fixture["tokenizers"][kind] = {
                file: Path(folder, file).read_text() for file in ("tokenizer.json", "tokenizer_config.json")
            }
            fixture["cases"][kind] = cases_of(kind, folder)
    (out / "chat_prompts.json").write_text(json.dumps(fixture, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "fixtures"))
