"""Writes tiny random Canary archives of every prompt and tokenizer kind with NeMo 3.0.0, and their outputs.

    python tests/parity/make/canary_archives.py tests/parity/fixtures/canary
    python tests/parity/make/canary_archives.py --outputs FOLDER

The second form restores every archive of a folder with NeMo and writes beside it what it computes for the same
recordings. Rows are searched one at a time: NeMo limits all answers of a batch by its longest row.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf, open_dict

sys.path.insert(0, str(Path(__file__).resolve().parent))
from nemo_archives import TEXTS, common, ctc_head, encode, recordings, shake, train_tokenizer

GERMAN = ["zwei boxkaempfer jagen eva quer durch sylt", "falsches ueben von xylophonmusik quaelt jeden zwerg"]
CONTEXT = "pack my box"
ANSWERS = ["", "the quick fox", "<|0|> the <|3|> <|3|> lazy <|7|> <|9|> dog <|11|>"]
LANGUAGES = ["en", "de"]
CANARY = {
    "source_lang": LANGUAGES,
    "task": ["asr", "transcribe", "ast", "translate", "s2t_translation"],
    "target_lang": LANGUAGES,
    "pnc": ["yes", "no", "true", "0", "pnc", "nopnc", "<|pnc|>", "<|nopnc|>"],
}
CANARY2 = {
    "decodercontext": ["", CONTEXT],
    "emotion": [f"<|emo:{name}|>" for name in ("undefined", "neutral", "happy", "sad", "angry")],
    "source_lang": LANGUAGES,
    "target_lang": LANGUAGES,
    "pnc": ["yes", "no"],
    "itn": ["itn", "noitn"],
    "timestamp": ["1", "0"],
    "diarize": ["true", "false"],
}
DELTA = 30
__all__ = ["combinations", "recordings"]
WIDTHS = {"canary_agg": 16, "canary2_agg": 24, "canary2_bpe": 16}


def special_tokens(generation: int) -> list[str]:
    """Names for NeMo's builder, in the order of the published blocks."""
    if generation == 1:
        return ["transcribe", "translate", "en", "de", "spltoken0"]
    controls = ["startofcontext", "itn", "noitn", "timestamp", "notimestamp", "diarize", "nodiarize"]
    emotions = [f"emo:{name}" for name in ("undefined", "neutral", "happy", "sad", "angry")]
    return [*controls, *emotions, "unklang", *LANGUAGES, *map(str, range(12))]


def aggregate(folder: Path, generation: int) -> dict:
    tokens = block(generation)
    return {
        "type": "agg",
        "dir": None,
        "langs": {
            "spl_tokens": sentencepieces(folder / "spl_tokens", tokens, tokens, len(tokens) + 2),
            "en": train_tokenizer(folder / "en", 45, TEXTS),
            "de": train_tokenizer(folder / "de", 40, GERMAN),
        },
        "custom_tokenizer": {
            "_target_": "nemo.collections.common.tokenizers.canary_tokenizer.CanaryTokenizer",
            "tokenizers": None,
        },
    }


def block(generation: int) -> list[str]:
    """The tokens as NeMo's builder of special tokenizers spells and orders them."""
    names = ["nospeech", "pad", "endoftext", "startoftranscript", "pnc", "nopnc", *special_tokens(generation)]
    return ["<pad>" if name == "pad" else f"<|{name}|>" for name in names]


def single(folder: Path) -> dict:
    """One SentencePiece model with the special tokens among its pieces."""
    tokens = block(2)
    custom = {"_target_": "nemo.collections.common.tokenizers.canary_tokenizer.CanaryBPETokenizer"}
    section = sentencepieces(folder, [*TEXTS, *GERMAN], tokens, len(tokens) + 53)
    return {**section, "custom_tokenizer": custom}


def sentencepieces(folder: Path, lines: list[str], specials: list[str], size: int) -> dict:
    """A SentencePiece model without normalisation tables, which would be most of an archive."""
    import sentencepiece

    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 20),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=size,
        model_type="bpe",
        bos_id=-1,
        eos_id=-1,
        user_defined_symbols=specials,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    pieces = [line.split("\t")[0] for line in (folder / "tokenizer.vocab").read_text().splitlines()]
    (folder / "vocab.txt").write_text("\n".join(pieces[1:]) + "\n")
    return {"dir": str(folder), "type": "bpe"}


