"""From a YAML to a speech language model that answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from aronnax.collections.common.data.recordings import made_cut
from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.collections.speechlm.conversation.cuts import conversation_cut
from aronnax.collections.speechlm.salm.model import SALM
from aronnax.collections.speechlm.training import build_model, load_config, prepare, train
from aronnax.core.config import to_dict
from aronnax.core.errors import ConfigError
from aronnax.core.loading import load
from tests.speechlm.tiny import CONFIG, DIGITS, RATE, tokenizer_files

TONES = dict(zip(DIGITS, (300, 420, 560, 720, 900, 1120, 1400, 1750, 2200, 2800)))


def spoken(digits: Sequence[str]) -> torch.Tensor:
    """A tone of 0.16 s for each digit, 0.04 s of silence behind it."""
    time = torch.arange(round(0.16 * RATE)) / RATE
    tones = [0.3 * torch.sin(2 * torch.pi * TONES[digit] * time) for digit in digits]
    return torch.cat([torch.nn.functional.pad(tone, (0, round(0.04 * RATE))) for tone in tones])


class Strings:
    """The same few conversations about strings of tones in every pass; `both` has two questions about each."""

    def __init__(self, count: int, longest: int = 3, both: bool = False) -> None:
        self.count, self.longest, self.both = count, longest, both

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(5)
        for number in range(self.count):
            length = int(torch.randint(1, self.longest + 1, (1,), generator=generator))
            digits = [DIGITS[i] for i in torch.randint(10, (length,), generator=generator).tolist()]
            name = f"string-{number}"
            recording = made_cut(_Sound(digits), len(spoken(digits)), RATE, "", name)
            answers = {"repeat :": digits}
            if self.both:
                answers["what is"] = [DIGITS[(DIGITS.index(digit) + 1) % 10] for digit in digits]
            for question, said in answers.items():
                turns = [
                    Message("user", (question, Audio(recording))),
                    Message("assistant", (" ".join(said),)),
                ]
                yield conversation_cut(f"{name} {question}", turns, [recording])


class _Sound:
    def __init__(self, digits: list[str]) -> None:
        self.digits = digits

    def __call__(self) -> Any:
        return spoken(self.digits).numpy()


@pytest.fixture
def language_model(tmp_path: Path) -> Path:
    """A folder as transformers writes it, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path / "llm"
    settings = {**CONFIG.backbone.settings, "hidden_size": 32, "intermediate_size": 48}
    LlamaForCausalLM(LlamaConfig(**settings, eos_token_id=2, bos_token_id=None)).save_pretrained(folder)
    for name, content in tokenizer_files().items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def recipe(tmp_path: Path, language_model: Path) -> dict[str, Any]:
    perception = to_dict(CONFIG.perception)
    perception["adapter"] = {"kind": "mlp", "stacking": 2, "hidden": 24}
    perception["encoder"]["d_model"] = 24
    # Each band by itself would hide which tone it is where there is only one.
    perception["preprocessor"]["normalize"] = "all_features"
    return {
        "output": str(tmp_path / "run"),
        "init_from": {"llm": str(language_model)},
        "model": {
            "type": "salm",
            "prompt_format": "digits",
            "perception": perception,
            "lora": {"rank": 4, "alpha": 8.0, "target_modules": ["q_proj", "v_proj"]},
        },
        "task": {"answer_tokens": 6},
        "data": {"num_workers": 0, "batching": {"batch_size": 8, "buckets": 1}},
        "optim": {"lr": 4e-3, "warmup_steps": 1, "weight_decay": 0.0},
        "trainer": {
            "max_steps": 4,
            "val_every": 1000,
            "checkpoint_every": 1000,
            "accelerator": "cpu",
            "loggers": [],
        },
    }


