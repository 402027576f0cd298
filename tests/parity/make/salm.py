"""Writes tests/parity/fixtures/salm/ with NeMo's speechlm2 SALM; run where NeMo is.

    python tests/parity/make/salm.py

Two miniatures as NeMo's `save_pretrained` leaves them, LoRA on and not zero: one with a Qwen3 (tied embeddings),
beside whose files lie its configuration and tokenizer; one with a Llama whose files lie elsewhere, and with a
small Conformer as adapter. Then what each gives for the same conversations: frames, spliced embeddings and targets,
logits, greedy answers, and answers without LoRA.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nemo.collections.speechlm2.data.salm_dataset import left_collate_vectors
from nemo.collections.speechlm2.models.salm import SALM, replace_placeholders_and_build_targets
from nemo.collections.speechlm2.parts.encoder_chunking import encode_audio_with_optional_chunking
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "salm"
TAG = "<|audioplaceholder|>"
TEXT = "transcribe the following: what is said after the number seven? repeat what you hear in French: one two three"
SECONDS = (0.41, 0.22, 0.33, 0.52)
# Content of the user's turns (and the answers to learn), the audios in order: end, start, middle twice, none.
CONVERSATIONS = [
    (f"transcribe the following: {TAG}", "one two three"),
    (f"{TAG} what is said?", "seven"),
    (f"repeat {TAG} and {TAG} now", "three two"),
    ("what is said after the number seven?", "number"),
]
ENCODER = {
    "_target_": "nemo.collections.asr.modules.ConformerEncoder",
    "feat_in": 16,
    "feat_out": -1,
    "n_layers": 1,
    "d_model": 16,
    "subsampling": "dw_striding",
    "subsampling_factor": 4,
    "subsampling_conv_channels": 8,
    "ff_expansion_factor": 2,
    "self_attention_model": "rel_pos",
    "n_heads": 2,
    "att_context_size": [-1, -1],
    "xscaling": False,
    "untie_biases": True,
    "conv_kernel_size": 5,
    "conv_norm_type": "batch_norm",
    "dropout": 0.1,
    "dropout_pre_encoder": 0.1,
    "dropout_emb": 0.0,
    "dropout_att": 0.1,
}
PREPROCESSOR = {
    "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
    "sample_rate": 16000,
    "normalize": "per_feature",
    "window_size": 0.025,
    "window_stride": 0.01,
    "window": "hann",
    "features": 16,
    "n_fft": 512,
    "log": True,
    "frame_splicing": 1,
    "dither": 1e-5,
    "pad_to": 0,
    "pad_value": 0.0,
}
IDENTITY = {"_target_": "nemo.collections.speechlm2.modules.perception.IdentityConnector", "d_model": 16}
CONFORMER = {**ENCODER, "feat_in": 16, "d_model": 12, "subsampling_factor": 1, "xscaling": True}
LLM = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "vocab_size": 288,
}
MINIATURES: dict[str, dict[str, Any]] = {
    "qwen3": {
        "llm": {"model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": True, "rms_norm_eps": 1e-6},
        "specials": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "prompt_format": "qwen",
        "adapter": IDENTITY,
        "chunk": None,
    },
    "llama": {
        "llm": {"model_type": "llama", "tie_word_embeddings": False, "rms_norm_eps": 1e-5},
        "specials": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "prompt_format": "llama2",
        "adapter": CONFORMER,
        "chunk": 0.2,
    },
}


def language_model(folder: Path, name: str) -> None:
    """A folder with a configuration and a tokenizer of bytes and a few merges."""
    made = MINIATURES[name]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = sorted({"<|im_start|>", "<|im_end|>", *made["specials"].values()})
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **made["specials"]).save_pretrained(folder)
    values = {**LLM, **made["llm"]}
    AutoConfig.for_model(values.pop("model_type"), **values).save_pretrained(folder)


def build(name: str, llm: Path) -> SALM:
    """A SALM with random weights, its low-rank layers among them."""
    made = MINIATURES[name]
    torch.manual_seed(0)
    config = {
        "pretrained_llm": str(llm),
        "pretrained_asr": "nowhere",
        "pretrained_weights": False,
        "freeze_params": ["^llm\\..+$"],
        "prevent_freeze_params": [],
        "prompt_format": made["prompt_format"],
        "audio_locator_tag": TAG,
        "lora": {
            "task_type": "CAUSAL_LM",
            "r": 4,
            "lora_alpha": 8,
            "lora_dropout": 0.01,
            "target_modules": ["q_proj", "v_proj"],
        },
        "perception": {
            "target": "nemo.collections.speechlm2.modules.perception.AudioPerceptionModule",
            "output_dim": LLM["hidden_size"],
            "preprocessor": PREPROCESSOR,
            "encoder": ENCODER,
            "modality_adapter": made["adapter"],
            "spec_augment": {
                "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
                "freq_masks": 2,
                "time_masks": 3,
                "freq_width": 4,
                "time_width": 0.05,
            },
        },
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 1e-4},
    }
    if made["chunk"]:
        config["encoder_chunk_size_seconds"] = made["chunk"]
    model = SALM(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.35)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0.0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model


def batch_of(model: SALM) -> dict[str, torch.Tensor]:
    """The conversations as NeMo's data set collates them."""
    from nemo.collections.common.prompts import PromptFormatter

    form = PromptFormatter.resolve(model.cfg.prompt_format)(model.tokenizer)
    encoded = []
    for asked, said in CONVERSATIONS:
        turns = [("user", asked), ("assistant", said)]
        encoded.append(
            form.encode_dialog([{"role": role, "slots": {"message": text}} for role, text in turns])
        )
    generator = np.random.default_rng(0)
    sounds = [0.1 * generator.standard_normal(round(16000 * seconds)) for seconds in SECONDS]
    audios = torch.zeros(len(sounds), max(map(len, sounds)))
    for row, sound in enumerate(sounds):
        audios[row, : len(sound)] = torch.from_numpy(sound)
    return {
        "audios": audios.half().float(),
        "audio_lens": torch.tensor([len(sound) for sound in sounds]),
        "input_ids": left_collate_vectors([one["input_ids"] for one in encoded], model.text_pad_id),
        "loss_mask": left_collate_vectors([one["mask"] for one in encoded], 0).to(torch.bool),
    }


