"""Conversations through the data module: lengths on one scale, buckets, filters, streams."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aronnax.collections.common.audio.perturb import PerturbConfig
from aronnax.collections.common.data import BatchingConfig, DataConfig, FilterConfig
from aronnax.collections.common.data.config import StreamConfig
from aronnax.collections.common.data.filters import count_tokens
from aronnax.collections.common.data.limits import look_at
from aronnax.collections.common.data.module import SpeechDataModule
from aronnax.collections.common.data.non_speech import NonSpeechConfig
from aronnax.collections.common.data.recordings import heard
from aronnax.collections.llm.chat.tokenizer import AUDIO, ChatTokenizer
from aronnax.collections.speechlm.conversation.batch import ConversationBatch, MakeConversationBatch
from aronnax.collections.speechlm.conversation.cuts import messages_of
from aronnax.collections.speechlm.conversation.data import ConversationConfig, conversation_data
from aronnax.collections.speechlm.conversation.in_context import InContextConfig
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError, ManifestError

RATE = 8000
Noise = Callable[..., str]
Write = Callable[..., Path]


def talk(*content: Any, answer: str = "x", **fields: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": list(content)}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **fields}


def data(path: Path, tokenizer: ChatTokenizer, kind: str = "conversations", **options: Any) -> Any:
    inputs = {"type": kind, "path": str(path)}
    conversation = options.pop("conversation", None)
    options = {"batching": BatchingConfig(batch_size=4, buckets=1), "num_workers": 0, **options}
    config = DataConfig(train=inputs, sample_rate=RATE, **options)
    return conversation_data(config, tokenizer, conversation)


def one_pass(module: SpeechDataModule[ConversationBatch]) -> list[ConversationBatch]:
    return [loaded.batch for loaded in module._open_pass(0, 0) if loaded.batch is not None]


def test_rows_with_two_one_and_no_recordings_share_a_batch(
    write_lines: Write, noise: Noise, tokenizer: ChatTokenizer
) -> None:
    two = talk(
        "a", {"audio": noise("1.wav", 0.5)}, "b", {"audio": noise("2.wav", 1.0, 16000), "offset": 0.75}
    )
    one = talk({"audio": noise("3.wav", 0.3)}, answer="y z")
    path = write_lines({"id": "two", **two}, {"id": "one", **one}, {"id": "none", **talk("c")})
    (batch,) = one_pass(data(path, tokenizer, shuffle=False))
    assert batch.names == ["two", "one", "none"]
    assert batch.audio_counts.tolist() == [2, 1, 0]
    assert batch.signal_lengths.tolist() == [4000, 2000, 2400]
    assert batch.texts == ["x", "y z", "x"]
    assert [row.count(AUDIO) for row in batch.ids.tolist()] == [2, 1, 0]


def test_a_length_is_that_of_the_recordings_and_of_each_token(
    write_lines: Write, noise: Noise, tokenizer: ChatTokenizer
) -> None:
    path = write_lines(talk("a b", {"audio": noise("1.wav", 0.5)}), talk("c"))
    heard, read = data(path, tokenizer, shuffle=False).cuts()
    # Two words, the answer, and the four marks of two turns.
    assert (count_tokens(heard, None), heard.duration) == (7, pytest.approx(0.5 + 7 * 0.08))
    assert (count_tokens(read, None), read.duration) == (6, pytest.approx(6 * 0.08))
    longer = ConversationConfig(token_equivalent_duration=0.16)
    assert next(data(path, tokenizer, shuffle=False, conversation=longer).cuts()).duration == pytest.approx(
        1.62
    )


def test_filters_and_buckets_count_the_whole_length(
    write_lines: Write, noise: Noise, tokenizer: ChatTokenizer
) -> None:
    rows = [talk(" ".join("a" * words), {"audio": noise("1.wav", 0.4)}) for words in (1, 2, 5, 12, 40)]
    path = write_lines(*rows)
    module = data(path, tokenizer, filters=FilterConfig(max_duration=2.0), shuffle=False)
    assert [count_tokens(cut, None) for cut in module.cuts()] == [6, 7, 10, 17]
    assert "1 longer than 2 s" in str(module.dropped)
    bins = ((1.2, 7), (1.2, 10), (2.0, 20))
    batching = BatchingConfig(bucket_duration_bins=bins, bucket_batch_sizes=(4, 2, 1))
    module = data(path, tokenizer, batching=batching)
    assert sorted(len(batch) for batch in one_pass(module)) == [1, 1, 2]
    assert "1 longer or with more tokens than any bucket" in str(module.dropped)


def test_the_batch_size_finder_sees_lengths_and_tokens(
    write_lines: Write, noise: Noise, tokenizer: ChatTokenizer
) -> None:
    path = write_lines(talk("a b", {"audio": noise("1.wav", 0.5)}), talk("c"))
    seen = look_at(data(path, tokenizer, shuffle=False), 10)
    assert seen.tokens == [7, 6]
    assert seen.seconds == pytest.approx([1.06, 0.48])


def test_manifests_become_conversations_by_templates(
    write_lines: Write, noise: Noise, tokenizer: ChatTokenizer
) -> None:
    lines = [
        {"audio_filepath": noise(f"{n}.wav", 0.3), "text": "a b", "source_lang": "en", "target_lang": target}
        for n, target in enumerate(["en", "de"] * 8)
    ]
    module = data(write_lines(*lines), tokenizer, "nemo_manifest", shuffle=False)
    asked = [messages_of(cut)[0].text("@") for cut in module.cuts()]
    assert len(set(asked[::2])) > 1
    assert all("German" in question for question in asked[1::2])
    assert all(question.count("@") == 1 for question in asked)
    assert [messages_of(cut)[0].text("@") for cut in module.cuts()] == asked
    assert [messages_of(cut)[0].text("@") for cut in module.cuts(1)] != asked
    assert {cut.custom["task"] for cut in module.cuts()} == {"asr", "ast"}


def test_validation_asks_the_same_first_question_each_time(
    write_lines: Write, noise: Noise, tokenizer: ChatTokenizer
) -> None:
    lines = [{"audio_filepath": noise(f"{n}.wav", 0.3), "text": "a b"} for n in range(5)]
    path = write_lines(*lines)
    config = DataConfig(train=str(path), validation=str(path), sample_rate=RATE, num_workers=0)
    listed = ConversationConfig(in_context=InContextConfig(probability=1.0))
    (loader,) = conversation_data(config, tokenizer, listed).val_dataloader()
    first, again = list(loader), list(loader)
    assert first[0].ids.equal(again[0].ids)
    assert len({tuple(row) for row in first[0].ids.tolist()}) == 1
    assert len(first[0]) == 5


def test_lists_of_words_stand_in_questions_about_recordings_only(
    write_lines: Write, noise: Noise, tokenizer: ChatTokenizer
) -> None:
    rows = [
        talk({"audio": noise("1.wav", 0.3)}, answer="a b", task="asr"),
        talk("c", answer="d", task="asr"),
        talk({"audio": noise("2.wav", 0.3)}, answer="e f", task="asr"),
        talk({"audio": noise("3.wav", 0.3)}, answer="g h", task="qa"),
    ]
    listed = ConversationConfig(in_context=InContextConfig(probability=1.0, number=2))
    module = data(write_lines(*rows), tokenizer, shuffle=False, conversation=listed)
    asked = [messages_of(cut)[0].text("@") for cut in module.cuts()]
    assert [question.startswith("Following words") for question in asked] == [False, False, True, False]
    words = set(asked[2].partition("[")[2].partition("]")[0].replace("'", "").split())
    assert len(words & {"a", "b"}) == 1
    assert len(words & {"e", "f"}) == 1


def test_perturbing_reaches_every_recording_and_the_length(
    write_lines: Write, noise: Noise, tokenizer: ChatTokenizer
) -> None:
    path = write_lines(talk({"audio": noise("1.wav", 1.0)}, {"audio": noise("2.wav", 0.5)}), talk("c"))
    perturb = PerturbConfig(speed_factors=(2.0,), speed_probability=1.0)
    module = data(path, tokenizer, shuffle=False, perturb=perturb)
    heard_cut, read = module.cuts()
    assert [part.duration for part in heard(heard_cut)] == pytest.approx([0.5, 0.25])
    assert heard_cut.duration == pytest.approx(0.75 + count_tokens(heard_cut, None) * 0.08)
    assert read.duration == pytest.approx(6 * 0.08)
    (batch,) = one_pass(module)
    assert batch.signal_lengths.tolist() == [4000, 2000]


def test_recordings_without_speech_are_asked_about_and_answered_with_nothing(
    write_lines: Write, noise: Noise, tokenizer: ChatTokenizer
) -> None:
    lines = [{"audio_filepath": noise(f"{n}.wav", 0.3), "text": "a b"} for n in range(20)]
    module = data(
        write_lines(*lines),
        tokenizer,
        "nemo_manifest",
        non_speech=NonSpeechConfig(share=0.5, seconds=(0.5, 1.0)),
    )
    answers = [messages_of(cut)[-1].text() for cut in module.cuts()]
    assert answers.count("a b") == 20
    assert answers.count("") > 5


def test_a_missing_recording_costs_one_conversation_and_is_named(
    write_lines: Write, noise: Noise, tokenizer: ChatTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_lines(talk({"audio": "gone.wav"}), talk({"audio": noise("1.wav", 0.3)}))
    (batch,) = one_pass(data(path, tokenizer))
    assert len(batch) == 1
    assert "conversations.jsonl, line 1 is skipped: turn 1 (user): " in caplog.text
    assert "gone.wav" in caplog.text


def test_other_models_say_that_conversations_are_not_for_them(
    write_lines: Write, tokenizer: ChatTokenizer
) -> None:
    inputs = {"type": "conversations", "path": str(write_lines(talk("a")))}
    module = SpeechDataModule(DataConfig(train=inputs), MakeConversationBatch(tokenizer))
    with pytest.raises(ConfigError, match="conversations are for speech language models"):
        list(module.cuts())


def test_a_file_of_conversations_that_is_taken_for_a_manifest_says_its_type(
    write_lines: Write, tokenizer: ChatTokenizer
) -> None:
    module = data(write_lines(talk("a")), tokenizer, "nemo_manifest")
    with pytest.raises(ManifestError, match=r"audio_filepath is missing; .* `type: conversations`"):
        list(module.cuts())


def two_streams(
    tmp_path: Path, write: Write, noise: Noise, tokenizer: ChatTokenizer, **weights: float
) -> Any:
    sounds = write(
        *({"id": f"sound{n}", **talk({"audio": noise(f"{n}.wav", 0.1)})} for n in range(7)),
        name="sounds.jsonl",
    )
    texts = write(*({"id": f"text{n}", **talk("c")} for n in range(5)), name="texts.jsonl")
    given = {
        name: {
            "train": {"type": "conversations", "path": str(path)},
            "batching": {"batch_size": size, "buckets": 1, "concurrent": False},
            **({"weight": weights[name]} if weights else {}),
        }
        for name, path, size in (("audio", sounds, 2), ("text", texts, 1))
    }
    config = from_dict(DataConfig, {"streams": given, "sample_rate": RATE, "num_workers": 0, "seed": 3})
    return conversation_data(config, tokenizer)


def kinds(module: Any, steps: int) -> list[str]:
    batches = iter(module.batches())
    return ["".join(c for c in next(iter(next(batches))).id if c.isalpha()) for _ in range(steps)]


def test_each_step_is_of_one_kind_and_the_share_is_the_weight(
    tmp_path: Path, write_lines: Write, noise: Noise, tokenizer: ChatTokenizer
) -> None:
    from aronnax.collections.common.data.mixing import RoundRobin

    class Kind(list):
        def close(self) -> None:
            pass

    rounds = RoundRobin(
        {"audio": lambda n: Kind([1] * 500), "text": lambda n: Kind([0] * 70)}, [0.85, 0.15], "s"
    )
    steps = [kind for kind, _ in zip(rounds, range(20_000))]
    assert sum(steps) / len(steps) == pytest.approx(0.85, abs=0.01)
    assert steps == [kind for kind, _ in zip(rounds, range(20_000))]
    module = two_streams(tmp_path, write_lines, noise, tokenizer)
    assert [stream.weight for stream in module.config.training.values()] == [0.85, 0.15]
    drawn = kinds(module, 60)
    assert 40 < drawn.count("sound") < 60
    assert kinds(two_streams(tmp_path, write_lines, noise, tokenizer), 60) == drawn


def test_all_ranks_are_at_the_same_kind_of_step_and_share_no_conversation(
    tmp_path: Path, write_lines: Write, noise: Noise, tokenizer: ChatTokenizer
) -> None:
    steps = []
    for rank in range(2):
        module = two_streams(tmp_path, write_lines, noise, tokenizer, audio=1.0, text=1.0)
        module._ranks = lambda rank=rank: (rank, 2)
        batches = module.batches()
        steps.append([[cut.id for cut in batch] for batch, _ in zip(batches, range(60))])
        batches.close()
    for one, other in zip(*steps):
        assert one[0].startswith("sound") == other[0].startswith("sound")
        assert not set(one) & set(other)
    assert {row[0].startswith("sound") for row in steps[0]} == {True, False}


def test_two_streams_go_on_at_the_very_next_batch(
    tmp_path: Path, write_lines: Write, noise: Noise, tokenizer: ChatTokenizer
) -> None:
    def take(module: Any, number: int) -> list[list[str]]:
        return [batch.names for batch, _ in zip(module.train_dataloader(), range(number))]

    whole = take(two_streams(tmp_path, write_lines, noise, tokenizer, audio=1.0, text=1.0), 30)
    for stop in (1, 11):
        first = two_streams(tmp_path, write_lines, noise, tokenizer, audio=1.0, text=1.0)
        assert take(first, stop) == whole[:stop]
        # As after a checkpoint: a new process, told only how far the other had come.
        state = json.loads(json.dumps({"epoch": 0, "position": stop, "world_size": 1}))
        again = two_streams(tmp_path, write_lines, noise, tokenizer, audio=1.0, text=1.0)
        again.load_state_dict(state)
        assert take(again, 30 - stop) == whole[stop:]


def test_streams_are_checked_when_they_are_configured() -> None:
    with pytest.raises(ConfigError, match=r"data.train and data.streams are both given"):
        DataConfig(train="a.jsonl", streams={"text": StreamConfig("b.jsonl")})
    with pytest.raises(ConfigError, match=r"either all of data.streams have a weight or none"):
        DataConfig(streams={"a": StreamConfig("b.jsonl", weight=1.0), "b": StreamConfig("b.jsonl")})
    with pytest.raises(ConfigError, match="weight -1"):
        StreamConfig("b.jsonl", weight=-1)
