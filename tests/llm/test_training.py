"""Language models train on conversations: all of them, parts, or low-rank layers; rows may hold several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("peft")

import aronnax
from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.llm.data import TextBatch, TextData, TextDataConfig, read_rows
from aronnax.collections.llm.model import LanguageModel
from aronnax.collections.llm.task import LanguageModelTask, LanguageModelTaskConfig
from aronnax.collections.llm.training import load_config, train
from aronnax.core.errors import ConfigError, ManifestError
from tests.llm.small import SETTINGS, language_model, tokenizer_files

CHATS = [
    ("seven", "three"),
    ("Hi", "Hello, world!"),
    ("What is said?", "nine"),
    ("seven three", "nine, seven"),
]


def line(*turns: str) -> str:
    roles = ("user", "assistant") * len(turns)
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in zip(roles, turns)]})


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(line(*chat) for chat in CHATS) + "\n\n", encoding="utf-8")
    return str(path)


def data(file: str, model: LanguageModel, **options: Any) -> TextData:
    return TextData(TextDataConfig((file,), {"dev": file}, **options), model.text, model.context)


def batches(of: TextData, epoch: int = 0) -> list[TextBatch]:
    return [of._batch(rows) for rows in of.batches(epoch)]


def summed(model: LanguageModel, of: list[TextBatch]) -> float:
    task = LanguageModelTask(model, OptimConfig(), LanguageModelTaskConfig())
    with torch.no_grad():
        return sum(task._loss(batch)[0].item() for batch in of)


def yaml(folder: Path, file: str, **changes: Any) -> str:
    """A configuration of a few quick steps, as the command reads it."""
    plain: dict[str, Any] = {
        "output": str(folder / "run"),
        "init_from": str(folder / "base"),
        "data": {"train": [file], "validation": {"dev": file}, "batch_tokens": 64},
        "optim": {"lr": 0.01, "warmup_steps": 2, "weight_decay": 0.0},
        "task": {"answer_tokens": 8},
        "trainer": {"max_steps": 40, "val_every": 40, "loggers": [], "devices": 1, "accelerator": "cpu"},
    }
    path = folder / "train.yaml"
    path.write_text(json.dumps({**plain, **changes}), encoding="utf-8")
    return str(path)


def test_labels_are_the_answers_shifted_by_one(file: str) -> None:
    model = language_model()
    for batch in batches(data(file, model, batch_tokens=1)):
        length = int(batch.lengths[0])
        learned = batch.labels[0, :length] != -100
        answer = batch.conversations[0][-1]["content"]
        assert model.text.decode(batch.labels[0, :length][learned].tolist()).strip() == f"assistant\n{answer}"
        assert torch.equal(batch.ids[0, 1:][learned[:-1]], batch.labels[0, :-1][learned[:-1]])


def test_a_batch_holds_at_most_so_many_positions_and_every_conversation_comes_once(file: str) -> None:
    made = batches(data(file, language_model(), batch_tokens=60))
    assert all(batch.ids.numel() <= 60 for batch in made)
    assert sorted(chat[0]["content"] for batch in made for chat in batch.conversations) == sorted(
        question for question, _ in CHATS
    )


def test_passes_differ_and_are_repeatable(file: str) -> None:
    model = language_model()
    orders = [
        [
            chat[0]["content"]
            for batch in batches(data(file, model, batch_tokens=1), epoch)
            for chat in batch.conversations
        ]
        for epoch in (0, 0, 1, 2)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] or orders[0] != orders[3]


def test_packed_conversations_do_not_see_each_other(file: str) -> None:
    model = language_model()
    packed = batches(data(file, model, batch_tokens=96, pack=True))
    assert packed[0].segments is not None
    assert len(packed[0].ids) < len(packed[0].conversations)
    apart = batches(data(file, model, batch_tokens=1))
    assert summed(model, packed) == pytest.approx(summed(model, apart), rel=1e-5)


def test_a_resumed_run_goes_on_at_the_very_next_batch(file: str) -> None:
    model = language_model()
    whole = data(file, model, batch_tokens=40)
    stream = iter(whole.train_dataloader())
    seen = [next(stream).ids for _ in range(9)]
    later = data(file, model, batch_tokens=40)
    later.load_state_dict({"used": 5})
    again = iter(later.train_dataloader())
    assert all(torch.equal(next(again).ids, ids) for ids in seen[5:])


def test_as_many_batches_are_passed_over_whatever_the_number_of_processes_was(file: str) -> None:
    later = data(file, language_model(), batch_tokens=40)
    later.load_state_dict({"used": 2, "world_size": 3})
    assert later.state_dict() == {"used": 6, "world_size": 1}


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("{", "line 2: Expecting"),
        ("[]", "line 2: the line must be an object with `messages`"),
        ('{"prompt": "hi", "completion": "hello"}', "an object with `messages`; it has prompt, completion"),
        (line("Hi"), "line 2: the last message must be the assistant's"),
        ('{"messages": [{"role": "judge", "content": "Hi"}]}', "line 2: turn 1 has the role 'judge'"),
        (
            '{"messages": [{"role": "user", "content": [{"audio": "a.wav"}]}, {"role": "assistant", "content": ""}]}',
            "line 2: it holds a recording; train a speech language model",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, broken: str, said: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(line("Hi", "Hello") + "\n" + broken + "\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=said):
        list(read_rows(str(path), language_model().text))


def test_a_broken_line_is_told_before_a_model_is_loaded(tmp_path: Path, file: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(line("Hi", "Hello") + "\n" + line("Hi") + "\n", encoding="utf-8")
    assert not (tmp_path / "base").exists(), "the model it would start from"
    for section in ({"train": [str(path)]}, {"train": [file], "validation": {"dev": str(path)}}):
        with pytest.raises(ManifestError, match=r"broken\.jsonl, line 2: the last message must be"):
            train(load_config(yaml(tmp_path, file, data=section)), lambda said: None)


def test_a_missing_file_and_one_of_too_long_conversations_are_told(tmp_path: Path, file: str) -> None:
    model = language_model()
    with pytest.raises(ManifestError, match="cannot be opened"):
        list(read_rows(str(tmp_path / "gone.jsonl"), model.text))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ManifestError, match=r"empty\.jsonl: the file is empty"):
        list(read_rows(str(tmp_path / "empty.jsonl"), model.text))
    with pytest.raises(ManifestError, match="no conversation has at most 3 tokens"):
        data(file, model, longest=3).batches(0)


def test_frozen_parts_are_named_by_prefix_or_pattern() -> None:
    model = language_model()
    options = LanguageModelTaskConfig(freeze=("llm.causal.model.layers.0", "*.embed_tokens.*"))
    LanguageModelTask(model, OptimConfig(), options)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        name for name, _ in model.named_parameters() if "layers.0." in name or "embed_tokens" in name
    }
    for pattern, said in (
        ("llm.encoder", "no trainable part"),
        ("*.lora_*", "no parameter"),
        ("llm", "nothing is left"),
    ):
        with pytest.raises(ConfigError, match=said):
            LanguageModelTask(language_model(), OptimConfig(), LanguageModelTaskConfig(freeze=(pattern,)))


def test_all_of_a_model_learns_its_conversations(tmp_path: Path, file: str) -> None:
    language_model().save_pretrained(tmp_path / "base")
    result = train(load_config(yaml(tmp_path, file)), say=lambda line: None)
    assert result.before["val/exact"] == 0
    assert result.after["val/exact"] == 1
    model: Any = aronnax.load(result.folder, device="cpu")
    assert [reply.text for reply in model.generate([question for question, _ in CHATS])] == [
        answer for _, answer in CHATS
    ]


def test_a_training_without_validation_says_that_nothing_is_scored(tmp_path: Path, file: str) -> None:
    language_model().save_pretrained(tmp_path / "base")
    trainer = {"max_steps": 3, "val_every": 3, "loggers": [], "accelerator": "cpu"}
    said: list[str] = []
    train(load_config(yaml(tmp_path, file, data={"train": [file]}, trainer=trainer)), said.append)
    assert [line for line in said if "no validation set" in line and "the last weights are kept" in line]
    assert (tmp_path / "run" / "model").is_dir()
    assert not (tmp_path / "run" / "best").exists()


@pytest.mark.parametrize("twice", [False, True])
def test_bfloat16_learns_as_float32(tmp_path: Path, file: str, twice: bool) -> None:
    language_model().save_pretrained(tmp_path / "base")
    found = []
    for precision in ("32-true", "bf16-mixed"):
        trainer = {
            "max_steps": 3,
            "val_every": 3,
            "loggers": [],
            "accelerator": "cpu",
            "precision": precision,
        }
        task = {"answer_tokens": 4, "gradient_checkpointing": twice}
        (tmp_path / precision).mkdir()
        changes = {"init_from": str(tmp_path / "base"), "trainer": trainer, "task": task}
        result = train(load_config(yaml(tmp_path / precision, file, **changes)), say=lambda line: None)
        found.append(result.after["val/loss"])
    assert found[1] == pytest.approx(found[0], rel=0.03)
    assert found[0] != found[1]


def test_low_rank_layers_learn_them_too_and_are_all_that_is_stored(tmp_path: Path, file: str) -> None:
    base = language_model()
    base.save_pretrained(tmp_path / "base")
    changed = {"model": {"lora": {"rank": 8, "alpha": 16}}}
    result = train(load_config(yaml(tmp_path, file, **changed)), say=lambda line: None)
    assert result.after["val/loss"] < result.before["val/loss"] / 4
    model: Any = aronnax.load(result.folder, device="cpu")
    unlearned: Any = model.generate("Hi", adapter=False, max_new_tokens=5)
    plain: Any = base.generate("Hi", max_new_tokens=5)
    assert unlearned.tokens == plain.tokens
    from aronnax.core.checkpoint import read_safetensors

    stored, _ = read_safetensors(result.folder / "model.safetensors")
    assert stored
    assert all(".lora_" in name for name in stored)


def test_a_model_from_scratch_needs_a_backbone_and_a_tokenizer(tmp_path: Path, file: str) -> None:
    from aronnax.collections.llm.training import build_model

    section = {
        "type": "causal_lm",
        "backbone": {"architecture": "llama", "settings": SETTINGS},
        "prompt_format": "qwen",
    }
    config = load_config(yaml(tmp_path, file, init_from=None, model=section))
    with pytest.raises(ConfigError, match="tokenizer is required without init_from"):
        build_model(config)
    for name, content in tokenizer_files().items():
        (tmp_path / name).write_bytes(content)
    fresh = build_model(
        load_config(yaml(tmp_path, file, init_from=None, model=section, tokenizer=str(tmp_path)))
    )
    assert fresh.text.prompt_format == "qwen"
    for wrong, said in (
        ({"type": "ctc"}, "a language model's is causal_lm"),
        ({"type": "causal_lm"}, "model.backbone"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_config(yaml(tmp_path, file, init_from=None, model=wrong))
    with pytest.raises(ConfigError, match="batch_token is not a known option"):
        load_config(yaml(tmp_path, file, data={"batch_token": 5}))


def test_a_model_whose_texts_see_each_other_is_not_packed(tmp_path: Path, file: str) -> None:
    for name, content in tokenizer_files().items():
        (tmp_path / name).write_bytes(content)
    settings = {"vocab_size": 440, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    section = {
        "type": "causal_lm",
        "backbone": {"architecture": "falcon", "settings": settings},
        "prompt_format": "qwen",
    }
    packed = {"train": [file], "pack": True}
    config = load_config(
        yaml(tmp_path, file, init_from=None, model=section, tokenizer=str(tmp_path), data=packed)
    )
    with pytest.raises(ConfigError, match=r"data\.pack: falcon cannot be told .*; set it to false"):
        train(config)
