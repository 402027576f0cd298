"""The model: a recogniser and a diarizer in one checkpoint, and transcripts that say who speaks."""

import inspect
import json

import numpy as np
import pytest
import torch

import aronnax
from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.asr.words import Clock
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.common.results import Diarization, Turn
from aronnax.collections.diarization.multispeaker.kernel import KernelConfig, speaker_kernel
from aronnax.collections.diarization.multispeaker.model import MultispeakerConfig, MultispeakerModel
from aronnax.collections.diarization.multispeaker.options import Options, Settings
from aronnax.collections.diarization.multispeaker.transcribing import attributed
from aronnax.collections.diarization.multispeaker.vocabulary import with_speaker_tokens
from aronnax.core.config import to_dict
from aronnax.core.errors import ConfigError, OptionError

from .conftest import RATE, TOKENS, diarizer, multispeaker, noises, recogniser


def signal_of(seconds=2.0):
    """A signal [1, S] and its length [1]; two seconds have 25 frames."""
    signal = torch.from_numpy(noises([seconds])[0])[None]
    return signal, torch.tensor([signal.shape[1]])


def test_with_the_kernel_off_the_states_are_the_recognisers_own_bitwise(kind):
    plain, off = recogniser(kind), multispeaker(kind, kernel=None)
    signal, lengths = signal_of()
    with torch.inference_mode():
        alone = plain.encode(signal, lengths)
        encoded = off.encode(signal, lengths, torch.rand(1, 25, 2), torch.tensor([25]))
        assert torch.equal(encoded.states, alone.states)
        found, _ = off.recogniser.decode(encoded.states, encoded.lengths)
        expected, _ = plain.decode(alone.states, alone.lengths)
    assert found == expected


def test_with_the_kernel_on_the_decoder_hears_states_and_speakers(kind):
    model, (signal, lengths), activity = multispeaker(kind), signal_of(), torch.rand(1, 25, 2)
    with torch.inference_mode():
        alone = model.recogniser.encode(signal, lengths)
        frames = alone.states.shape[1]
        found = model.encode(signal, lengths, activity, torch.tensor([25]))
    known = torch.cat([activity, activity[:, -1:]], 1)[:, :frames]
    torch.testing.assert_close(found.states, alone.states + known @ speaker_kernel(2, alone.states.shape[2]))
    assert torch.equal(found.lengths, alone.lengths)


def test_before_the_encoder_its_layers_hear_frames_and_speakers(kind):
    model = multispeaker(kind, kernel=KernelConfig(before="encoder"))
    (signal, lengths), activity, inside = signal_of(), torch.rand(1, 25, 2), model.recogniser
    with torch.inference_mode():
        found = model.encode(signal, lengths, activity, torch.tensor([25]))
        frames, frame_lengths = inside.encoder.pre_encode(*inside.preprocessor(signal, lengths))
        known = torch.cat([activity, activity[:, -1:]], 1)[:, : frames.shape[1]]
        entering = frames + known @ speaker_kernel(2, frames.shape[2])
        expected = inside.encoder.encode_frames(entering, frame_lengths).states
        if kind == "canary":
            expected = inside.encoder_decoder_proj(expected)
        nobody = model.encode(signal, lengths, torch.zeros(1, 25, 2), torch.tensor([25]))
        assert torch.equal(nobody.states, inside.encode(signal, lengths).states)
    torch.testing.assert_close(found.states, expected)


def test_a_saved_model_says_the_same(kind, tmp_path):
    model = multispeaker(kind, level="segment", kernel=KernelConfig(normalise="l2"))
    audio = [(signal, RATE) for signal in noises([1.5, 2.2])]
    model.save_pretrained(tmp_path / "model")
    loaded = aronnax.load(str(tmp_path / "model"), device="cpu")
    assert isinstance(loaded, MultispeakerModel)
    assert to_dict(loaded.config) == to_dict(model.config)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values()))
    ours, theirs = model.transcribe(audio), loaded.transcribe(audio)
    assert [one.words for one in ours] == [one.words for one in theirs]


def decoded(model, audio, **options):
    """The states that are decoded of each recording, and the transcripts."""
    rows, decode = [], model.recogniser.decode

    def watched(states, lengths, **asked):
        rows.extend(row[:length] for row, length in zip(states, lengths.tolist()))
        return decode(states, lengths, **asked)

    model.recogniser.decode = watched
    try:
        return rows, model.transcribe(audio, **options)
    finally:
        del model.recogniser.decode


def test_what_a_recording_is_batched_with_changes_nothing(kind):
    model = multispeaker(kind)
    audio = [(signal, RATE) for signal in noises([1.1, 3.0, 0.4, 2.2], seed=3)]
    rows, together = decoded(model, audio, batch_size=4)
    for one, row, transcript in zip(audio, rows, together):
        (alone,), expected = decoded(model, one)
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=0)
        assert transcript.text == expected.text
        assert [word.speaker for word in transcript.words] == [word.speaker for word in expected.words]


