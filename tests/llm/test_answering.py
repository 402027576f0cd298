"""Replies from a decoder: stop texts, times, log-probabilities, streams."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from aronnax.collections.llm.answering import AnswerOptions, Writing, answer, answer_stream
from aronnax.core.errors import OptionError

LETTERS = "abcdefghijklmnopqrstuvwxyz !"
END, OTHER_END = 28, 29


class Letters:
    """A tokenizer of letters with two tokens that end an answer."""

    end_ids = (END, OTHER_END)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[i] for i in ids if i < END)


class Cache:
    def __init__(self, rows: list[int]) -> None:
        self.rows, self.place = rows, 0

    def repeat(self, times: int) -> None:
        self.rows = [row for row in self.rows for _ in range(times)]

    def select(self, groups: Sequence[int]) -> None:
        self.rows = [self.rows[group] for group in groups]

    def reorder(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]


class Says:
    """Says the same text in every row, whatever it is told, then ends."""

    def __init__(self, texts: list[str], end: int = END) -> None:
        self.texts, self.end = texts, end

    def prefill(self, tokens: Tensor, lengths: Tensor, *, capacity: int) -> tuple[Tensor, Cache]:
        cache = Cache(list(range(len(self.texts))))
        return self._scores(cache), cache

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        cache.place += 1
        return self._scores(cache)

    def _scores(self, cache: Cache) -> Tensor:
        scores = torch.zeros(len(cache.rows), 30)
        for place, row in enumerate(cache.rows):
            text = self.texts[row]
            letter = LETTERS.index(text[cache.place]) if cache.place < len(text) else self.end
            scores[place, letter] = 4.0
        return scores

    def release(self, cache: Cache) -> None:
        pass


def _answer(texts: list[str], end: int = END, **options: object) -> list[list]:
    lengths = torch.full((len(texts),), 3)
    checked = AnswerOptions.checked(**options)
    return answer(Says(texts, end), lengths, Letters(), checked, context=100, model="toy")


def test_a_reply_has_a_log_probability_and_a_time_for_each_token() -> None:
    (reply,), (other,) = _answer(["hello", "ab"])
    assert (reply.text, other.text) == ("hello", "ab")
    assert (reply.finished, reply.model) == ("eos", "toy")
    assert len(reply.tokens) == len(reply.log_probs) == len(reply.times) == 5
    assert list(reply.times) == sorted(reply.times)
    sure = torch.log_softmax(torch.tensor([4.0] + [0.0] * 29), 0)[0]
    assert reply.log_probs == pytest.approx([float(sure)] * 5)


def test_every_token_that_ends_answers_ends_them() -> None:
    ((reply,),) = _answer(["hello"], OTHER_END)
    assert (reply.text, reply.finished) == ("hello", "eos")


@pytest.mark.parametrize("stop", ["ld", ["zzz", "o w"], "d"])
def test_a_stop_text_ends_the_answer_and_is_left_out(stop: object) -> None:
    text = "hello world!"
    ((reply,),) = _answer([text], stop=stop)
    first = min(text.find(one) for one in ([stop] if isinstance(stop, str) else stop) if one in text)
    assert reply.text == text[:first]
    assert reply.finished == "stopped"
    assert len(reply.tokens) == len(reply.times) == len(reply.log_probs) == first


@pytest.mark.parametrize("beam", [1, 2])
def test_blanks_before_a_stop_text_are_left_out_too(beam: int) -> None:
    ((reply,),) = _answer(["hello world!"], stop="wor", beam=beam)
    assert (reply.text, reply.finished, len(reply.tokens)) == ("hello", "stopped", 5)
    ((whole,),) = _answer(["hello "], stop="wor", beam=beam)
    assert (whole.text, whole.finished) == ("hello ", "eos")


def test_rows_stop_by_themselves() -> None:
    (first,), (second,) = _answer(["abc", "xbz"], stop="c")
    assert (first.text, second.text) == ("ab", "xbz")
    assert (first.finished, second.finished) == ("stopped", "eos")


def test_the_limit_ends_an_answer() -> None:
    ((reply,),) = _answer(["hello"], max_new_tokens=3)
    assert (reply.text, reply.finished) == ("hel", "limit")


def test_the_context_ends_an_answer() -> None:
    (reply,) = answer(Says(["hello"]), torch.tensor([6]), Letters(), AnswerOptions.checked(), context=8)[0]
    assert (reply.text, reply.finished) == ("he", "limit")


def test_beams_give_their_answers_best_first() -> None:
    ((best, second),) = _answer(["hi"], beam=2, n_best=2)
    assert best.text == "hi"
    assert sum(best.log_probs) > sum(second.log_probs) or len(second.tokens) != len(best.tokens)
    assert best.times == ()


def test_drawn_answers_depend_on_the_seed_alone() -> None:
    hot = {"temperature": 3.0, "seed": 7, "max_new_tokens": 8}
    ((alone,),) = _answer(["hello"], **hot)
    (_,), (again,) = _answer(["abcdefgh", "hello"], **hot)
    ((other,),) = _answer(["hello"], **{**hot, "seed": 8})
    assert alone.tokens == again.tokens != other.tokens


def test_the_pieces_of_a_stream_are_the_reply() -> None:
    text = "hello world!"
    for stop, wanted in (((), text), (("world",), "hello"), (("ld?",), text), ((" wo", "hel"), "")):
        options = AnswerOptions.checked(stop=stop)
        *pieces, last = answer_stream(Says([text]), torch.tensor([3]), Letters(), options, context=100)
        assert last.reply is not None
        assert "".join(piece.text for piece in [*pieces, last]) == last.reply.text == wanted
        assert [piece.token for piece in pieces][: len(last.reply.tokens)] == list(last.reply.tokens)
        assert all(piece.log_prob is not None for piece in pieces)


def test_what_may_become_a_stop_text_is_held_back() -> None:
    writing = Writing(Letters().decode, ("world",))
    told = [writing.add(LETTERS.index(letter)) for letter in "a work"]
    assert told == ["a", "", "", "", "", " work"]
    pieces = ["ha", " ", " world", " ends"]
    writing = Writing(lambda ids: "".join(pieces[i] for i in ids), ("or", "zz"))
    assert [writing.add(token) for token in range(4)] == ["ha", "", "  w", ""]


def test_unfinished_characters_are_held_back() -> None:
    writing = Writing(lambda ids: bytes(ids).decode(errors="replace"))
    assert [writing.add(byte) for byte in "é!".encode()] == ["", "é", "!"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": ""}, "stop"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"top_p": 0.5}, "temperature"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        AnswerOptions.checked(**options)


def test_several_answers_cannot_be_streamed() -> None:
    options = AnswerOptions.checked(temperature=1.0, n_best=2)
    with pytest.raises(OptionError, match="n_best=2 cannot be streamed"):
        next(answer_stream(Says(["a"]), torch.tensor([3]), Letters(), options, context=100))
