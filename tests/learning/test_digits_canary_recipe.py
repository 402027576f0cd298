"""The documented training command of digits-canary learns; its batches ask for what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import aronnax

RECIPE = Path(__file__).parents[2] / "examples" / "asr" / "digits_canary"
OWN = ("answers", "batches", "noises", "measure", "voices", "strings", "train", "evaluate")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The recipe's own modules can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(RECIPE))
    monkeypatch.syspath_prepend(str(RECIPE.parent / "digits"))
    yield
    for name in OWN:
        sys.modules.pop(name, None)


def test_digits_are_said_in_every_language(recipe: None) -> None:
    from answers import say

    assert say("seven three nine", "en", pnc=True) == "Seven, three, nine."
    assert say("zero one five", "fr", pnc=True) == "Zéro, un, cinq."
    assert say("five zero", "de", pnc=False) == "fünf null"
    assert say("eight", "es", pnc=True) == "Ocho."
    assert say("", "es", pnc=True) == ""


def test_every_word_and_sign_is_one_token_of_its_language(recipe: None) -> None:
    from answers import LANGUAGES, WORDS, digit_tokenizer, say

    tokenizer = digit_tokenizer()
    assert set(tokenizer.languages) == set(LANGUAGES)
    for language in LANGUAGES:
        for first in WORDS["en"]:
            for second in WORDS["en"]:
                for pnc, tokens in ((False, 2), (True, 4)):
                    text = say(f"{first} {second}", language, pnc)
                    ids = tokenizer.encode(text, language)
                    assert len(ids) == tokens
                    assert tokenizer.decode(ids) == text
                    assert {tokenizer.inner.language_of(token) for token in ids} == {language}


def test_each_recording_is_asked_for_in_several_languages_and_heard_once(recipe: None) -> None:
    from answers import digit_tokenizer, say
    from batches import LENGTHS, NoisyStringMaker, prompted_batches
    from strings import Surroundings
    from voices import Voice

    from aronnax.collections.asr.canary.config import CanaryConfig
    from aronnax.collections.asr.canary.decoder import TransformerDecoderConfig
    from aronnax.collections.asr.canary.model import CanaryModel
    from aronnax.collections.asr.encoder import FastConformerConfig

    tokenizer = digit_tokenizer()
    decoder = TransformerDecoderConfig(hidden_size=8, inner_size=8, n_layers=1, n_heads=1)
    encoder = FastConformerConfig(feat_in=128, n_layers=1, d_model=8, n_heads=1, subsampling_conv_channels=8)
    model = CanaryModel(CanaryConfig(tokenizer.vocab_size, encoder=encoder, decoder=decoder), tokenizer)
    chance = np.random.default_rng(0)
    clips = [
        ((0.1 * chance.standard_normal(2400)).astype(np.float32), word) for word in ("one", "two", "six")
    ]
    around = Surroundings.load(None, torch.Generator().manual_seed(0))
    words = aronnax.load("digits", device="cpu").tokenizer
    maker = NoisyStringMaker([(1.0, [Voice("made", clips)])], around, words, seed=0, lengths=LENGTHS)
    maker.noise_share = 0.4
    batches = prompted_batches(maker, model, 8, 4, seed=0)
    empty = 0
    for batch in (next(batches) for _ in range(6)):
        assert torch.isfinite(batch.heard.signal).all()
        assert torch.equal(batch.owner, torch.arange(len(batch.heard)).repeat_interleave(4))
        for row, owner in enumerate(batch.owner.tolist()):
            prompt, end = int(batch.asked.prompt_lengths[row]), int(batch.asked.token_lengths[row])
            ids, slots = batch.asked.tokens[row, :end].tolist(), batch.asked.slots[row]
            assert ids[:prompt] == model.encode_prompt(slots).prompt
            assert ids[-1] == tokenizer.end_id
            text = batch.heard.texts[owner]
            assert tokenizer.decode(ids[prompt:]) == say(text, slots["target_lang"], slots["pnc"] == "yes")
            empty += not text
        languages = {slots["target_lang"] for slots in batch.asked.slots[:4]}
        assert languages == {"en", "de", "fr", "es"}
    assert empty > 0


def test_noises_are_finite_of_the_length_asked_for_and_not_too_loud(recipe: None) -> None:
    import noises

    assert not set(noises.TRAINED) & set(noises.UNHEARD)
    for kind in (*noises.TRAINED.values(), *noises.UNHEARD.values()):
        for size in (2400, 16001):
            sound = noises.make(kind, np.random.default_rng(size), size)
            assert sound.shape == (size,)
            assert sound.dtype == np.float32
            assert np.isfinite(sound).all()
            assert np.abs(sound).max() <= 0.5001


@pytest.mark.slow
def test_a_small_training_writes_an_unheard_speaker_in_four_languages(tmp_path: Path) -> None:
    if "ARONNAX_DATA" not in os.environ:
        pytest.skip("ARONNAX_DATA does not name the folder that holds fsdd")
    # The start has heard the speaker; what is tested is that the prompted decoder learns on it.
    options = [
        f"data.fsdd={os.environ['ARONNAX_DATA']}/fsdd", "data.hold_out=theo", "data.doubles=2",
        "data.synthesised=60", "start=digits", f"output={tmp_path}", "speech.steps=1600", "noise.steps=80",
        "noise.lr=2e-4", "speech.average=0.98", "noise.average=0.95", "noise.warmup=10",
        "speech.curriculum=[[2,0.3],[4,0.6],[7,1.0]]", "noise.curriculum=[[7,1.0]]",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(RECIPE.parents[2])}
    subprocess.run([sys.executable, str(RECIPE / "train.py"), *options], env=environment, check=True)
    results = json.loads((tmp_path / "noise" / "results.json").read_text())
    rates = {form: results[f"strings, 8 kHz, {form}"]["wer"] for form in ("en", "de", "fr", "es")}
    assert max(rates.values()) < 0.15, rates
    # A word is right only with its sign, which takes longer to learn.
    signed = {form: results[f"strings, 8 kHz, {form}, pnc"]["wer"] for form in rates}
    assert sum(signed.values()) / len(signed) < 0.2, signed
    assert results["strings, language change"] > 0.95