def recipe(name: str, tokenizer: dict) -> dict:
    width = WIDTHS[name]
    prompt = name.split("_")[0]
    slots = {"pnc": "<|pnc|>"}
    if prompt == "canary2":
        slots |= {"decodercontext": "", "emotion": "<|emo:undefined|>", "itn": "<|noitn|>"}
        slots |= {"timestamp": "<|notimestamp|>", "diarize": "<|nodiarize|>"}
    base = common({})
    return {
        **base,
        "prompt_format": prompt,
        "prompt_defaults": [{"role": "user", "slots": slots}] if prompt == "canary2" else None,
        "model_defaults": {"asr_enc_hidden": 16, "lm_enc_hidden": width, "lm_dec_hidden": width},
        "tokenizer": tokenizer,
        "transf_encoder": {"num_layers": 0} if prompt == "canary" else None,
        "transf_decoder": {
            "_target_": "nemo.collections.asr.modules.transformer.get_nemo_transformer",
            "model_name": None,
            "pretrained": False,
            "encoder": None,
            "pre_ln_final_layer_norm": True,
            "config_dict": {
                "max_sequence_length": 64,
                "num_token_types": 0,
                "embedding_dropout": 0.1,
                "learn_positional_encodings": False,
                "hidden_size": width,
                "inner_size": 2 * width,
                "num_layers": 2,
                "num_attention_heads": 2,
                "ffn_dropout": 0.1,
                "attn_score_dropout": 0.1,
                "attn_layer_dropout": 0.1,
                "hidden_act": "relu",
                "pre_ln": True,
                "vocab_size": None,
            },
        },
        "head": {
            "_target_": "nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier",
            "num_layers": 1,
            "activation": "relu",
            "log_softmax": True,
            "hidden_size": width,
            "num_classes": None,
            "dropout": 0.0,
            "use_transformer_init": True,
        },
        "decoding": {
            "strategy": "beam",
            "beam": {"beam_size": 1, "len_pen": 0.0, "max_generation_delta": DELTA},
        },
        "loss": {
            "_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss",
            "label_smoothing": 0.0,
            "pad_id": None,
        },
    }


@torch.no_grad()
def stir(model: Any) -> Any:
    """Random weights that decide clearly, and ends that come at different times."""
    model.eval()
    for name, tensor in model.named_parameters():
        if tensor.ndim == 1:
            tensor.normal_(float("norm" in name and name.endswith("weight")), 0.1)
        elif name.startswith(("transf_decoder", "encoder_decoder_proj")):
            tensor.normal_(0.0, 0.45)
    for name, tensor in model.named_buffers():
        if name.endswith("running_mean"):
            tensor.copy_(0.1 * torch.randn_like(tensor))
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand_like(tensor))
    # The head is tied: with signs that vary, a token does not ask for itself again.
    model.transf_decoder._decoder.final_layer_norm.weight.normal_(0.0, 1.2)
    bias = model.log_softmax.mlp.layer0.bias
    bias.normal_(0.0, 0.3)
    vocabulary = getattr(model.tokenizer, "vocab", None) or model.tokenizer.tokenizer.get_vocab()
    for token, piece in enumerate(vocabulary):
        if piece.startswith("<"):
            bias[token] -= 3.0
    bias[model.tokenizer.eos_id] += 4.5
    bias[model.tokenizer.pad_id] = -20.0
    bias[model.tokenizer.vocab_size :] = -20.0
    return model


def prompt_turns(slots: dict[str, str], answer: str | None = None) -> list[dict]:
    turns = [{"role": "user", "slots": {**slots, "prompt_language": "spl_tokens"}}]
    if answer is not None:
        language = slots["target_lang"]
        turns.append({"role": "assistant", "slots": {"text": answer, "prompt_language": language}})
    return turns


def combinations(name: str) -> list[dict[str, str]]:
    """Every combination of slot values."""
    values = CANARY if name.startswith("canary_") else CANARY2
    return [dict(zip(values, chosen)) for chosen in itertools.product(*values.values())]


def prompts(model: Any, name: str) -> dict[str, Any]:
    rows = [model.prompt.encode_dialog(prompt_turns(slots))["context_ids"] for slots in combinations(name)]
    padded = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int16)
    for row, ids in zip(padded, rows):
        row[: len(ids)] = ids.numpy()
    slots = combinations(name)[1]
    answers = ANSWERS[: 2 if name.startswith("canary_") else 3]
    said = {
        f"{language}/{answer}": model.prompt.encode_dialog(
            prompt_turns({**slots, "target_lang": language}, answer)
        )["answer_ids"].tolist()
        for language in LANGUAGES
        for answer in answers
    }
    return {"prompts": padded, "answers": json.dumps(said)}


@torch.no_grad()
def outputs(model: Any, name: str) -> dict[str, Any]:
    """What NeMo computes for the recordings."""
    model.eval()
    features, encoded, lengths = encode(model)
    states = model.encoder_decoder_proj(encoded.transpose(1, 2))
    mask = (torch.arange(states.shape[1]) < lengths[:, None]).float()
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(3, model.tokenizer.vocab_size, (3, 14), generator=generator)
    seen = (torch.arange(14) < torch.tensor([14, 9, 5])[:, None]).float()
    hidden = model.transf_decoder(
        input_ids=tokens, decoder_mask=seen, encoder_embeddings=states, encoder_mask=mask
    )
    found: dict[str, Any] = {
        "features": features.transpose(1, 2),
        "states": states,
        "lengths": lengths,
        "tokens": tokens,
        "log_probs": model.log_softmax(hidden_states=hidden),
        **searches(model, name, states, lengths),
        **prompts(model, name),
    }
    if model.timestamps_asr_model is not None:
        _, heard, heard_lengths = encode(model.timestamps_asr_model)
        found["aligner"] = model.timestamps_asr_model.decoder(encoder_output=heard)
        found["aligner_lengths"] = heard_lengths
    return {key: np.asarray(value) for key, value in found.items()}


