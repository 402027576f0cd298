"""Answers of a speech language model: batches, options, streams, recordings of all kinds, and what goes wrong."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from aronnax.cli.main import main
from aronnax.collections.common.results import Transcript
from aronnax.collections.llm.chat.messages import Audio
from aronnax.collections.speechlm.salm.model import SALM
from aronnax.core.errors import AudioError, OptionError
from aronnax.core.loading import load
from tests.speechlm.tiny import CONFIG, RATE, noise, salm, tokenizer


@pytest.fixture(scope="module")
def model() -> SALM:
    return salm()


CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": ["repeat :", Audio(noise(0.5))]}],
    [{"role": "user", "content": [Audio(noise(0.9, 1)), "what is said"]}],
    [
        {"role": "user", "content": [Audio(noise(0.3, 2)), "repeat :", Audio(noise(0.4, 3))]},
        {"role": "assistant", "content": "five six"},
        {"role": "user", "content": "repeat : seven"},
    ],
    [{"role": "user", "content": "repeat : seven"}],
]


def test_what_an_answer_is_batched_with_changes_nothing(model: SALM) -> None:
    alone = [model.generate(chat, max_new_tokens=8) for chat in CHATS]
    for batch_size in (1, 3, 8):
        together = model.generate(CHATS, max_new_tokens=8, batch_size=batch_size)
        assert [reply.tokens for reply in together] == [reply.tokens for reply in alone]
        for one, other in zip(together, alone):
            np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)
    assert len({reply.tokens for reply in alone}) == len(CHATS), "the answers differ"


def test_drawn_answers_follow_the_seed(model: SALM) -> None:
    hot = {"temperature": 1.5, "max_new_tokens": 8}
    first = model.generate(CHATS, seed=3, **hot)
    assert model.generate(CHATS[1], seed=3, **hot).tokens == first[1].tokens
    assert [r.tokens for r in model.generate(CHATS, seed=4, **hot)] != [r.tokens for r in first]


def test_a_stop_text_ends_an_answer(model: SALM) -> None:
    whole = model.generate(CHATS[1], max_new_tokens=8)
    word = whole.text.split()[1]
    cut = model.generate(CHATS[1], max_new_tokens=8, stop=f" {word}")
    assert cut.text == whole.text[: whole.text.find(f" {word}")]
    assert cut.finished == "stopped"


def test_a_stream_tells_the_reply_piece_by_piece(model: SALM) -> None:
    whole = model.generate(CHATS[2], max_new_tokens=8)
    *pieces, last = model.generate_stream(CHATS[2], max_new_tokens=8)
    assert last.reply is not None
    assert "".join(piece.text for piece in [*pieces, last]) == last.reply.text == whole.text
    assert [piece.token for piece in pieces] == list(whole.tokens)
    assert [piece.time for piece in pieces] == sorted(piece.time for piece in pieces)


def test_several_answers_come_best_first(model: SALM) -> None:
    answers = model.generate(CHATS[0], beam=3, n_best=2, max_new_tokens=6)
    assert len(answers) == 2
    assert sum(answers[0].log_probs) >= sum(answers[1].log_probs)


def test_recordings_of_other_rates_and_channels_are_heard(model: SALM, tmp_path: Path) -> None:
    samples, _ = noise(0.5)
    stereo = np.stack([samples, samples])
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", stereo.T, RATE, subtype="FLOAT")
    double = np.repeat(samples, 2).astype(np.float32)
    soundfile.write(tmp_path / "c.wav", double, 2 * RATE, subtype="FLOAT")
    wanted = model.generate(CHATS[0], max_new_tokens=8).tokens
    sources: list[Any] = [
        tmp_path / "a.wav",
        str(tmp_path / "b.wav"),
        (tmp_path / "a.wav").read_bytes(),
        (stereo, RATE),
    ]
    for source in sources:
        chat = [{"role": "user", "content": ["repeat :", Audio(source)]}]
        assert model.generate(chat, max_new_tokens=8).tokens == wanted
    longer = [{"role": "user", "content": ["repeat :", Audio(tmp_path / "c.wav")]}]
    assert model.generate(longer, max_new_tokens=8).tokens


def test_a_part_of_a_recording_is_heard(model: SALM) -> None:
    samples, rate = noise(1.0)
    part = Audio((samples, rate), offset=0.25, duration=0.5)
    exact = Audio((samples[2000:6000], rate))
    replies = model.generate(
        [[{"role": "user", "content": ["repeat :", audio]}] for audio in (part, exact)], max_new_tokens=8
    )
    assert replies[0].tokens == replies[1].tokens


def test_a_missing_recording_is_named_with_its_turn(model: SALM) -> None:
    chat = [*CHATS[2][:2], {"role": "user", "content": ["repeat :", Audio("nowhere.wav")]}]
    with pytest.raises(AudioError, match=r"turn 3 \(user\): .*nowhere\.wav"):
        model.generate(chat)


def files(folder: Path, count: int, broken: int) -> list[list[dict[str, Any]]]:
    """Questions about files, one of which is none."""
    for number in range(count):
        path = folder / f"{number}.wav"
        soundfile.write(path, *noise(0.2 + 0.02 * (number % 5), number))
        if number == broken:
            path.write_bytes(b"RIFF")
    names = [str(folder / f"{number}.wav") for number in range(count)]
    return [[{"role": "user", "content": ["repeat :", Audio(name)]}] for name in names]


def test_answers_begin_before_all_is_read_and_a_broken_file_costs_its_own_alone(
    model: SALM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    prompt = model.prompt
    monkeypatch.setattr(model, "prompt", lambda *given: read.append(0) or prompt(*given))  # type: ignore[func-returns-value]
    chats = files(tmp_path, 20, broken=6)
    answers = model.generate_iter(iter(chats), batch_size=1, max_new_tokens=3)
    first = next(answers)
    assert len(read) == SALM.ahead
    assert first.index < SALM.ahead
    found = {one.index: one for one in [first, *answers]}
    assert sorted(found) == list(range(20))
    assert isinstance(found[6].error, AudioError)
    assert "6.wav" in str(found[6].error)
    good = [index for index in found if index != 6]
    assert [found[index].reply.tokens for index in good] == [
        model.generate(chats[index], max_new_tokens=3).tokens for index in good
    ]
    with pytest.raises(AudioError, match=r"^conversation 7: turn 1 \(user\): .*6\.wav"):
        model.generate(chats, batch_size=1, max_new_tokens=3)


def test_conversations_may_come_without_end(model: SALM) -> None:
    answers = model.generate_iter(itertools.cycle(CHATS), batch_size=2, max_new_tokens=3)
    several = {one.index: one.reply.tokens for one in itertools.islice(answers, 8)}
    assert all(several[index] == several[index % 4] for index in several)
    with pytest.raises(OptionError, match="batch_size=0"):
        model.generate_iter(CHATS, batch_size=0)


def test_a_conversation_that_is_too_long_names_turn_and_tokens(model: SALM) -> None:
    long = salm(context=40)
    words = " ".join(["seven"] * 30)
    chat = [
        {"role": "user", "content": "repeat : one"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": words},
    ]
    length = len(model.text.render(chat).ids)
    message = rf"{length} tokens.*{length - 39} more than .* context of 40 .* turn 3 \(user\).*shorten"
    with pytest.raises(OptionError, match=message):
        long.generate(chat)
    frames = model.positions([-1], [round(0.6 * RATE)])
    sound = [{"role": "user", "content": ["repeat :", Audio(noise(0.6))]}]
    tight = salm(context=frames + 5)
    with pytest.raises(OptionError, match=r"turn 1 \(user\)"):
        tight.generate(sound)
    roomy = salm(context=frames + 7)
    assert roomy.generate(sound).finished in ("limit", "eos")


def test_training_mode_is_refused() -> None:
    with pytest.raises(OptionError, match=r"model\.eval"):
        salm().train().generate("repeat : one")


def test_recordings_are_transcribed_in_the_order_given(model: SALM) -> None:
    recordings = [noise(0.3 + 0.1 * number, number) for number in range(5)]
    found = model.transcribe(recordings, max_new_tokens=6, batch_size=2)
    assert isinstance(found, list)
    alone = [model.transcribe(one, max_new_tokens=6) for one in recordings]
    assert found == alone
    assert all(isinstance(one, Transcript) for one in alone)
    assert found[2].duration == pytest.approx(0.5)


def test_key_words_stand_before_the_question(model: SALM) -> None:
    recording = noise(0.5)
    listed = model.transcribe(recording, keywords="seven, nine", max_new_tokens=6)
    asked = model.config.keyword_prompt.write(["seven", "nine"]) + "repeat :"
    by_hand = model.generate([{"role": "user", "content": [asked, Audio(recording)]}], max_new_tokens=6)
    assert listed.text == by_hand.text.strip()
    assert model.transcribe(recording, keywords=["seven", "nine"], max_new_tokens=6).text == listed.text


def test_another_prompt_may_be_asked(model: SALM) -> None:
    recording = noise(0.5)
    asked = model.transcribe(recording, prompt="what is said", max_new_tokens=6)
    by_hand = model.generate(
        [{"role": "user", "content": ["what is said", Audio(recording)]}], max_new_tokens=6
    )
    assert asked.text == by_hand.text.strip()


def test_where_nobody_speaks_nothing_is_written_and_long_recordings_are_noted() -> None:
    model, silence = salm(longest_seconds=0.5), (np.zeros(RATE // 2, np.float32), RATE)
    written = model.transcribe(silence, max_new_tokens=6)
    assert isinstance(written, Transcript)
    assert written.text == ""
    assert any("holds no speech" in note for note in written.notes)
    asked = [{"role": "user", "content": ["repeat :", Audio(silence), Audio(noise(0.7))]}]
    reply = model.generate(asked, max_new_tokens=6)
    assert reply.tokens
    assert reply.notes == (
        "recording 1 holds no speech",
        "recording 2 lasts 0.7 s, and the model learned from up to 0.5 s",
    )
    answered = model.generate_iter([asked, asked[0]["content"][0], CHATS[0]], max_new_tokens=2)
    assert {one.index: one.silent for one in answered} == {0: True, 1: False, 2: False}
    timeless = model.transcribe(noise(0.4), max_new_tokens=6)
    assert isinstance(timeless, Transcript)
    assert timeless.notes[0] == "a language model with ears gives words no times"


def test_what_cannot_be_read_stands_in_its_place(model: SALM, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    results = list(model.transcribe_iter([noise(0.4), tmp_path / "broken.wav", noise(0.4)], max_new_tokens=4))
    by_index = {result.index: result for result in results}
    assert by_index[1].error is not None
    assert by_index[0].transcript == by_index[2].transcript


def test_errors_of_transcribing_name_the_file_and_no_turns(
    model: SALM, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("transcribe", tmp_path / "missing.wav", "-m", saved) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'missing.wav'}: ")
    assert "turn" not in said
    samples, rate = noise(2.0)
    soundfile.write(tmp_path / "long.wav", samples, rate)
    with pytest.raises(OptionError, match=r"long\.wav: with what is asked it takes \d+ tokens") as refused:
        salm(context=12).transcribe(tmp_path / "long.wav")
    assert "turn" not in str(refused.value)
    with pytest.raises(OptionError, match=r"^the recording: with what is asked"):
        salm(context=12).transcribe(noise(2.0))


def status_of(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def saved(model: SALM, tmp_path: Path) -> Path:
    return model.save_pretrained(tmp_path / "salm")


def test_the_command_line_transcribes_with_key_words(
    model: SALM, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, rate = noise(0.5)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    said = model.transcribe(tmp_path / "a.wav", keywords=["seven"]).text
    assert status_of("transcribe", tmp_path / "a.wav", "-m", saved, "--keywords", "seven") == 0
    assert capsys.readouterr().out.strip() == said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source-lang", "en"], "takes --prompt and --keywords alone, so --source-lang cannot be given"),
        (["--vad", "energy"], "has no --vad"),
        (["--diarize"], "gives words no times: leave out --diarize"),
    ],
)
def test_the_command_line_refuses_what_it_cannot_be_told(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    samples, rate = noise(0.5)
    soundfile.write(tmp_path / "a.wav", samples, rate)
    assert status_of("transcribe", tmp_path / "a.wav", "-m", saved, *options) == 2
    assert message in capsys.readouterr().err


def test_weights_are_shared_by_reference(model: SALM, tmp_path: Path) -> None:
    from safetensors import safe_open

    from aronnax.collections.llm.model import LanguageModel, LanguageModelConfig

    plain = LanguageModel(LanguageModelConfig(CONFIG.backbone, prompt_format="digits"), tokenizer())
    plain.eval().save_pretrained(tmp_path / "lm")
    shared = SALM(replace(CONFIG, references={"llm.": str(tmp_path / "lm")}), tokenizer(), plain.llm).eval()
    shared.save_pretrained(tmp_path / "salm")
    with safe_open(tmp_path / "salm" / "model.safetensors", "pt") as file:
        own = set(file.keys())
    assert {name for name in own if name.startswith("llm.")} == {
        name for name in shared.state_dict() if ".lora_" in name
    }
    again: Any = load(tmp_path / "salm", device="cpu")
    assert (
        again.generate(CHATS[0], max_new_tokens=6).tokens
        == shared.generate(CHATS[0], max_new_tokens=6).tokens
    )