def test_the_diarizer_does_not_learn_and_the_recogniser_does():
    model = multispeaker()
    assert not any(parameter.requires_grad for parameter in model.diarizer.parameters())
    assert all(parameter.requires_grad for parameter in model.recogniser.parameters())


def test_words_get_the_speaker_whose_token_stands_before_them():
    model = multispeaker()
    ids = {model.tokenizer.vocabulary.index(token): number for number, token in enumerate(TOKENS)}
    first, second = ids
    low, high = model.tokenizer.encode("low"), model.tokenizer.encode("high")
    tokens = [*low, second, *high, first, *low, first, *high, second]
    frames = list(range(len(tokens)))
    found = attributed(
        model,
        Hypothesis(tokens, frames, [1] * len(tokens)),
        Clock(model.samples_per_frame, RATE, 0, 10 * RATE),
        ids,
    )
    assert [[(word.text, word.speaker) for word in words] for words in found] == [
        [("low", "SPEAKER 1")],
        [("high", "SPEAKER 2")],
        [("low", "SPEAKER 1"), ("high", "SPEAKER 1")],
    ]
    # Its tokens are those after the speaker token, one a frame.
    (second_word,) = found[1]
    assert (len(low) + 1) * 0.08 <= second_word.start < second_word.end
    assert second_word.end == pytest.approx((len(low) + 1 + len(high)) * 0.08)


def speaking(model, tokens):
    """The model, whose recogniser says these tokens of everything, one a frame."""

    def decode(states, lengths, **_):
        one = Hypothesis(tokens, list(range(len(tokens))), [1] * len(tokens), [1.0] * len(tokens))
        return [one for _ in states], None

    model.recogniser.decode = decode
    return model


def test_transcripts_tell_speakers_as_joined_ones_do():
    model = multispeaker()
    first, second = (model.tokenizer.vocabulary.index(token) for token in TOKENS)
    low, high = model.tokenizer.encode("low"), model.tokenizer.encode("high")
    said = speaking(model, [first, *low, *high, second, *high]).transcribe((noises([2.0])[0], RATE))
    assert said.text == "low high high"
    assert said.to_txt() == "SPEAKER 1: low high\nSPEAKER 2: high\n"
    assert [word.speaker for word in said.words] == ["SPEAKER 1", "SPEAKER 1", "SPEAKER 2"]
    assert [segment.speaker for segment in said.segments] == ["SPEAKER 1", "SPEAKER 2"]


def test_a_given_diarization_takes_the_place_of_the_diarizers():
    model = multispeaker()
    seen = []
    inner = model.kernel.forward
    model.kernel.forward = lambda states, activity: (seen.append(activity), inner(states, activity))[1]
    turns = Diarization((Turn("anna", 0.4, 0.8), Turn("bert", 0.72, 1.2)), 1.5)
    model.transcribe((noises([1.5])[0], RATE), diarization=turns)
    (activity,) = seen
    assert activity.shape == (1, 19, 2)
    assert activity[0, :, 0].tolist() == [float(5 <= frame < 10) for frame in range(19)]
    assert activity[0, :, 1].tolist() == [float(9 <= frame < 15) for frame in range(19)]


def test_a_long_recording_is_heard_in_pieces_with_the_speakers_of_the_whole():
    model = multispeaker(longest_seconds=2.0)
    seen = []
    inner = model.kernel.forward

    def forward(states, activity):
        seen.extend(activity)
        return inner(states, activity)

    model.kernel.forward = forward
    signal = noises([7.0])[0]
    found = model.transcribe((signal, RATE))
    assert "pieces of at most 2 s" in found.notes[-1]
    whole = model.diarizer.diarize((signal, RATE)).probabilities[:, :2]
    for activity in seen[:-1]:
        rows = activity.numpy()
        rows = rows[: int(rows.any(1).sum())]
        distances = [
            np.abs(whole[start : start + len(rows)] - rows).max()
            for start in range(len(whole) - len(rows) + 1)
        ]
        assert min(distances) == 0.0
    last = max(word.end for word in found.words) if found.words else 0.0
    assert last <= 7.0


def test_a_recording_that_cannot_be_read_leaves_the_others(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"not audio")
    found = list(multispeaker().transcribe_iter([tmp_path / "bad.wav", (noises([1.2])[0], RATE)]))
    assert [result.index for result in found] == [0, 1]
    assert found[0].error is not None
    assert found[1].transcript is not None


def test_the_command_writes_who_says_what(tmp_path, capsys):
    import soundfile

    from aronnax.cli.main import main

    multispeaker("hybrid").save_pretrained(tmp_path / "model")
    soundfile.write(tmp_path / "meeting.wav", noises([1.6])[0], RATE)
    recording, folder = str(tmp_path / "meeting.wav"), str(tmp_path / "model")
    with pytest.raises(SystemExit) as done:
        main(["transcribe", recording, "-m", folder, "--format", "json", "--out", str(tmp_path / "out")])
    assert done.value.code == 0
    written = json.loads((tmp_path / "out" / "meeting.json").read_text())
    assert written["duration"] == 1.6
    assert all(word["speaker"].startswith("SPEAKER ") for word in written["words"])
    with pytest.raises(SystemExit) as refused:
        main(["transcribe", recording, "-m", folder, "--diarize", "diarizer-small"])
    assert refused.value.code != 0
    assert "leave out --diarize" in capsys.readouterr().err


