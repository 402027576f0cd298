"""A small Canary: rows alone and in batches, saving, sizes, long audio, manifests, options, bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

import aronnax
from aronnax.collections.asr.canary.config import CanaryConfig
from aronnax.collections.asr.canary.decoder import TransformerDecoderConfig
from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.core.errors import OptionError
from tests.asr.canary.small_canary import noises, small_canary

ENGLISH = {"source_lang": "en", "target_lang": "en"}


@pytest.fixture(scope="module")
def model() -> CanaryModel:
    return small_canary()


@pytest.mark.parametrize(
    ("encoder", "decoder", "count"),
    [
        ((24, 1024), 24, 1017.8e6),
        ((32, 1024), 4, 883.5e6),
        ((17, 512), 4, 182.643840e6),
    ],
    ids=["canary-1b", "canary-1b-flash", "canary-180m-flash"],
)
def test_published_sizes_have_their_parameters(encoder: tuple[int, int], decoder: int, count: float) -> None:
    layers, width = encoder
    shape = FastConformerConfig(feat_in=128, n_layers=layers, d_model=width, n_heads=8, xscaling=False)
    config = CanaryConfig(vocab_size=5248, encoder=shape, decoder=TransformerDecoderConfig(n_layers=decoder))
    with torch.device("meta"):
        found = CanaryModel(config).num_parameters()
    assert found == pytest.approx(count, rel=1e-3)


@torch.inference_mode()
def test_a_rows_text_does_not_depend_on_its_batch(model: CanaryModel) -> None:
    recordings = noises([2.0, 1.2, 3.1, 1.7])
    together = model.transcribe(recordings, target_lang="de", batch_size=4)
    alone = [model.transcribe(recording, target_lang="de") for recording in recordings]
    assert isinstance(together, list)
    assert [one.text for one in together] == [one.text for one in alone]  # type: ignore[union-attr]
    assert len({one.text for one in together}) >= 3


@torch.inference_mode()
def test_a_rows_probabilities_do_not_depend_on_its_batch() -> None:
    model = small_canary(lively=False)
    signals = [torch.from_numpy(samples) for samples, _ in noises([2.0, 1.2, 3.1, 1.7])]
    lengths = torch.tensor([len(signal) for signal in signals])
    batch = model.encode(torch.nn.utils.rnn.pad_sequence(signals, batch_first=True), lengths)
    tokens = torch.randint(3, model.text.vocab_size, (4, 12))
    log_probs = model.forward_tokens(batch.states, batch.lengths, tokens)
    for row, signal in enumerate(signals):
        one = model.encode(signal[None], lengths[row : row + 1])
        single = model.forward_tokens(one.states, one.lengths, tokens[row : row + 1])
        torch.testing.assert_close(single[0], log_probs[row], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_prompts_of_a_batch_may_differ_in_length(model: CanaryModel) -> None:
    recordings = noises([2.0, 2.5])
    encoded = [model.encode(torch.from_numpy(one)[None], torch.tensor([len(one)])) for one, _ in recordings]
    prompts = [
        model.encode_prompt(ENGLISH).prompt,
        model.encode_prompt({**ENGLISH, "context": "my box"}).prompt,
    ]
    assert len(prompts[0]) < len(prompts[1])
    states = torch.nn.utils.rnn.pad_sequence([one.states[0] for one in encoded], batch_first=True)
    together, _ = model.decode(states, torch.cat([one.lengths for one in encoded]), prompts=prompts)
    for one, prompt, found in zip(encoded, prompts, together):
        (alone,), _ = model.decode(one.states, one.lengths, prompts=[prompt])
        assert alone.tokens == found.tokens
        assert len(found.confidences) == len(found.log_probs) == len(found.tokens)
        assert all(0.0 <= sure <= 1.0 for sure in found.confidences)
        assert found.score <= sum(found.log_probs) + 1e-4


@pytest.mark.parametrize("prompt", ["canary", "canary2"])
@pytest.mark.parametrize("aggregate", [True, False])
def test_a_saved_model_says_the_same(prompt: str, aggregate: bool, tmp_path: Path) -> None:
    model = small_canary(prompt, aggregate)
    (recording,) = noises([2.0])
    said = model.transcribe(recording, target_lang="de", pnc=False)
    folder = model.save_pretrained(tmp_path / "folder")
    again = aronnax.load(folder, device="cpu")
    assert isinstance(again, CanaryModel)
    assert again.config == model.config
    assert again.transcribe(recording, target_lang="de", pnc=False).text == said.text  # type: ignore[union-attr]
    tied = again.transf_decoder.token_embedding.weight
    assert again.log_softmax.mlp.layer0.weight is tied


def test_slots_change_what_is_written(model: CanaryModel) -> None:
    recordings = noises([2.0, 1.5, 2.5, 3.0])
    english = [one.text for one in model.transcribe(recordings)]  # type: ignore[union-attr]
    german = model.transcribe(recordings, target_lang="de")
    assert isinstance(german, list)
    assert english != [one.text for one in german]
    assert {one.language for one in german} == {"de"}


def test_languages_follow_what_is_said_of_them(model: CanaryModel) -> None:
    (recording,) = noises([1.2])
    for options, language in (
        ({}, "en"),
        ({"source_lang": "de"}, "de"),
        ({"language": "de"}, "de"),
        ({"source_lang": "de", "target_lang": "en"}, "en"),
        ({"source_lang": "de", "task": "transcribe"}, "de"),
        ({"source_lang": "de", "target_lang": "en", "task": "translate"}, "en"),
        ({"slots": {"source_lang": "de"}}, "de"),
    ):
        found = model.transcribe(recording, **options)  # type: ignore[arg-type]
        assert found.language == language, options  # type: ignore[union-attr]


def manifest(folder: Path, lines: list[dict[str, Any]]) -> Path:
    for number, (line, (samples, rate)) in enumerate(zip(lines, noises([1.2] * len(lines)))):
        soundfile.write(folder / f"{number}.wav", samples, rate)
        line["audio_filepath"] = f"{number}.wav"
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_manifests_own_slots_hold_where_the_caller_gives_none(model: CanaryModel, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"source_lang": "en", "target_lang": "de", "taskname": "s2t_translation", "pnc": "no"},
        {"source_lang": "de"},
        {"lang": "de"},
        {"text": "unrelated", "speaker": 3},
    ]
    path = manifest(tmp_path, lines)
    found = model.transcribe(path)
    assert isinstance(found, list)
    assert [one.language for one in found] == ["de", "de", "de", "en"]
    by_hand = model.transcribe(tmp_path / "0.wav", target_lang="de", pnc=False)
    assert found[0].text == by_hand.text  # type: ignore[union-attr]
    asked = model.transcribe(path, source_lang="en", target_lang="en", task="asr")
    assert [one.language for one in asked] == ["en"] * 4  # type: ignore[union-attr]


def test_a_manifest_may_say_what_is_translated_into_english(model: CanaryModel, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"source_lang": "de"}, {}]
    found = {
        one.index: one
        for one in model.transcribe_iter(manifest(tmp_path, lines), task="translate", target_lang="en")
    }
    assert found[0].transcript is not None
    assert found[0].transcript.language == "en"
    assert "needs a target_lang other than source_lang 'en'" in str(found[1].error)


def test_a_bad_line_is_an_error_in_its_place(model: CanaryModel, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"target_lang": "xx"}, {}, {"pnc": "perhaps"}]
    found = {one.index: one for one in model.transcribe_iter(manifest(tmp_path, lines))}
    assert "target_lang='xx'" in str(found[0].error)
    assert found[1].transcript is not None
    assert "pnc='perhaps'" in str(found[2].error)


def test_long_audio_is_heard_in_pieces_and_says_so() -> None:
    model = small_canary(longest_seconds=2.0)
    ((samples, rate),) = noises([5.0])
    found = model.transcribe((samples, rate))
    assert "pieces of 2 s" in found.notes[0]  # type: ignore[union-attr]


def test_more_at_once_than_was_trained_for_is_done_when_asked_and_said() -> None:
    model = small_canary(longest_seconds=2.0)
    sound = noises([5.0])[0]
    for chunk, said in (
        ("full", "5.0 s are heard at once, more than the 2 s"),
        (8, "5.0 s are heard at once, more than the 2 s"),
        (3, "pieces of 3 s: that was asked for, and is more than the 2 s"),
    ):
        assert said in " ".join(model.transcribe(sound, chunk=chunk).notes)  # type: ignore[union-attr, arg-type]
    assert not any("at once" in note for note in model.transcribe(noises([1.5])[0], chunk="full").notes)  # type: ignore[union-attr]


def test_words_carry_confidences(model: CanaryModel) -> None:
    (recording,) = noises([2.0])
    found = model.transcribe(recording)
    assert found.words  # type: ignore[union-attr]
    assert " ".join(word.text for word in found.words) == found.text  # type: ignore[union-attr]
    assert all(word.confidence is not None for word in found.words)  # type: ignore[union-attr]
    assert all(0 <= word.start <= word.end <= found.duration for word in found.words)  # type: ignore[union-attr]
    assert found == model.transcribe(recording, confidence="max_prob")
    without = model.transcribe(recording, timestamps=False)
    assert without.text == found.text  # type: ignore[union-attr]
    assert not without.words  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target_lang": "fr"}, "target_lang='fr' is not a language of this model, which knows en, de"),
        ({"source_lang": "fr"}, "source_lang='fr' is not a language of this model, which knows en, de"),
        ({"task": "summarise"}, "task='summarise' is not known: use one of transcribe"),
        ({"task": "translate"}, "a translation needs target_lang: one of en, de"),
        ({"task": "translate", "target_lang": "en"}, "needs a target_lang other than"),
        ({"task": "transcribe", "source_lang": "en", "target_lang": "de"}, "use 'translate'"),
        ({"pnc": "sometimes"}, "pnc='sometimes' is not known"),
        ({"slots": {"mood": "good"}}, "'mood' is not a slot of the canary2 prompt, which has decodercontext"),
        ({"beam": 0}, "beam=0 must be"),
        ({"length_penalty": -1.0}, "length_penalty=-1.0 must be"),
        ({"chunk": "local"}, "chunk='local' is not for this model"),
        ({"head": "ctc"}, "head 'ctc' is not one of this model's heads: aed"),
        ({"slots": {"decodercontext": "jump " * 40}}, "leaves no room for text"),
    ],
)
def test_what_the_model_cannot_be_asked_is_refused(
    model: CanaryModel, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        model.transcribe(noises([1.2])[0], **options)


def test_a_slot_the_first_prompt_lacks_is_refused() -> None:
    with pytest.raises(OptionError, match="'itn' is not a slot of the canary prompt"):
        small_canary("canary").transcribe(noises([1.2])[0], itn=True)


def test_an_empty_text_is_a_result_and_a_text_too_long_an_error(model: CanaryModel) -> None:
    empty = model.encode_prompt({**ENGLISH, "target_lang": "de"}, "")
    assert empty.answer == [model.text.end_id]
    long = model.encode_prompt(ENGLISH, "the lazy dog " * 30)
    states = torch.zeros(1, 5, 24)
    with pytest.raises(OptionError, match="longer than the decoder's maximum of 64"):
        model.forward_tokens(states, torch.tensor([5]), torch.tensor([long.prompt + long.answer]))


@torch.inference_mode()
def test_an_empty_translation_gives_an_empty_transcript(model: CanaryModel) -> None:
    silent = small_canary()
    with torch.no_grad():
        silent.log_softmax.mlp.layer0.bias[silent.text.end_id] = 99.0
    found = silent.transcribe(noises([1.2])[0], target_lang="de")
    assert (found.text, found.words, found.language) == ("", (), "de")  # type: ignore[union-attr]


def test_outputs_beyond_the_vocabulary_are_never_written() -> None:
    model = small_canary()
    spare = model.config.outputs - model.text.vocab_size
    assert 0 < spare < 8
    with torch.no_grad():
        model.log_softmax.mlp.layer0.bias[model.text.vocab_size :] = 99.0
    found = model.transcribe(noises([2.0])[0])
    assert math.isfinite(found.duration)  # type: ignore[union-attr]