@torch.no_grad()
def searches(model: Any, name: str, states: torch.Tensor, lengths: torch.Tensor) -> dict[str, Any]:
    """Texts and ids of each row alone: greedy, beam of four, and that with a length penalty."""
    chosen = [combinations(name)[place] for place in (0, 3, -2)]
    asked = [model.prompt.encode_dialog(prompt_turns(slots))["context_ids"] for slots in chosen]
    found: dict[str, Any] = {}
    for key, penalty in (("greedy", None), ("beam4", 0.0), ("beam4_penalty", 1.0)):
        strategy: dict[str, Any] = {"strategy": "greedy", "greedy": {"max_generation_delta": DELTA}}
        if penalty is not None:
            settings = {"beam_size": 4, "length_penalty": penalty, "max_generation_delta": DELTA}
            strategy = {"strategy": "beam", "beam": settings}
        model.change_decoding_strategy(OmegaConf.create(strategy))
        said, ids = [], []
        for row, length in enumerate(lengths.tolist()):
            (hypothesis,) = model.decoding.decode_predictions_tensor(
                encoder_hidden_states=states[row : row + 1, :length],
                encoder_input_mask=torch.ones(1, length),
                decoder_input_ids=asked[row][None],
                return_hypotheses=True,
            )
            said.append(hypothesis.text)
            ids.append([int(token) for token in hypothesis.y_sequence])
        found[f"{key}_texts"] = said
        found[f"{key}_ids"] = json.dumps(ids)
    model.eval()
    return found


@torch.no_grad()
def tried(model: Any, name: str, seed: int) -> dict[str, Any]:
    """What a model says with the random weights of a seed."""
    torch.manual_seed(seed)
    stir(model)
    _, encoded, lengths = encode(model)
    return searches(model, name, model.encoder_decoder_proj(encoded.transpose(1, 2)), lengths)


def worth_comparing(found: dict[str, Any]) -> int:
    """How good the texts are for comparing: different ones of several characters that mostly end by themselves."""
    said = list(found["greedy_texts"]) + list(found["beam4_texts"])
    sizes = [len(ids) for ids in json.loads(str(found["greedy_ids"]))]
    return (
        2 * len(set(said))
        + sum(min(len(set(text.replace(" ", ""))), 6) for text in said)
        + 4 * sum(3 <= size <= 25 for size in sizes)
    )


def add_second(archive: Path, second: Path) -> None:
    """Put a model's files into another's archive, as canary-1b-v2 has them."""
    renamed = {
        "model_config.yaml": "timestamps_asr_model_config.yaml",
        "model_weights.ckpt": "timestamps_asr_model_weights.ckpt",
    }
    with tarfile.open(second) as inside, tarfile.open(archive, "a") as out:
        for member in inside.getmembers():
            if not member.isfile():
                continue
            base = member.name.removeprefix("./")
            member.name = f"./{renamed.get(base, base)}"
            out.addfile(member, inside.extractfile(member))


def build(folder: Path, out: Path) -> None:
    from nemo.collections.asr import models

    tokenizers = {
        "canary_agg": aggregate(folder / "first", 1),
        "canary2_agg": aggregate(folder / "second", 2),
        "canary2_bpe": single(folder / "single"),
    }
    for name, tokenizer in tokenizers.items():
        model = models.EncDecMultiTaskModel(OmegaConf.create(recipe(name, tokenizer)))
        best = max(range(25), key=lambda seed: worth_comparing(tried(model, name, seed)))
        tried(model, name, best)
        archive = out / f"{name}.nemo"
        with open_dict(model.cfg):
            model.cfg.pop("optim", None)
        model.save_to(str(archive))
        if name == "canary2_bpe":
            config = {**common({"use_bias": False, "n_layers": 1}), "decoder": ctc_head([])}
            config["tokenizer"] = {
                key: value for key, value in tokenizer.items() if key != "custom_tokenizer"
            }
            second = shake(models.EncDecCTCModelBPE(OmegaConf.create(config)))
            second.save_to(str(folder / "second.nemo"))
            add_second(archive, folder / "second.nemo")


def restored(archive: Path) -> dict[str, Any]:
    from nemo.core import ModelPT

    model = ModelPT.restore_from(str(archive), map_location="cpu")
    return outputs(model, archive.stem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", action="store_true", help="restore the archives there are")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder
    logging.disable(logging.WARNING)
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.outputs:
        with tempfile.TemporaryDirectory() as scratch:
            build(Path(scratch), folder)
    for archive in sorted(folder.glob("*.nemo")):
        found = restored(archive)
        np.savez_compressed(archive.with_suffix(".npz"), **found)
        print(
            archive.name, archive.stat().st_size, [str(found[key]) for key in found if key.endswith("_texts")]
        )


if __name__ == "__main__":
    main()
