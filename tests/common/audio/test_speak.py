"""espeak-ng through its shared library."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from aronnax.collections.common.audio.speak import EspeakSynthesizer
from aronnax.core.errors import OptionError

pytest.importorskip("espeakng_loader", reason="speech synthesis needs the extra [speak]")


def test_text_becomes_audible_mono_audio() -> None:
    audio, rate = EspeakSynthesizer().speak("seven")
    assert rate == 22050
    assert audio.ndim == 1
    assert audio.dtype == np.float32
    assert 0.2 < len(audio) / rate < 1.5
    assert 0.05 < np.abs(audio).max() <= 1.0


def test_a_higher_rate_is_shorter_and_a_higher_pitch_has_a_higher_fundamental() -> None:
    espeak = EspeakSynthesizer()
    assert len(espeak.speak("seven", rate=300)[0]) < 0.7 * len(espeak.speak("seven", rate=120)[0])
    low, high = (_fundamental(*espeak.speak("aaaa", pitch=pitch, range=0)) for pitch in (10, 90))
    assert high > 1.3 * low


def _fundamental(audio: np.ndarray, rate: int) -> float:
    middle = audio[len(audio) // 3 : len(audio) // 3 + rate // 10]
    correlation = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    shortest = rate // 400
    return rate / (shortest + int(np.argmax(correlation[shortest : rate // 50])))


def test_variants_change_the_voice_and_settings_do_not_leak_into_the_next_call() -> None:
    espeak = EspeakSynthesizer()
    assert {"m1", "f2", "klatt"} <= set(espeak.variants())
    plain = espeak.speak("one")[0]
    other = espeak.speak("one", voice="en-us+f2", rate=250, pitch=90, volume=50)[0]
    again = espeak.speak("one")[0]
    assert abs(len(other) - len(plain)) > 1000
    assert abs(len(again) - len(plain)) < 200


def test_every_english_and_foreign_voice_is_listed_once() -> None:
    voices = EspeakSynthesizer().voices()
    assert len(voices) == len(set(voices)) > 100
    assert {"de", "fr", "en-029"} <= set(voices)


def test_a_language_tag_names_its_voice_with_and_without_a_variant() -> None:
    espeak = EspeakSynthesizer()
    for tag, name in (("en-gb", "en"), ("en-gb+f3", "en+f3"), ("EN-us+m1", "en-US+m1")):
        assert abs(len(espeak.speak("one", voice=tag)[0]) - len(espeak.speak("one", voice=name)[0])) < 200


@pytest.mark.parametrize("voice", ["xx-nowhere", "en-us+nobody"])
def test_an_unknown_voice_is_an_error_that_names_it(voice: str) -> None:
    with pytest.raises(OptionError, match=voice.replace("+", r"\+")):
        EspeakSynthesizer().speak("one", voice=voice)


@pytest.mark.parametrize("option", [{"rate": 20}, {"pitch": 100}, {"range": -1}, {"volume": 300}])
def test_a_setting_out_of_range_is_an_error_that_names_it(option: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=next(iter(option))):
        EspeakSynthesizer().speak("one", **option)


def test_threads_take_turns_and_hear_what_they_asked_for() -> None:
    espeak = EspeakSynthesizer()
    words = ["one", "twenty three", "four hundred thousand", "six"]
    alone = {word: len(espeak.speak(word)[0]) for word in words}
    heard: list[tuple[str, int]] = []

    def speak() -> None:
        heard.extend((word, len(espeak.speak(word)[0])) for word in words * 3)

    threads = [threading.Thread(target=speak) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(heard) == 48
    assert all(abs(length - alone[word]) < 200 for word, length in heard)
