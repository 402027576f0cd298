"""Folders that transformers wrote load here with transformers' own outputs (1e-4) and texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import aronnax
from aronnax.collections.asr.transformers_tokenizer import tokenizer_assets
from aronnax.collections.common.text import tokenizer_from_assets
from aronnax.core.errors import CheckpointError, ConfigError

transformers = pytest.importorskip("transformers")

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "how vexingly",
]
PIECES = 48


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import sentencepiece

    prefix = tmp_path_factory.mktemp("spm") / "tokenizer"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_prefix=str(prefix),
        vocab_size=PIECES,
        model_type="bpe",
        bos_id=-1,
        eos_id=-1,
        user_defined_symbols=["<|mark|>"],
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


@pytest.fixture(scope="module")
def tokenizer_json(sentencepiece_file: Path) -> str:
    from transformers.convert_slow_tokenizer import ParakeetConverter

    tokenizer = ParakeetConverter(str(sentencepiece_file)).converted()
    tokenizer.add_special_tokens(["<blank>"])
    text: str = tokenizer.to_str()
    return text


def build(kind: str, bias: bool) -> Any:
    encoder = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "subsampling_conv_channels": 8,
        "num_mel_bins": 16,
        "attention_bias": bias,
        "convolution_bias": bias,
        "scale_input": bias,
    }
    torch.manual_seed(0)
    name = {"parakeet_ctc": "CTC", "parakeet_rnnt": "RNNT", "parakeet_tdt": "TDT"}[kind]
    blank = {"pad_token_id": PIECES} if kind == "parakeet_ctc" else {"blank_token_id": PIECES}
    options = {} if kind == "parakeet_ctc" else {"decoder_hidden_size": 12}
    config = getattr(transformers, f"Parakeet{name}Config")(
        vocab_size=PIECES + 1, encoder_config=encoder, **blank, **options
    )
    model = getattr(transformers, f"ParakeetFor{name}")(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn_like(weight) / (weight[0].numel() ** 0.5 if weight.ndim > 1 else 10)
            weight.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand_like(buffer))
        vary(model.eval())
    return model


def vary(model: Any) -> None:
    """Scale and centre what follows the encoder, so that the random model says different things at each frame."""
    extractor = transformers.ParakeetFeatureExtractor(feature_size=16)
    inputs = extractor([recordings()[0].numpy()], sampling_rate=16000, return_tensors="pt")
    states = model.encoder(
        inputs["input_features"], attention_mask=inputs["attention_mask"]
    ).last_hidden_state[0]
    layer = model.ctc_head if hasattr(model, "ctc_head") else model.encoder_projector
    weight = torch.randn(layer.weight.shape[:2]) / states.std(0)
    layer.weight.copy_(weight.view_as(layer.weight))
    layer.bias.copy_(-weight @ states.mean(0))
    if hasattr(model, "joint"):
        model.joint.head.weight.normal_()
        hidden = model.encoder_projector(states).relu().mean(0)
        model.joint.head.bias.copy_(-model.joint.head.weight @ hidden)
        model.joint.head.bias[PIECES] += 9.0  # blanks often enough that decoding moves on


@pytest.fixture
def folder(tmp_path: Path, tokenizer_json: str) -> Path:
    (tmp_path / "tokenizer.json").write_text(tokenizer_json)
    extractor = transformers.ParakeetFeatureExtractor(feature_size=16)
    extractor.save_pretrained(tmp_path)
    return tmp_path


def recordings() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [0.1 * torch.randn(length, generator=generator) for length in (20000, 9000, 14321)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["parakeet_ctc", "parakeet_rnnt", "parakeet_tdt"])
@torch.no_grad()
def test_a_transformers_folder_gives_transformers_outputs(kind: str, bias: bool, folder: Path) -> None:
    theirs = build(kind, bias)
    theirs.save_pretrained(folder)
    ours = aronnax.load(folder, device="cpu")

    rows = recordings()
    extractor = transformers.ParakeetFeatureExtractor.from_pretrained(folder)
    inputs = extractor([row.numpy() for row in rows], sampling_rate=16000, return_tensors="pt")
    states = theirs.encoder(inputs["input_features"], attention_mask=inputs["attention_mask"])
    lengths = torch.tensor([len(row) for row in rows])
    encoded = ours.encode(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths)

    assert encoded.lengths.tolist() == states.attention_mask.sum(-1).tolist()
    for row, length in enumerate(encoded.lengths.tolist()):
        ours_row, theirs_row = encoded.states[row, :length], states.last_hidden_state[row, :length]
        torch.testing.assert_close(ours_row, theirs_row, atol=1e-4, rtol=0)
    if kind == "parakeet_ctc":
        scores = theirs.ctc_head(encoded.states)
        torch.testing.assert_close(
            ours.decoder(encoded.states).log_softmax(-1), scores.log_softmax(-1), atol=1e-4, rtol=0
        )
        return
    targets = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    history = torch.nn.functional.pad(targets, (1, 0), value=PIECES)
    joint = theirs.joint(
        theirs.decoder(history)[:, None], theirs.encoder_projector(encoded.states)[:, :, None]
    )
    torch.testing.assert_close(ours.joint(encoded.states, ours.decoder(targets)), joint, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["parakeet_ctc", "parakeet_rnnt", "parakeet_tdt"])
@torch.no_grad()
def test_greedy_tokens_equal_those_of_generate(kind: str, folder: Path) -> None:
    theirs = build(kind, True)
    theirs.save_pretrained(folder)
    ours = aronnax.load(folder, device="cpu")
    rows = recordings()
    extractor = transformers.ParakeetFeatureExtractor.from_pretrained(folder)
    for row in rows[1:2]:
        inputs = extractor([row.numpy()], sampling_rate=16000, return_tensors="pt")
        start = {} if kind == "parakeet_ctc" else {"decoder_start_token_id": PIECES, "max_new_tokens": 200}
        found = theirs.generate(**inputs, **start)
        tokens = (found if isinstance(found, torch.Tensor) else found.sequences)[0].tolist()
        if kind == "parakeet_ctc":
            tokens = [token for i, token in enumerate(tokens) if i == 0 or tokens[i - 1] != token]
        special = {PIECES, theirs.config.pad_token_id} if kind == "parakeet_ctc" else {PIECES}
        encoded = ours.encode(row[None], torch.tensor([len(row)]))
        (hypothesis,), _ = ours.decode(encoded.states, encoded.lengths)
        assert hypothesis.tokens == [token for token in tokens if token not in special]
        assert len(set(hypothesis.tokens)) > 1


def test_the_tokenizer_cuts_text_as_before(sentencepiece_file: Path, tokenizer_json: str) -> None:
    import sentencepiece

    original = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_file))
    ours = tokenizer_from_assets(tokenizer_assets(json.loads(tokenizer_json), PIECES))
    assert ours.vocab_size == PIECES
    assert list(ours.vocabulary) == [original.id_to_piece(i) for i in range(PIECES)]
    for text in [*TEXTS, "the fox  packs five boxes", "Zürich ½ price", "a <|mark|> b", ""]:
        assert ours.encode(text) == original.encode(text)
        assert ours.decode(ours.encode(text)) == original.decode(original.encode(text)).strip()


def test_a_unigram_tokenizer_keeps_its_scores(tmp_path: Path) -> None:
    vocabulary = [["<unk>", 0.0], ["\u2581a", -1.0], ["b", -1.5], ["\u2581ab", -2.0], ["c", -3.0]]
    data = {"model": {"type": "Unigram", "unk_id": 0, "vocab": vocabulary}, "added_tokens": []}
    tokenizer = tokenizer_from_assets(tokenizer_assets(data, 5))
    assert tokenizer.pieces(tokenizer.encode("abc")) == ["\u2581ab", "c"]


def test_shards_are_read_together(folder: Path) -> None:
    theirs = build("parakeet_ctc", True)
    theirs.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").is_file()
    ours = aronnax.load(folder, device="cpu")
    assert torch.equal(ours.decoder.decoder_layers[0].weight, theirs.ctc_head.weight)


def test_an_index_cannot_point_elsewhere(folder: Path) -> None:
    build("parakeet_ctc", True).save_pretrained(folder)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../x.safetensors"}})
    )
    with pytest.raises(CheckpointError, match="not a file beside it"):
        aronnax.load(folder)


def change(folder: Path, path: list[str], value: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["encoder_config", "hidden_act"], "gelu", "encoder_config.hidden_act='gelu' is not supported"),
        (["encoder_config", "convolution_bias"], False, "encoder_config.convolution_bias=False"),
        (["encoder_config", "intermediate_size"], 50, "must be a multiple of hidden_size"),
        (["pad_token_id"], 0, "only a blank that comes last is supported"),
    ],
)
def test_an_unsupported_option_is_named(folder: Path, path: list[str], value: Any, said: str) -> None:
    build("parakeet_ctc", True).save_pretrained(folder)
    change(folder, path, value)
    with pytest.raises(ConfigError, match=said):
        aronnax.load(folder)


def test_another_model_of_transformers_is_refused(folder: Path) -> None:
    build("parakeet_ctc", True).save_pretrained(folder)
    change(folder, ["model_type"], "whisper")
    with pytest.raises(CheckpointError, match="'whisper' is not one aronnax loads"):
        aronnax.load(folder)