def written(recipe: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "salm.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_sixteen_strings_are_learned_by_heart(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["task"]["freeze"] = []
    del recipe["model"]["lora"]
    recipe["trainer"]["max_steps"] = 240
    recipe["optim"]["warmup_steps"] = 10
    config = load_config(written(recipe, tmp_path))
    result = train(config, lambda line: None, train_cuts=Strings(16), validation_cuts={"same": Strings(16)})
    assert result.before["val/exact"] == 0.0
    assert result.after["val/exact"] == 1.0
    assert result.after["val/wer"] == 0.0
    assert result.after["val/loss"] < 0.2
    model = load(result.folder, device="cpu")
    assert isinstance(model, SALM)
    said = model.generate(
        [{"role": "user", "content": ["repeat :", Audio((spoken(["two"]).numpy(), RATE))]}],
        max_new_tokens=6,
    )
    assert set(said.text.split()) <= set(DIGITS)


@pytest.mark.slow
def test_two_questions_about_one_recording_have_their_answers(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["task"]["freeze"] = []
    del recipe["model"]["lora"]
    recipe["trainer"]["max_steps"] = 400
    recipe["optim"]["warmup_steps"] = 10
    config = load_config(written(recipe, tmp_path))
    strings = Strings(12, both=True)
    result = train(config, lambda line: None, train_cuts=strings, validation_cuts={"same": strings})
    assert result.after["val/exact"] > 0.95


@pytest.mark.parametrize("name", ["salm", "salm_small"])
def test_the_examples_are_valid(name: str) -> None:
    config = load_config(f"examples/speechlm/{name}.yaml", ["data.train=[x.jsonl]", "data.validation=[]"])
    assert config.model["type"] == "salm"
    assert config.trainer.monitor == "val/loss"


def test_only_what_is_to_learn_changes(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["task"]["freeze"] = ["llm", "perception.encoder"]
    config = load_config(written(recipe, tmp_path))
    torch.manual_seed(config.trainer.seed)
    prepared = prepare(config, train_cuts=Strings(16), say=lambda line: None)
    before = {name: tensor.clone() for name, tensor in prepared.task.model.state_dict().items()}
    config = load_config(written({**recipe, "output": str(tmp_path / "other")}, tmp_path))
    result = train(config, lambda line: None, train_cuts=Strings(16))
    changed = {
        name
        for name, tensor in result.model.state_dict().items()
        if not torch.equal(tensor, before[name])
        and not name.startswith(("perception.modality", "perception.proj"))
    }
    frozen = {
        name for name in before if name.startswith(("llm.", "perception.encoder")) and "lora_" not in name
    }
    assert frozen
    assert not changed & frozen
    assert any(".lora_B." in name for name in changed)


def test_a_checkpoint_is_given_low_rank_layers(recipe: dict[str, Any], tmp_path: Path) -> None:
    del recipe["model"]["lora"]
    model = build_model(load_config(written(recipe, tmp_path)), say=lambda line: None).eval()
    model.save_pretrained(tmp_path / "plain")
    recipe |= {"init_from": str(tmp_path / "plain"), "model": {"lora": {"rank": 2}}}
    grown = build_model(load_config(written(recipe, tmp_path)), say=lambda line: None).eval()
    assert grown.config.lora.rank == 2
    x = torch.randn(1, 5, 32)
    assert torch.equal(grown.llm(x), model.llm(x)), "fresh low-rank layers change nothing"
    signal, lengths = spoken(["one"])[None], torch.tensor([len(spoken(["one"]))])
    assert torch.equal(grown.perception(signal, lengths)[0], model.perception(signal, lengths)[0])


def test_the_ears_come_from_any_encoder(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["init_from"]["perception"] = "digits"
    recipe["model"]["perception"] = {
        "adapter": {"kind": "conformer", "conformer": {"d_model": 32, "n_heads": 2}}
    }
    model = build_model(load_config(written(recipe, tmp_path)), say=lambda line: None)
    digits: Any = load("digits", device="cpu")
    assert model.config.perception.adapter.conformer.n_layers == 2
    for name, tensor in digits.encoder.state_dict().items():
        assert torch.equal(model.perception.encoder.state_dict()[name], tensor)


def test_a_learning_run_is_resumed(recipe: dict[str, Any], tmp_path: Path) -> None:
    whole = train(load_config(written(recipe, tmp_path)), lambda line: None, train_cuts=Strings(16))
    recipe |= {"output": str(tmp_path / "halves")}
    for steps in (2, 4):
        recipe["trainer"]["max_steps"] = steps
        # The schedule knows the number of steps, so it must not depend on it here.
        halves = train(load_config(written(recipe, tmp_path)), lambda line: None, train_cuts=Strings(16))
    one, other = whole.model.state_dict(), halves.model.state_dict()
    assert json.loads((tmp_path / "halves" / "scores.json").read_text())
    assert one.keys() == other.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_from": None}, r"init_from\.llm is missing"),
        ({"init_from": {"llm": "x", "ears": "y"}}, r"init_from\.ears is not a part"),
        ({"model": {"type": "salm", "lorra": {}}}, r"model\.lorra is not a known option; did you mean lora"),
        ({"model": {"type": "ctc"}}, "no speech language model"),
        ({"model": {}}, r"model\.type is required"),
        ({"task": {"freze": []}}, r"task\.freze is not a known option"),
    ],
)
def test_broken_configurations_are_named(
    recipe: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(written({**recipe, **change}, tmp_path))


def test_parts_that_are_not_there_are_named(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["task"]["freeze"] = ["lm"]
    with pytest.raises(ConfigError, match=r"task\.freeze.*did you mean 'llm'"):
        prepare(load_config(written(recipe, tmp_path)), train_cuts=Strings(2))