@torch.no_grad()
def numbers(model: SALM) -> dict[str, Any]:
    """Everything that has to come out again."""
    batch = batch_of(model)
    ids, mask = batch["input_ids"], batch["loss_mask"]
    frames = encode_audio_with_optional_chunking(
        model.perception,
        batch["audios"],
        batch["audio_lens"],
        chunk_size_seconds=model.cfg.get("encoder_chunk_size_seconds"),
        sampling_rate=model.sampling_rate,
    )
    tag = model.audio_locator_tag_id
    embedded, targets, attention = replace_placeholders_and_build_targets(
        input_ids=ids,
        embeds=model.embed_tokens(ids.where(ids != tag, 0)),
        padding_id=model.text_pad_id,
        placeholder_id=tag,
        replacements=frames,
        target_ids=ids.where(mask, -100),
    )
    inputs = model.prepare_inputs(batch)
    logits = model(inputs["input_embeds"], attention_mask=inputs["attention_mask"])["logits"]
    found: dict[str, Any] = {f"frames_{row}": one for row, one in enumerate(frames)}
    found |= {"ids": ids.where(ids != tag, -1), "mask": mask, "audios": batch["audios"].half()}
    found |= {"audio_lens": batch["audio_lens"], "embedded": embedded, "targets": targets}
    found |= {"attention": attention, "logits": logits, "shifted": inputs["target_ids"]}
    return {key: value.numpy() for key, value in found.items()}


@torch.no_grad()
def answers(model: SALM) -> dict[str, list[str]]:
    """Greedy answers to the conversations, with and (where there is no audio) without LoRA."""
    batch = batch_of(model)
    prompts = [[{"role": "user", "slots": {"message": asked}}] for asked, _ in CONVERSATIONS]
    said = model.generate(
        prompts=prompts, audios=batch["audios"], audio_lens=batch["audio_lens"], max_new_tokens=12
    )
    with model.llm.disable_adapter():
        plain = model.generate(prompts=prompts[-1:], max_new_tokens=12)
    ends = [row.index(model.text_eos_id) if model.text_eos_id in row else None for row in said.tolist()]
    written = [row[:end] for row, end in zip(said.tolist(), ends)]
    only = plain.tolist()[0][-12:]
    return {
        "tokens": written,
        "texts": [model.tokenizer.tokenizer.decode(row, skip_special_tokens=True) for row in written],
        "without_lora": only,
    }


def main() -> None:
    """Write the fixtures."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name in MINIATURES:
        llm, out = FOLDER / f"{name}_llm", FOLDER / name
        language_model(llm, name)
        model = build(name, llm)
        model.save_pretrained(out)
        config = json.loads((out / "config.json").read_text())
        config["pretrained_llm"] = f"tiny/{name}"
        (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        np.savez_compressed(FOLDER / f"{name}.npz", **numbers(model))
        (FOLDER / f"{name}.json").write_text(json.dumps(answers(model)) + "\n")
        if name == "qwen3":
            (out / "llm_backbone").mkdir()
            shutil.move(llm / "config.json", out / "llm_backbone" / "config.json")
            for file in llm.iterdir():
                shutil.move(file, out / file.name)
            llm.rmdir()
        for readme in out.glob("README.md"):
            readme.unlink()
        print(name, {file.name: file.stat().st_size for file in out.iterdir()})


if __name__ == "__main__":
    main()
