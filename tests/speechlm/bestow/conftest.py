"""A model of a few thousand random weights that knows the words of digits."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.llm.backbone import BackboneConfig
from aronnax.collections.llm.chat.messages import Audio
from aronnax.collections.llm.chat.tokenizer import ChatTokenizer
from aronnax.collections.speechlm.bestow.model import BESTOW, BESTOWConfig
from aronnax.collections.speechlm.bestow.reader import ReaderConfig
from aronnax.collections.speechlm.conversation.batch import collate
from aronnax.collections.speechlm.perception import PerceptionConfig

RATE = 1000
LLAMA = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
SPECIALS = ["<unk>", "<|end|>", "<|user|>", "<|assistant|>"]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDS = [*SPECIALS, *DIGITS, "say", "how", "many", "then", "and", "what"]


def tokenizer():
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    made = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = WhitespaceSplit()
    made.add_special_tokens([AddedToken(word, special=True) for word in SPECIALS])
    files = {
        "tokenizer.json": made.to_str().encode(),
        "tokenizer_config.json": json.dumps({"eos_token": "<|end|>", "unk_token": "<unk>"}).encode(),
    }
    return ChatTokenizer.from_assets(files, prompt_format="digits")


def encoder(streamable):
    contexts = {
        "causal_downsampling": True,
        "att_context_size": ((8, 3),),
        "att_context_style": "chunked_limited",
        "conv_context_size": "causal",
    }
    return FastConformerConfig(
        feat_in=8,
        n_layers=1,
        d_model=16,
        n_heads=2,
        conv_kernel_size=3,
        subsampling_conv_channels=4,
        **(contexts if streamable else {}),
    )


def bestow(streamable=False, seed=0, **changes):
    """An untrained model whose weights are large enough for it to care what it hears."""
    torch.manual_seed(seed)
    settings = {
        "backbone": BackboneConfig("llama", LLAMA),
        "perception": PerceptionConfig(
            preprocessor=LogMelConfig(sample_rate=1000, n_mels=8, n_fft=32, normalize="none", dither=0.0),
            encoder=encoder(streamable),
        ),
        "prompt_format": "digits",
        "transcribe_prompt": "say",
        "reader": ReaderConfig(n_heads=2),
        **changes,
    }
    model = BESTOW(BESTOWConfig(**settings), tokenizer())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and not name.startswith("perception.encoder.pre_encode"):
                weight.normal_(0.0, 1.2 * weight.shape[-1] ** -0.5)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return bestow()


@pytest.fixture(scope="module")
def streamable():
    return bestow(streamable=True)


def signal(seconds, seed=0):
    """Noise at 1000 Hz."""
    return 0.5 * torch.randn(round(1000 * seconds), generator=torch.Generator().manual_seed(seed))


def question(*content):
    return [{"role": "user", "content": list(content)}]


def spoken(*content, seconds=1.0, seed=0):
    return question(*(Audio((signal(seconds, seed).numpy(), RATE)) if one is ... else one for one in content))


def batch_of(model, *conversations):
    """Conversations of (messages, answer) as a training batch."""
    rendered, signals = [], []
    for messages, answer in conversations:
        rows = [*messages, {"role": "assistant", "content": answer}]
        rendered.append(model.text.render(rows, answer=True))
        signals += [torch.from_numpy(audio.source[0]) for audio in rendered[-1].audios]
    names = [str(number) for number in range(len(rendered))]
    return collate(rendered, signals, [answer for _, answer in conversations], names, model.text.pad_id)


def scores(model, ids, signals=()):
    decoder, lengths = model.decoder_for([ids], [list(signals)])
    return decoder.prefill(lengths.new_zeros(1, len(ids)), lengths, capacity=40)[0]
