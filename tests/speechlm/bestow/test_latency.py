"""The log of delays and what is computed from it; the lagging itself is compared with NeMo in tests/parity."""

from __future__ import annotations

import pytest

from aronnax.collections.speechlm.bestow.latency import DelayLog, Written, laal
from aronnax.core.errors import OptionError


def log():
    pieces = [(" se", 0.4), ("ven", 0.8), (" nine", 1.2), ("", 1.6)]
    written = [Written(number, text, heard) for number, (text, heard) in enumerate(pieces)]
    written[-1] = Written(3, "", 1.6, end=True)
    return DelayLog(written, source=1.6)


def test_a_words_delay_is_that_of_its_first_token_and_the_end_counts():
    assert log().word_delays() == [0.4, 1.2, 1.6]


def test_lagging_is_measured_behind_the_reference_if_it_is_longer():
    assert log().laal() == laal([0.4, 1.2, 1.6], 1.6, 0)
    assert log().laal("one two three four five") == laal([0.4, 1.2, 1.6], 1.6, 5)
    assert log().laal("one two three four five") > log().laal()


def test_an_answer_that_keeps_up_with_an_even_speaker_lags_by_its_first_delay():
    assert laal([1.0, 2.0, 3.0, 4.0], source=4.0, reference_length=4) == 1.0


def test_nothing_written_has_no_lagging():
    assert DelayLog([], source=2.0).laal() is None
    with pytest.raises(OptionError, match="0 words"):
        laal([], 2.0, 3)


def test_the_log_is_plain_data():
    assert log().to_dict()["written"][1] == {"token": 1, "text": "ven", "heard": 0.8, "end": False}
