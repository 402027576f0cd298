"""`aronnax bins` measures conversations as training does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from aronnax.cli.bins import bins
from aronnax.collections.common.data.config import BatchingConfig, DataConfig, InputConfig
from aronnax.collections.common.data.filters import count_tokens
from aronnax.collections.llm.chat.tokenizer import ChatTokenizer
from aronnax.collections.speechlm.conversation.data import ConversationConfig, conversation_data
from aronnax.collections.speechlm.conversation.measuring import are_conversations, measure_conversations
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError, OptionError

Noise = Callable[..., str]


@pytest.fixture
def talks(tmp_path: Path, noise: Noise) -> Path:
    """Conversations with two recordings, with one, and without any."""
    a, b = noise("a.wav", 0.5), noise("b.wav", 1.25)
    turns: list[list[Any]] = [
        ["say", {"audio": a}, "and", {"audio": b}],
        ["x y z", {"audio": b, "offset": 0.25, "duration": 0.5}],
        ["a b c d e f"],
    ]
    lines = [
        {"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": "q r s"}]}
        for one in turns * 4
    ]
    path = tmp_path / "talks.jsonl"
    path.write_text("\n" + "\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def folder(tmp_path: Path, tokenizer: ChatTokenizer) -> Path:
    """The tokenizer as files beside others, as a model's folder has them."""
    place = tmp_path / "model"
    place.mkdir()
    for name, content in {**tokenizer.assets(), "model.safetensors": b"x"}.items():
        (place / name).write_bytes(content)
    return place


def test_lengths_and_tokens_are_those_of_the_data_module(talks: Path, tokenizer: ChatTokenizer) -> None:
    data = DataConfig(train=(InputConfig("conversations", str(talks)),), shuffle=False, sample_rate=8000)
    conversation = ConversationConfig(token_equivalent_duration=0.1)
    cuts = list(conversation_data(data, tokenizer, conversation).cuts())
    lengths, counts = measure_conversations([str(talks)], tokenizer, 0.1, 1000)
    assert lengths == [cut.duration for cut in cuts]
    assert counts == [count_tokens(cut, None) for cut in cuts]
    assert lengths[0] == pytest.approx(1.75 + 0.1 * counts[0])
    assert lengths[2] == pytest.approx(0.1 * counts[2])


def test_the_command_prints_edges_of_heard_and_written_together(
    talks: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"buckets": 3, "batch_duration": 9.0, "tokenizer": folder, "prompt": "digits"}
    bins([str(talks)], **options)
    printed = capsys.readouterr().out
    assert printed.startswith("# 12 conversations, 0.01 h, 1.04 to 2.47 s")
    batching = from_dict(BatchingConfig, yaml.safe_load(printed)["batching"])
    assert batching.bucket_duration_bins
    assert not batching.two_dimensional
    bins([str(talks)], two_dimensional=True, sub_buckets=1, **options)
    assert from_dict(BatchingConfig, yaml.safe_load(capsys.readouterr().out)["batching"]).two_dimensional


def test_what_is_missing_is_said(talks: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="conversations are measured in tokens too: name a --tokenizer"):
        bins([str(talks)])
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        bins([str(talks)], tokenizer=tmp_path)
    manifest = tmp_path / "plain.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "a.wav", "duration": 1.0, "text": "a"}))
    assert are_conversations(str(talks))
    assert not are_conversations(str(manifest))
    assert not are_conversations(str(tmp_path / "gone.jsonl"))
