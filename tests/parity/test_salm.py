"""SALMs written by NeMo 3.0.0 (fixtures/salm): frames, embeddings, logits 1e-4; targets and texts identical."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aronnax.collections.llm.chat.messages import Audio
from aronnax.collections.llm.lora.saved import load_adapter, save_adapter
from aronnax.collections.speechlm.salm.model import SALM
from aronnax.collections.speechlm.salm.splice import splice
from aronnax.core.errors import CheckpointError, ConfigError
from aronnax.core.loading import load, open_parts

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "salm"
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
NAMES = ("qwen3", "llama")
CONTENTS: list[list[Any]] = [
    ["transcribe the following:", 0],
    [1, "what is said?"],
    ["repeat", 2, "and", 3, "now"],
    ["what is said after the number seven?"],
]
ANSWERS = ["one two three", "seven", "three two", "number"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoints; one names a language model that lies elsewhere."""
    place = tmp_path_factory.mktemp("salm")
    for name in NAMES:
        shutil.copytree(FIXTURES / name, place / name)
    config = json.loads((place / "llama" / "config.json").read_text())
    config["pretrained_llm"] = str(FIXTURES / "llama_llm")
    (place / "llama" / "config.json").write_text(json.dumps(config))
    return {name: place / name for name in NAMES}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, SALM]:
    return {name: SALM.from_pretrained(folder, device="cpu") for name, folder in folders.items()}


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    return {name: dict(np.load(FIXTURES / f"{name}.npz")) for name in NAMES}


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    return {name: json.loads((FIXTURES / f"{name}.json").read_text()) for name in NAMES}


def signals(found: dict[str, Any]) -> list[torch.Tensor]:
    audios = torch.from_numpy(found["audios"]).float()
    return [row[:length] for row, length in zip(audios, found["audio_lens"].tolist())]


def conversations(found: dict[str, Any], *, answered: bool) -> list[list[dict[str, Any]]]:
    sounds = [Audio((signal.numpy(), 16000)) for signal in signals(found)]
    chats = []
    for content, said in zip(CONTENTS, ANSWERS):
        parts = [part if isinstance(part, str) else sounds[part] for part in content]
        chats.append([{"role": "user", "content": parts}])
        if answered:
            chats[-1].append({"role": "assistant", "content": said})
    return chats


