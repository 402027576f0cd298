"""Language models come from folders of transformers: safetensors only, no code, one clear sentence if it fails."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch

from aronnax.collections.llm.backbone import Backbone, BackboneConfig
from aronnax.core.config import from_dict, to_dict
from aronnax.core.errors import CheckpointError, ConfigError, HubError
from aronnax.core.model import Model
from aronnax.core.parts import Parts, assemble
from tests.llm.backbone.shapes import SHAPES, VOCABULARY, make, texts


def words(count=VOCABULARY):
    return {"model": {"type": "WordLevel", "vocab": {f"w{n}": n for n in range(count)}}, "added_tokens": []}


@pytest.fixture
def folder(tmp_path):
    make("llama").causal.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(words()))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    return tmp_path


@torch.no_grad()
def scores(backbone):
    ids, lengths = texts(2, 9)
    return backbone.logits(backbone(backbone.embed(ids), lengths))


@pytest.mark.parametrize("architecture", list(SHAPES))
def test_a_folder_gives_the_model_that_was_saved(architecture, tmp_path):
    backbone = make(architecture)
    backbone.causal.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded, files = Backbone.from_pretrained(tmp_path)
    assert torch.equal(scores(loaded), scores(backbone))
    assert not loaded.training
    assert loaded.config.architecture == architecture
    assert set(files) <= {"generation_config.json"}


def test_the_tokenizer_s_files_come_along(folder):
    _, files = Backbone.from_pretrained(folder)
    assert {"tokenizer.json", "chat_template.jinja"} <= set(files)
    assert json.loads(files["tokenizer.json"]) == words()


def test_the_configuration_holds_no_names_of_files_or_code(folder):
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"_name_or_path": "/home/me", "auto_map": {"AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(settings))
    backbone, _ = Backbone.from_pretrained(folder)
    assert not {"_name_or_path", "auto_map", "architectures", "dtype"} & set(backbone.config.settings)
    again = from_dict(BackboneConfig, to_dict(backbone.config))
    assert {name: p.shape for name, p in Backbone(again).named_parameters()} == {
        name: p.shape for name, p in backbone.named_parameters()
    }


def test_the_stored_type_is_kept_unless_another_is_asked_for(folder):
    make("llama").to(torch.bfloat16).causal.save_pretrained(folder)
    assert next(Backbone.from_pretrained(folder)[0].parameters()).dtype == torch.bfloat16
    exact, _ = Backbone.from_pretrained(folder, dtype=torch.float32)
    assert {p.dtype for p in exact.parameters()} == {torch.float32}


def test_fresh_weights_need_no_stored_ones(folder):
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    fresh, files = Backbone.from_pretrained(folder, random=True)
    assert "tokenizer.json" in files
    assert float((scores(fresh) - scores(make("llama"))).abs().max()) > 0.1


@dataclass(frozen=True)
class SpeakerConfig:
    backbone: BackboneConfig


class Speaker(Model):
    model_type = "speaker"
    Config = SpeakerConfig

    def __init__(self, config):
        super().__init__(config)
        self.llm = Backbone(config.backbone)


@pytest.mark.parametrize("architecture", [*SHAPES, "qwen2"])
def test_a_model_around_a_backbone_is_built_without_weights_first(architecture):
    backbone = make(architecture)
    config = SpeakerConfig(backbone.config)
    model = Speaker(config)
    model.llm.load_state_dict(backbone.state_dict())
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loaded = assemble(Speaker, Parts("here", "speaker", config, {}, tensors))
    assert torch.equal(scores(loaded.llm.eval()), scores(backbone))
    assert not [name for name, tensor in loaded.named_parameters() if tensor.is_meta]
    assert not [name for name, tensor in loaded.named_buffers() if tensor.is_meta]


def broken(folder, **settings):
    found = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(found | settings))


def test_a_name_that_is_nowhere_is_told(tmp_path):
    with pytest.raises(HubError, match="nowhere"):
        Backbone.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: (f / "config.json").unlink(), CheckpointError, "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), CheckpointError, "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("{}"), ConfigError, "names no model_type"),
        (lambda f: broken(f, model_type="t5"), ConfigError, "'t5' is an encoder-decoder"),
        (lambda f: broken(f, model_type="mine"), ConfigError, "'mine' is unknown to the installed"),
        (
            lambda f: broken(f, num_hidden_layers=5),
            CheckpointError,
            "weights are missing or of another shape",
        ),
        (lambda f: broken(f, vocab_size=70), CheckpointError, "does not"),
        (lambda f: (f / "model.safetensors").unlink(), CheckpointError, "no model.safetensors"),
        (lambda f: (f / "model.safetensors").rename(f / "model.bin"), CheckpointError, "only model.bin"),
        (lambda f: (f / "model.safetensors").write_bytes(b"what"), CheckpointError, "does not load as llama"),
        (
            lambda f: (f / "tokenizer.json").write_text(json.dumps(words(61))),
            CheckpointError,
            "token ids up to 60 and the language model 60 embeddings",
        ),
        (
            lambda f: (f / "tokenizer.json").write_text("["),
            CheckpointError,
            "the tokenizer in .* cannot be read",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_told(folder, spoil, error, message):
    spoil(folder)
    with pytest.raises(error, match=message):
        Backbone.from_pretrained(folder)
