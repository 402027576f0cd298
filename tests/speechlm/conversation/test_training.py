"""A speech language model trained on files: conversations, a manifest by templates, and texts beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from aronnax.cli.fit import FitOptions, fit_batch_sizes
from aronnax.collections.speechlm.training import load_config, train
from aronnax.core.config import to_dict
from aronnax.core.errors import ManifestError
from tests.speechlm.tiny import CONFIG, RATE, tokenizer_files


def recipe(tmp_path: Path, noise: Callable[..., str], write_lines: Callable[..., Path]) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**CONFIG.backbone.settings)).save_pretrained(tmp_path / "llm")
    for name, content in tokenizer_files().items():
        (tmp_path / "llm" / name).write_bytes(content)
    sounds = [noise(f"{n}.wav", 0.4 + 0.1 * n, RATE) for n in range(6)]
    answer = {"role": "assistant", "content": "two one"}
    talks = [
        {"messages": [{"role": "user", "content": ["is", {"audio": a}, "what", {"audio": b}]}, answer]}
        for a, b in pairwise(sounds)
    ]
    written = [{"messages": [{"role": "user", "content": "what is one"}, answer]} for _ in range(4)]
    heard = [{"audio_filepath": sound, "text": "three four"} for sound in sounds]
    talks_file = write_lines(*talks, name="talks.jsonl")
    streams = {
        "audio": {
            "train": [
                {"type": "conversations", "path": str(talks_file)},
                str(write_lines(*heard, name="heard.jsonl")),
            ],
            "batching": {"batch_duration": 6.0, "buckets": 2},
        },
        "text": {
            "train": [{"type": "conversations", "path": str(write_lines(*written, name="written.jsonl"))}],
            "batching": {"batch_size": 2, "buckets": 1},
        },
    }
    mapping: dict[str, Any] = {
        "output": str(tmp_path / "run"),
        "init_from": {"llm": str(tmp_path / "llm")},
        "model": {
            "type": "salm",
            "prompt_format": "digits",
            "perception": to_dict(CONFIG.perception),
            "lora": {"rank": 2, "alpha": 4.0, "target_modules": ["q_proj"]},
        },
        "task": {"answer_tokens": 3},
        "conversation": {
            "templates": [{"question": ["repeat :", "{audio} what is said"]}],
            "in_context": {"probability": 0.5, "number": 2},
        },
        "data": {
            "streams": streams,
            "validation": {"talks": [{"type": "conversations", "path": str(talks_file)}]},
            "num_workers": 2,
        },
        "optim": {"warmup_steps": 1, "schedule": "constant"},
        "trainer": {"max_steps": 12, "accelerator": "cpu", "loggers": [], "log_every": 1},
    }
    path = tmp_path / "salm.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


def test_files_of_all_kinds_are_trained_on_with_workers(
    tmp_path: Path, noise: Callable[..., str], write_lines: Callable[..., Path]
) -> None:
    result = train(load_config(recipe(tmp_path, noise, write_lines)), lambda line: None)
    assert result.after["val/loss"] < result.before["val/loss"]


def test_a_broken_line_is_told_before_a_model_is_loaded(
    tmp_path: Path, noise: Callable[..., str], write_lines: Callable[..., Path]
) -> None:
    config = load_config(recipe(tmp_path, noise, write_lines))
    shutil.rmtree(tmp_path / "llm")
    with (tmp_path / "talks.jsonl").open("a") as file:
        file.write(json.dumps({"messages": [{"role": "judge", "content": "a"}]}) + "\n")
    with pytest.raises(ManifestError, match=r"talks\.jsonl, line 6, turn 1: role is 'judge'"):
        train(config, lambda line: None)


def test_batch_sizes_are_found_for_conversations(
    tmp_path: Path, noise: Callable[..., str], write_lines: Callable[..., Path]
) -> None:
    config, out = recipe(tmp_path, noise, write_lines), tmp_path / "data.yaml"
    fit_batch_sizes(config, [], FitOptions(memory="24MB", out=out, stream="audio"))
    batching = yaml.safe_load(out.read_text())["data"]["streams"]["audio"]["batching"]
    assert len(batching["bucket_duration_bins"]) == len(batching["bucket_batch_sizes"]) == 2
    sizes = batching["bucket_batch_sizes"]
    assert sizes[0] >= sizes[1] >= 1