@pytest.mark.parametrize("name", NAMES)
def test_recordings_become_the_same_frames(name: str, models: Any, arrays: Any) -> None:
    found = arrays[name]
    lengths = torch.from_numpy(found["audio_lens"])
    with torch.inference_mode():
        heard = models[name].hear(torch.from_numpy(found["audios"]).float(), lengths)
    for row, frames in enumerate(heard):
        np.testing.assert_allclose(frames.numpy(), found[f"frames_{row}"], **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_conversations_become_the_same_ids_and_answers(name: str, models: Any, arrays: Any) -> None:
    for row, chat in enumerate(conversations(arrays[name], answered=True)):
        rendered = models[name].text.render(chat, answer=True)
        length = len(rendered.ids)
        assert arrays[name]["ids"][row, -length:].tolist() == rendered.ids
        assert arrays[name]["mask"][row, -length:].tolist() == rendered.learned
        assert not arrays[name]["mask"][row, :-length].any()


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_recordings_are_spliced_in_as_nemo_does(name: str, left: bool, models: Any, arrays: Any) -> None:
    found, model = arrays[name], models[name]
    rows = [model.text.render(chat, answer=True) for chat in conversations(found, answered=True)]
    lengths = torch.tensor([len(row.ids) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    learned = torch.zeros_like(ids, dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        learned[place, : len(row.ids)] = torch.tensor(row.learned)
    frames = [torch.from_numpy(found[f"frames_{place}"]) for place in range(4)]
    with torch.inference_mode():
        words = model.llm.embed(ids.clamp(min=0))
    spliced = splice(ids, lengths, words, frames, learned=learned, left_padded=left)
    assert spliced.targets is not None
    width = spliced.embeddings.shape[1]
    for row, length in enumerate(spliced.lengths.tolist()):
        inside = slice(width - length, width) if left else slice(0, length)
        np.testing.assert_allclose(
            spliced.embeddings[row, inside].numpy(), found["embedded"][row, -length:], atol=1e-6, rtol=1e-6
        )
        assert spliced.targets[row, inside].tolist() == found["targets"][row, -length:].tolist()
        assert found["attention"][row].sum() == length


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_what_is_learned_are_the_same(name: str, models: Any, arrays: Any) -> None:
    from aronnax.collections.speechlm.conversation.batch import collate

    found, model = arrays[name], models[name]
    rows = [model.text.render(chat, answer=True) for chat in conversations(found, answered=True)]
    batch = collate(rows, signals(found), ANSWERS, list("abcd"), model.text.pad_id)
    with torch.inference_mode():
        hidden, labels = model.training_hidden(batch)
        logits = model.llm.logits(hidden)
    lengths = found["attention"].sum(axis=1)
    for row, length in enumerate(lengths.tolist()):
        # NeMo leaves out the last position, which says nothing.
        theirs = found["logits"][row, -(length - 1) :]
        np.testing.assert_allclose(logits[row, : length - 1].numpy(), theirs, **TOLERANCE)
        assert labels[row, : length - 1].tolist() == found["shifted"][row, -(length - 1) :].tolist()


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_greedy_answers_are_the_same(
    name: str, batch_size: int, models: Any, arrays: Any, answers: Any
) -> None:
    replies = models[name].generate(
        conversations(arrays[name], answered=False), max_new_tokens=12, batch_size=batch_size
    )
    assert [list(reply.tokens) for reply in replies] == answers[name]["tokens"]
    assert [reply.text for reply in replies] == answers[name]["texts"]


@pytest.mark.parametrize("name", NAMES)
def test_answers_without_low_rank_layers_are_the_same(
    name: str, models: Any, arrays: Any, answers: Any
) -> None:
    model = models[name]
    asked = conversations(arrays[name], answered=False)[-1]
    plain = model.generate(asked, max_new_tokens=12, adapter=False)
    wanted = answers[name]["without_lora"]
    end = next((place for place, token in enumerate(wanted) if token in model.text.end_ids), len(wanted))
    assert list(plain.tokens) == wanted[:end]


@pytest.mark.parametrize("name", NAMES)
def test_the_adapter_is_saved_and_loaded_again(
    name: str, folders: dict[str, Path], models: Any, arrays: Any, answers: Any, tmp_path: Path
) -> None:
    from aronnax.collections.llm.lora.attaching import drop, merge

    save_adapter(models[name].llm, tmp_path / "adapter", base=name)
    again = SALM.from_pretrained(folders[name], device="cpu")
    drop(again.llm)
    chats = conversations(arrays[name], answered=False)
    assert [list(reply.tokens) for reply in again.generate(chats, max_new_tokens=12)] != answers[name][
        "tokens"
    ]
    load_adapter(again.llm, tmp_path / "adapter")
    assert [list(reply.tokens) for reply in again.generate(chats, max_new_tokens=12)] == answers[name][
        "tokens"
    ]
    merge(again.llm)
    assert [list(reply.tokens) for reply in again.generate(chats, max_new_tokens=12)] == answers[name][
        "tokens"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_saved_as_a_folder_of_ours(
    name: str, models: Any, arrays: Any, answers: Any, tmp_path: Path
) -> None:
    models[name].save_pretrained(tmp_path / "ours")
    again: Any = load(tmp_path / "ours", device="cpu")
    chats = conversations(arrays[name], answered=False)
    assert [list(reply.tokens) for reply in again.generate(chats, max_new_tokens=12)] == answers[name][
        "tokens"
    ]


def test_a_language_model_that_is_nowhere_is_named(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    shutil.copytree(FIXTURES / "llama", tmp_path / "alone")
    with pytest.raises(CheckpointError, match=r"language model, tiny/llama.*llm_backbone"):
        open_parts(tmp_path / "alone")


def test_a_config_without_a_model_type_is_known_by_its_keys(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["qwen3"], tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    del config["model_type"], config["architectures"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    assert open_parts(tmp_path / "old").model_type == "salm"


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"_target_": "x.QformerConnector", "d_model": 16}, "QformerConnector, which is not supported"),
        ({"_target_": "x.MultiLayerProjectionConnector", "output_dim": 24}, "output_dim"),
    ],
)
def test_other_adapters_are_refused(
    folders: dict[str, Path], tmp_path: Path, adapter: dict[str, Any], message: str
) -> None:
    shutil.copytree(folders["qwen3"], tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["perception"]["modality_adapter"] = adapter
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        open_parts(tmp_path / "other")
