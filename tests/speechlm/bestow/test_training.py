"""From a YAML to a BESTOW that answers, and what its examples say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("lightning")

from aronnax.collections.common.data.recordings import made_cut
from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.collections.speechlm.bestow.model import BESTOW
from aronnax.collections.speechlm.bestow.waitk import WaitK
from aronnax.collections.speechlm.conversation.cuts import conversation_cut
from aronnax.collections.speechlm.training import load_config, train
from aronnax.core.config import to_dict
from aronnax.core.loading import load

from .conftest import DIGITS, LLAMA, RATE, bestow, tokenizer

PITCHES = (60, 90, 120, 150, 180, 210, 250, 300, 360, 430)


def spoken(digits):
    """A tone of 0.24 s for each digit, 0.08 s of silence behind it."""
    time = torch.arange(240) / RATE
    tones = [0.3 * torch.sin(2 * torch.pi * PITCHES[DIGITS.index(digit)] * time) for digit in digits]
    return torch.cat([torch.nn.functional.pad(tone, (0, 80)) for tone in tones])


class Strings:
    """The same few strings of tones in every pass, each with its question; every fifth is a text."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        generator = torch.Generator().manual_seed(5)
        for number in range(self.count):
            length = int(torch.randint(1, 4, (1,), generator=generator))
            digits = [DIGITS[one] for one in torch.randint(10, (length,), generator=generator).tolist()]
            answer = Message("assistant", (" ".join(digits),))
            if number % 5 == 4:
                words = Message("user", (f"say {' '.join(digits)}",))
                yield conversation_cut(f"text-{number}", [words, answer], [])
                continue
            name = f"string-{number}"
            sound = spoken(digits)
            recording = made_cut(Sound(sound), len(sound), RATE, "", name)
            yield conversation_cut(name, [Message("user", ("say", Audio(recording))), answer], [recording])


class Sound:
    def __init__(self, samples):
        self.samples = samples

    def __call__(self):
        return self.samples.numpy()


@pytest.fixture
def recipe(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path / "llm"
    LlamaForCausalLM(LlamaConfig(**LLAMA, eos_token_id=1, bos_token_id=None)).save_pretrained(folder)
    for name, content in tokenizer().assets().items():
        (folder / name).write_bytes(content)
    return {
        "output": str(tmp_path / "run"),
        "init_from": {"llm": str(folder)},
        "model": {
            "type": "bestow",
            "prompt_format": "digits",
            "perception": to_dict(bestow().config.perception),
            "reader": {"n_heads": 2},
            "waits": [None, 1, 2],
        },
        "task": {"answer_tokens": 5},
        "data": {"num_workers": 0, "batching": {"batch_size": 8, "buckets": 1}},
        "optim": {"lr": 4e-3, "warmup_steps": 1, "weight_decay": 0.0},
        "trainer": {
            "max_steps": 3,
            "val_every": 1000,
            "checkpoint_every": 1000,
            "accelerator": "cpu",
            "loggers": [],
        },
    }


def test_only_ears_and_reader_learn_and_the_result_listens_live(recipe, tmp_path):
    path = tmp_path / "bestow.yaml"
    path.write_text(yaml.safe_dump(recipe))
    result = train(
        load_config(path),
        lambda line: None,
        train_cuts=Strings(20),
        validation_cuts={"same": Strings(10)},
    )
    assert set(result.after) >= {"val/loss", "val/exact", "val/wer"}
    model = load(result.folder, device="cpu")
    assert isinstance(model, BESTOW)
    assert model.config.waits == (None, 1, 2)
    before = load(recipe["init_from"]["llm"], device="cpu").llm.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.llm.state_dict().items())
    reply = model.stream(WaitK(1, 4), prompt="say", max_new_tokens=4).listen(spoken(["one", "two"]))
    assert len(reply.tokens) <= 4


@pytest.mark.parametrize("name", ["bestow", "bestow_small"])
def test_the_examples_are_valid(name):
    config = load_config(Path("examples/speechlm") / f"{name}.yaml")
    assert config.model["type"] == "bestow"
    assert None in config.model["waits"]
