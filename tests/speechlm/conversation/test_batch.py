"""Conversations as padded batches of ids and recordings."""

from __future__ import annotations

import pickle

import pytest
import torch

from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.collections.llm.chat.tokenizer import AUDIO, ChatTokenizer
from aronnax.collections.speechlm.conversation.batch import MakeConversationBatch, collate, fabricated
from aronnax.collections.speechlm.conversation.cuts import conversation_cut

HEARD = Audio("x.wav")


def user(*content: str | Audio) -> Message:
    return Message("user", content)


def says(text: str) -> Message:
    return Message("assistant", (text,))


def test_rows_keep_their_places_for_audio_and_their_recordings_in_order(tokenizer: ChatTokenizer) -> None:
    rows = [
        tokenizer.render([user("a", HEARD, "b", HEARD), says("c d")], answer=True),
        tokenizer.render([user("e"), says("f")], answer=True),
        tokenizer.render([user(HEARD), says("g"), user("h", HEARD), says("i")], answer=True),
    ]
    sounds = [torch.full((n,), float(n)) for n in (3, 5, 2, 4)]
    batch = collate(rows, sounds, ["c d", "f", "i"], ["one", "two", "three"], tokenizer.pad_id)
    assert len(batch) == 3
    assert batch.audio_counts.tolist() == [2, 0, 2]
    assert [row.count(AUDIO) for row in batch.ids.tolist()] == [2, 0, 2]
    for row, rendered in enumerate(rows):
        length = batch.id_lengths[row]
        assert batch.ids[row, :length].tolist() == rendered.ids
        assert batch.learned[row, :length].tolist() == rendered.learned
        assert not batch.learned[row, length:].any()
    assert [[len(one) for one in row] for row in batch.signals()] == [[3, 5], [], [2, 4]]
    assert [float(one[0]) for one in batch.signals()[2]] == [2.0, 4.0]
    assert batch.signal[0, 3:].eq(0).all()


def test_prompts_end_where_the_last_answer_begins(tokenizer: ChatTokenizer) -> None:
    talk = [user("a"), says("b"), user("c", HEARD)]
    row = tokenizer.render([*talk, says("d e")], answer=True)
    batch = collate([row], [torch.ones(4)], ["d e"], ["x"], tokenizer.pad_id)
    answer = batch.ids[0, len(batch.asked[0]) : batch.id_lengths[0]].tolist()
    assert "d e" in tokenizer.decode(answer)
    assert "b" not in tokenizer.decode(answer)
    assert AUDIO in batch.asked[0]


def test_the_model_is_asked_as_in_use(tokenizer: ChatTokenizer) -> None:
    cut = conversation_cut("x", [user("a b"), says("c")], [])
    (asked,) = MakeConversationBatch(tokenizer)([cut], []).asked
    assert asked == tokenizer.render([user("a b")]).ids
    assert tokenizer.token_of(asked[-1]) == "<|assistant|>"


def test_a_batch_may_have_no_recording_at_all(tokenizer: ChatTokenizer) -> None:
    row = tokenizer.render([user("a"), says("b")], answer=True)
    batch = collate([row], [], ["b"], ["x"], tokenizer.pad_id)
    assert batch.signal.shape == (0, 0)
    assert batch.signals() == [[]]
    assert batch.padding == 0.0


def test_as_many_recordings_as_places_are_needed(tokenizer: ChatTokenizer) -> None:
    row = tokenizer.render([user("a", HEARD), says("b")], answer=True)
    with pytest.raises(ValueError, match="1 conversations speak of 1 recordings, not 0"):
        collate([row], [], ["b"], ["x"], tokenizer.pad_id)


def test_padding_is_the_share_that_is_not_there(tokenizer: ChatTokenizer) -> None:
    rows = [tokenizer.render([user("a", HEARD), says("b")], answer=True) for _ in range(2)]
    batch = collate(rows, [torch.ones(4), torch.ones(2)], ["b", "b"], ["x", "y"], tokenizer.pad_id)
    assert batch.padding == pytest.approx(0.25)


def test_a_batch_travels_between_processes_and_devices(tokenizer: ChatTokenizer) -> None:
    row = tokenizer.render([user("a", HEARD), says("b")], answer=True)
    batch = collate([row], [torch.ones(4)], ["b"], ["x"], tokenizer.pad_id)
    again = pickle.loads(pickle.dumps(batch)).to("cpu")
    assert again.ids.equal(batch.ids)
    assert again.names == ["x"]


def test_made_up_rows_are_as_long_as_their_bucket_allows() -> None:
    batch = fabricated(3, seconds=2.0, tokens=7, sample_rate=8000, vocab_size=11)
    assert batch.signal.shape == (3, 16000)
    assert (batch.ids != AUDIO).sum(1).tolist() == [7, 7, 7]
    assert batch.learned.sum(1).tolist() == [7, 7, 7]
    assert batch.audio_counts.tolist() == [1, 1, 1]
