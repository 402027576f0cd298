"""BESTOW live: samples in, tokens out, by a wait-k policy; the weights are those that answer recordings.

k blocks of speech are waited for, then each new block is read and a token written, and after the end the rest is
written. As in NeMo 3.0.0, an end of the answer that comes before the end of speech is not believed: the same token is
asked for again once another block is heard. What is encoded is cut at places that depend on the policy alone, so the
tokens are the same however the samples arrive.

Shapes: S samples, T frames, U positions of the language model, D its width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aronnax.collections.common.results.reply import Reply
from aronnax.collections.llm.answering import Writing
from aronnax.collections.llm.backbone.bound import BoundDecoder
from aronnax.collections.llm.chat.messages import Audio, Message, messages_from
from aronnax.collections.speechlm.bestow.decoding import TwoCaches
from aronnax.collections.speechlm.bestow.latency import DelayLog, Written
from aronnax.collections.speechlm.bestow.reader import Reader
from aronnax.collections.speechlm.bestow.stream_state import StreamState, checked, fresh, samples_from
from aronnax.collections.speechlm.bestow.waitk import WaitK
from aronnax.collections.speechlm.generating import open_audio
from aronnax.core.errors import AudioError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.speechlm.bestow.model import BESTOW

TIMES = "times are seconds of speech heard when the token was written"
"""What a reply says of its times."""


class _Live:
    """Stands for speech that is still to come."""

    def __repr__(self) -> str:
        return "LIVE"


LIVE = _Live()
"""The source of an `Audio` that is live speech: `["Transcribe:", Audio(LIVE)]`."""


@dataclass(frozen=True)
class Question:
    """What a stream answers; the same from its beginning to its end."""

    policy: WaitK
    ids: tuple[int, ...]
    """The prompt, AUDIO where a recording goes; the live speech is the last of them."""
    earlier: tuple[Tensor, ...]
    """Frames [T, D] of the recordings before the live one."""
    left: int | None
    """Frames before a block that are encoded with it; None encodes everything anew with each block."""
    room: int
    """Most tokens of the answer."""
    adapter: str | bool | None


def open_stream(
    model: BESTOW,
    policy: WaitK,
    *,
    prompt: str | None,
    messages: Any,
    history: float | None,
    max_new_tokens: int,
    adapter: str | bool | None,
    state: StreamState | None,
) -> Stream:
    """The stream of a checked question; see `BESTOW.stream`."""
    if not isinstance(model.reader, Reader):
        raise OptionError("a model of the layered kind cannot be streamed; answer whole recordings with it")
    if not isinstance(policy, WaitK):
        raise OptionError(
            f"policy is {policy!r}: it must be a WaitK, such as"
            " aronnax.collections.speechlm.bestow.waitk.WaitK(k=3, stride=4)"
        )
    if prompt is not None and messages is not None:
        raise OptionError("give prompt or messages, not both")
    if messages is None:
        messages = [Message("user", (prompt or model.config.transcribe_prompt, Audio(LIVE)))]
    conversation = messages_from(messages)
    audios = [audio for message in conversation for audio in message.audios]
    live = [audio.source is LIVE for audio in audios]
    if not live or not live[-1] or sum(live) != 1:
        raise OptionError("the last recording of the messages, and no other, must be Audio(LIVE)")
    ids = model.text.render(conversation).ids
    room = min(max_new_tokens, model.context - model.positions(ids, ()))
    if room < 1:
        raise OptionError(
            f"the prompt leaves no room for an answer: the language model's context is {model.context} tokens"
            f" and max_new_tokens is {max_new_tokens}"
        )
    if history is not None and history <= 0:
        raise OptionError(f"history is {history} seconds: it must be above 0, or None for all that was heard")
    block = policy.stride * model.samples_per_frame / model.sample_rate
    left = None if history is None else -int(-history // block) * policy.stride
    with torch.inference_mode():
        opened = [open_audio(model, audio, "the conversation: ") for audio in audios[:-1]]
        earlier = tuple(model.hear_all(opened))
    return Stream(model, Question(policy, tuple(ids), earlier, left, room, adapter), state)


class Stream:
    """A live question.

    >>> stream = model.stream(WaitK(k=3, stride=4))                  # doctest: +SKIP
    >>> [one.text for one in stream.push(samples)]                   # doctest: +SKIP
    ['seven', ' nine']
    >>> stream.finish().text, stream.log.laal()                      # doctest: +SKIP
    ('seven nine two', 0.9)

    Not for two threads at once; `state` may be read, saved and handed to another stream between pushes.
    """

    def __init__(self, model: BESTOW, question: Question, state: StreamState | None = None) -> None:
        """Begin, or go on from where a stream of the same question stood; see `BESTOW.stream`."""
        self.model, self.question = model, question
        self.log = DelayLog()
        """Every token with the seconds heard when it was written."""
        self.reply: Reply | None = None
        """The whole answer, once the stream is finished."""
        self._writing = Writing(model.text.decode)
        self._told = ""
        self._pieces: list[Tensor] = []
        self._bound: BoundDecoder | None = None
        self._cache: TwoCaches | None = None
        self._state = fresh(model) if state is None else checked(state, model)
        if self._state.tokens:
            self._resume()

    @property
    def state(self) -> StreamState:
        """Where the stream stands; give it to `model.stream(..., state=)`, with the same question, to go on."""
        state = self._gathered()
        if self._cache is None:
            return state
        cache, length = self._cache.listening, len(state.embeddings)
        keys = torch.stack([layer[0, :length] for layer in cache.keys])
        values = torch.stack([layer[0, :length] for layer in cache.values])
        return replace(state, keys=keys, values=values)

    @property
    def seconds(self) -> float:
        """Seconds of speech pushed so far."""
        return self._received / self.model.sample_rate

    @torch.inference_mode()
    def push(self, samples: Any, *, sample_rate: int | None = None) -> list[Written]:
        """Samples [S] as floats in [-1, 1] -> the tokens they let be written, maybe none.

        Raises AudioError for NaN, another shape, or a `sample_rate` that is not the model's.
        """
        if self.reply is not None:
            raise OptionError("the stream is finished; open another one with model.stream()")
        rate = self.model.sample_rate
        if sample_rate is not None and sample_rate != rate:
            raise AudioError(
                f"the stream is fed samples at {sample_rate} Hz but the model hears {rate} Hz; resample them first"
            )
        new = samples_from(samples, self._received, rate)
        if len(new):
            self._pieces.append(new)
        written: list[Written] = []
        while self._received >= self._needed(self._state.blocks + 1):
            self._state = replace(self._gathered(), blocks=self._state.blocks + 1)
            k = self.question.policy.k
            if k is not None and self._state.blocks >= k and len(self._state.tokens) < self.question.room:
                written += self._write(last=False)
        return written

    @torch.inference_mode()
    def finish(self) -> Reply:
        """Ends the speech, writes what remains, and gives the whole answer; what it wrote is in `log`."""
        if self.reply is None:
            finished = "eos"
            if self.model.perception.frames(self._received):
                self._hear(last=True)
                while len(self._state.tokens) < self.question.room and self._say(last=True):
                    pass
                finished = "eos" if self.log.written and self.log.written[-1].end else "limit"
            self.log.source = self.seconds
            if self._bound is not None and self._cache is not None:
                self._bound.release(self._cache.llm)
            state = self._state
            self.reply = Reply(
                text=self.model.text.decode(state.tokens),
                tokens=state.tokens,
                log_probs=state.log_probs,
                times=state.heard,
                finished=finished,
                model=self.model.source,
                notes=(TIMES,),
            )
        return self.reply

    def listen(self, samples: Any, *, sample_rate: int | None = None) -> Reply:
        """A whole recording heard as if it were live: `push`, then `finish`."""
        self.push(samples, sample_rate=sample_rate)
        return self.finish()

    @property
    def _received(self) -> int:
        return self._state.received + sum(map(len, self._pieces))

    def _gathered(self) -> StreamState:
        """The state with all samples that were pushed."""
        if self._pieces:
            samples = torch.cat([self._state.samples, *self._pieces])
            self._state = replace(self._state, samples=samples, received=self._received)
            self._pieces = []
        return self._state

    def _needed(self, blocks: int) -> int:
        """Samples from the start that so many blocks need, look-ahead included."""
        policy = self.question.policy
        return (blocks * policy.stride + policy.right) * self.model.samples_per_frame

    def _write(self, last: bool) -> list[Written]:
        self._hear(last)
        before = len(self.log.written)
        self._say(last)
        return self.log.written[before:]

    def _hear(self, last: bool) -> None:
        """Encodes up to the last block read, or to the end."""
        state, left = self._gathered(), self.question.left
        spf = self.model.samples_per_frame
        first = state.received - len(state.samples)
        wanted = self.model.perception.frames(state.received)
        stop = state.received
        if not last:
            wanted = min(wanted, state.blocks * self.question.policy.stride)
            stop = min(stop, self._needed(state.blocks))
        made = 0 if left is None else len(state.speech)
        if wanted <= made:
            return
        start = 0 if left is None else max(0, made - left)
        signal = state.samples[start * spf - first : stop - first].to(self.model.device)
        heard = self.model.hear(signal[None], torch.tensor([len(signal)], device=signal.device))[0]
        speech = torch.cat([state.speech[:made].to(heard), heard[made - start : wanted - start]])
        samples = state.samples
        if left is not None:
            samples = samples[max(0, wanted - left) * spf - first :].clone()
        self._state = replace(state, speech=speech, samples=samples)

    def _say(self, last: bool) -> bool:
        """Writes the next token over the speech as it is; False if it is an end, which only the last is believed."""
        scores, read, mark = self._first() if not self._state.tokens else self._next()
        token = int(scores[0].argmax())
        log_prob = float(torch.log_softmax(scores[0].float(), -1)[token])
        ended = token in self.model.text.end_ids
        heard = self.seconds
        if not last:
            heard = min(heard, self._needed(self._state.blocks) / self.model.sample_rate)
        if ended and not last:
            if mark is not None and self._cache is not None:
                self._cache.rollback(mark)
            return False
        state = replace(self._state, embeddings=torch.cat([self._state.embeddings, read]))
        if ended:
            rest = self.model.text.decode(state.tokens)[len(self._told) :]
            self.log.written.append(Written(token, rest, heard, end=True))
        else:
            text = self._writing.add(token)
            self._told += text
            self.log.written.append(Written(token, text, heard))
            state = replace(
                state,
                tokens=(*state.tokens, token),
                log_probs=(*state.log_probs, log_prob),
                heard=(*state.heard, heard),
            )
        self._state = state
        return not ended

    def _first(self) -> tuple[Tensor, Tensor, None]:
        """Scores [1, V] after the prompt, and what the language model was given of it [U, D]."""
        question = self.question
        frames = [*question.earlier, self._state.speech]
        prompts = self.model.prompts([question.ids], frames, [len(frames)])
        room = prompts.embeddings.shape[1] + question.room
        reader = self._reader
        memory = reader.remember(prompts.speech, prompts.speech_lengths)
        read, kept = reader.prefill(prompts.embeddings, prompts.lengths, prompts.seen, memory, room)
        return self._bind(read, kept), read[0], None

    def _next(self) -> tuple[Tensor, Tensor, tuple[Any, Any]]:
        """Scores [1, V] after the last token, what the language model was given for it [1, D], and where it was."""
        assert self._bound is not None
        assert self._cache is not None
        cache = self._cache
        speech = torch.cat([*self.question.earlier, self._state.speech])[None]
        memory = self._reader.remember(speech, torch.tensor([speech.shape[1]], device=speech.device))
        cache.listening.memory = memory
        mark = cache.snapshot()
        word = self.model.llm.embed(torch.tensor([self._state.tokens[-1]], device=speech.device))
        read = self._reader.step(word.to(speech.dtype), cache.listening)
        return self._bound.advance(read.to(word.dtype), cache.llm), read, mark

    def _bind(self, read: Tensor, kept: Any) -> Tensor:
        """Scores [1, V] of a language model that was given read [1, U, D], and the caches to go on with."""
        lengths = torch.tensor([read.shape[1]], device=read.device)
        self._bound = self.model.llm.bind(read, lengths, adapter=self.question.adapter)
        ids = lengths.new_zeros(1, read.shape[1])
        scores, cache = self._bound.prefill(ids, lengths, capacity=read.shape[1] + self.question.room)
        self._cache = TwoCaches(kept, cache)
        return scores

    def _resume(self) -> None:
        """Makes the caches that a state was saved without, and the log of what was written."""
        state = self._state
        room = len(state.embeddings) + self.question.room
        kept = self._reader.restore(state.keys[:, None], state.values[:, None], room)
        with torch.inference_mode():
            self._bind(state.embeddings[None], kept)
        for token, heard in zip(state.tokens, state.heard):
            text = self._writing.add(token)
            self._told += text
            self.log.written.append(Written(token, text, heard))

    @property
    def _reader(self) -> Reader:
        assert isinstance(self.model.reader, Reader)
        return self.model.reader