def test_a_diarizer_of_fewer_speakers_than_the_kernel_is_refused():
    with pytest.raises(ConfigError, match="tells 1 speakers apart, fewer than the 2 of the speaker kernel"):
        MultispeakerModel.of(recogniser("ctc"), diarizer(1), speakers=2)


def test_another_frame_rate_is_refused():
    slow = diarizer(preprocessor=LogMelConfig(n_mels=16, normalize="none", window_stride=0.02))
    with pytest.raises(ConfigError, match="a frame every 80 ms and the diarizer every 160 ms"):
        MultispeakerModel.of(recogniser("ctc"), slow, speakers=2)
    other = Diarization((), 2.0, np.zeros((50, 2), np.float32), 0.04, ("a", "b"))
    with pytest.raises(OptionError, match=r"a frame every 0.04 s, and the recogniser every 0.08 s"):
        multispeaker().transcribe((noises([2.0])[0], RATE), diarization=other)


def test_a_diarization_of_another_recording_is_refused():
    other = Diarization((), 9.0, np.zeros((112, 2), np.float32), 0.08, ("a", "b"))
    with pytest.raises(OptionError, match="has 112 frames, and the recording 25"):
        multispeaker().transcribe((noises([2.0])[0], RATE), diarization=other)


def test_more_speakers_than_the_model_writes_are_refused():
    crowd = Diarization(tuple(Turn(name, 0.1, 0.9) for name in "abc"), 2.0)
    with pytest.raises(OptionError, match="names 3 speakers, and the model writes at most 2"):
        multispeaker().transcribe((noises([2.0])[0], RATE), diarization=crowd)
    model = multispeaker()
    with pytest.raises(OptionError, match="that of 3 speakers, and the model has 2"):
        model.encode(*signal_of(), torch.zeros(1, 25, 3), torch.tensor([25]))


def test_a_recogniser_without_speaker_tokens_is_refused():
    with pytest.raises(ConfigError, match=r"has no speaker token '<\|spltoken2\|>'"):
        MultispeakerModel.of(recogniser("ctc"), diarizer(), speakers=3)


def test_the_options_declared_are_those_that_are_taken():
    taken = set(inspect.signature(Options.checked).parameters) - {"model", "asked"}
    prompted = set(inspect.signature(CanaryModel.transcribe).parameters) - {"self", "x"}
    assert set(Settings.__annotations__) == taken | prompted
    with pytest.raises(OptionError, match="strange= is not an option"):
        multispeaker().transcribe((noises([1.2])[0], RATE), strange=1)


def test_options_that_cannot_be_honoured_are_named():
    model, audio = multispeaker(), (noises([1.2])[0], RATE)
    with pytest.raises(OptionError, match="pnc= is not an option of a model with a ctc recogniser"):
        model.transcribe(audio, pnc=True)
    with pytest.raises(OptionError, match="vad='energy' cannot be given"):
        model.transcribe(audio, vad="energy")
    with pytest.raises(OptionError, match="chunk='local' is not known"):
        model.transcribe(audio, chunk="local")
    without = MultispeakerModel.of(recogniser("ctc"), None, speakers=2).eval()
    with pytest.raises(OptionError, match="the model has no diarizer: pass diarization="):
        without.transcribe(audio)
    with pytest.raises(OptionError, match="needs one for each recording"):
        without.transcribe([audio, audio], diarization=[Diarization((), 1.2)])
    with pytest.raises(OptionError, match="training mode"):
        multispeaker().train().transcribe(audio)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speakers": 9}, "speakers=9 must lie between 1 and 8"),
        ({"speaker_token": "<|spk|>"}, "must hold one {}"),
        ({"longest_seconds": 0.0}, "longest_seconds=0.0 must be above 0"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MultispeakerConfig({"type": "ctc"}, **options)
    with pytest.raises(ConfigError, match=r"recogniser.type is 'sortformer'"):
        MultispeakerModel(MultispeakerConfig({"type": "sortformer"}))


def test_speaker_tokens_are_added_once_and_old_rows_stay(kind):
    model = recogniser(kind)
    assert with_speaker_tokens(model, TOKENS) is model
    more = with_speaker_tokens(model, [*TOKENS, "<|spltoken2|>"])
    assert more.tokenizer.encode("low high", "en") != []
    old, new = model.tokenizer.vocabulary, more.tokenizer.vocabulary
    assert len(new) == len(old) + 1
    assert [piece for piece in new if piece != "<|spltoken2|>"] == list(old)
