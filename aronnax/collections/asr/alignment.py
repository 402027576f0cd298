"""When each word of a known text was said: the best CTC path through the text, by Viterbi.

Legend: `B` batch, `T` frames, `U` tokens, `S = 2U + 1` states (blank, token, blank, ..., blank), `V` vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.asr.words import segments_of, words_of
from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.asr.ctc.head import CTCHead
    from aronnax.collections.asr.long_form.engine import Heard
    from aronnax.collections.asr.recognizer import SpeechRecognizer
    from aronnax.collections.common.results import Transcript, Word

IMPOSSIBLE = -1e30
"""Score of a state that cannot be reached."""


def ctc_align(
    log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor
) -> list[Hypothesis]:
    """Best path of `log_probs` [B, T, V+1] (blank last) through `targets` [B, U], one hypothesis a row.

    Frames and durations are those of each token's run, a token's confidence is the mean probability in its run,
    and the score is that of the whole path. Memory grows with sqrt(T) * U: the path is found in stretches, whose
    choices are computed a second time. Raises OptionError, naming the row, where the text is too long.
    """
    log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
    trellis = _Trellis.of(log_probs, lengths, targets, target_lengths)
    trellis.check_room()
    frames = log_probs.shape[1]
    stretch = max(1, math.isqrt(frames))
    marks = list(range(0, frames, stretch))
    scores = [trellis.start()]
    for first in marks:
        after, _ = trellis.run(scores[-1], first, min(first + stretch, frames), keep=False)
        scores.append(after)
    state, best = trellis.finish(scores.pop())
    path = state.new_zeros((len(state), frames))
    for first, before in reversed(list(zip(marks, scores))):
        stop = min(first + stretch, frames)
        _, choices = trellis.run(before, first, stop, keep=True)
        for t in range(stop - 1, first - 1, -1):
            path[:, t] = state
            state = state - choices[t - first].gather(1, state[:, None]).squeeze(1)
    return _hypotheses(trellis, path, best)


@dataclass(frozen=True)
class _Trellis:
    """The states of every row and what leads to them."""

    log_probs: Tensor
    lengths: Tensor
    target_lengths: Tensor
    labels: Tensor
    """Class of each state [B, S]."""
    skips: Tensor
    """Whether a state may follow the one two before it [B, S]."""

    @classmethod
    def of(cls, log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> _Trellis:
        batch, tokens = targets.shape
        blank = log_probs.shape[2] - 1
        labels = targets.new_full((batch, 2 * tokens + 1), blank)
        labels[:, 1::2] = targets.clamp(0, blank)
        skips = torch.zeros_like(labels, dtype=torch.bool)
        skips[:, 3::2] = labels[:, 3::2] != labels[:, 1:-2:2]
        return cls(log_probs, lengths, target_lengths, labels, skips)

    def check_room(self) -> None:
        """OptionError where a text needs more frames than there are."""
        inside = (
            torch.arange(self.skips.shape[1], device=self.skips.device) < 2 * self.target_lengths[:, None]
        )
        repeats = ~self.skips[:, 3::2] & inside[:, 3::2]
        needed = self.target_lengths + repeats.sum(dim=1)
        for row, (frames, least) in enumerate(zip(self.lengths.tolist(), needed.tolist())):
            if least > frames:
                raise OptionError(
                    f"the text of row {row} needs at least {least} frames, but the recording has {frames}: "
                    "is it the right text?"
                )

    def start(self) -> Tensor:
        """Scores [B, S] before the first frame: as if it came from a blank before the text."""
        scores = self.log_probs.new_full(self.labels.shape, IMPOSSIBLE)
        scores[:, 0] = 0.0
        return scores

    def run(self, scores: Tensor, first: int, stop: int, *, keep: bool) -> tuple[Tensor, list[Tensor]]:
        """Scores [B, S] after frames [first, stop), and if kept how many states each best step went up."""
        steps = []
        never = scores.new_full((), IMPOSSIBLE)
        padded = torch.nn.functional.pad(scores, (2, 0), value=IMPOSSIBLE)
        for t in range(first, stop):
            moves = torch.stack(
                [padded[:, 2:], padded[:, 1:-1], torch.where(self.skips, padded[:, :-2], never)]
            )
            best, step = moves.max(dim=0)
            best += self.log_probs[:, t].gather(1, self.labels)
            going = (t < self.lengths)[:, None]
            padded[:, 2:] = torch.where(going, best, padded[:, 2:])
            if keep:
                steps.append(step * going)
        return padded[:, 2:].clone(), steps

    def finish(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The better of the two states [B] a path may end in, and its score [B]."""
        last = 2 * self.target_lengths[:, None]
        ends = torch.cat([last, (last - 1).clamp(min=0)], dim=1)
        best, which = scores.gather(1, ends).max(dim=1)
        return ends.gather(1, which[:, None]).squeeze(1), best


def _hypotheses(trellis: _Trellis, path: Tensor, best: Tensor) -> list[Hypothesis]:
    """Runs of the tokens along paths [B, T] of states."""
    batch, frames = path.shape
    tokens = (trellis.labels.shape[1] - 1) // 2
    inside = torch.arange(frames, device=path.device) < trellis.lengths[:, None]
    said = (path % 2 == 1) & inside
    # Slot U collects all that is not a token.
    slot = torch.where(said, path // 2, tokens)
    zeros = trellis.log_probs.new_zeros((batch, tokens + 1))
    probability = trellis.log_probs.gather(2, trellis.labels.gather(1, path)[:, :, None]).squeeze(2).exp()
    lasting = torch.zeros_like(zeros, dtype=torch.long).scatter_add_(1, slot, torch.ones_like(slot))
    sureness = zeros.scatter_add(1, slot, probability) / lasting.clamp(min=1)
    frame = torch.arange(frames, device=path.device).expand(batch, -1)
    first = torch.full_like(lasting, frames).scatter_reduce_(1, slot, frame, "amin")
    rows = zip(
        trellis.labels[:, 1::2].tolist(),
        first.tolist(),
        lasting.tolist(),
        sureness.tolist(),
        trellis.target_lengths.tolist(),
        best.tolist(),
    )
    return [
        Hypothesis(labels[:n], starts[:n], runs[:n], sure[:n], score)
        for labels, starts, runs, sure, n, score in rows
    ]


class _Listener:
    """Stands in for a model where a recording is heard, and keeps the log-probabilities instead of decoding."""

    def __init__(self, model: SpeechRecognizer, head: CTCHead) -> None:
        self._model = model
        self._head = head
        self.sample_rate = model.sample_rate
        self.samples_per_frame = model.samples_per_frame
        self.device = model.device
        self.encode = model.encode
        self.log_probs: list[Tensor] = []

    def decode(self, states: Tensor, lengths: Tensor, **_: Any) -> tuple[list[Hypothesis], None]:
        """Note the log-probabilities of one row."""
        self.log_probs.append(self._head(states[:, : int(lengths[0])]))
        return [Hypothesis()], None


@dataclass(frozen=True)
class _Recording:
    """What the result says of the recording."""

    name: str | None
    duration: float
    notes: tuple[str, ...]


def align(
    model: SpeechRecognizer,
    source: Any,
    text: str,
    *,
    language: str | None = None,
    chunk: str | float = "auto",
    sample_rate: int | None = None,
) -> Transcript:
    """The times of the words of `text` in a recording, by the model's CTC head.

    `source` is what `read_audio` reads; `sample_rate` is that of a bare array; `chunk` as in `transcribe`.
    Raises OptionError if the model has no CTC head or the text does not fit into the recording.
    """
    from aronnax.collections.common.results import Transcript

    head, tokenizer = _ctc_head(model), model.tokenizer
    if tokenizer is None:
        raise OptionError("the model has no tokenizer, so a text cannot be aligned")
    tokens = tokenizer.encode(text, language)
    if not tokens:
        raise OptionError("the text holds nothing the model's tokenizer knows")
    heard, log_probs, recording = _listen(model, head, source, chunk, sample_rate)
    device = log_probs.device
    (hypothesis,) = ctc_align(
        log_probs,
        torch.tensor([log_probs.shape[1]], device=device),
        torch.tensor([tokens], device=device),
        torch.tensor([len(tokens)], device=device),
    )
    words = _spelled(words_of(hypothesis, tokenizer, heard.clock), text)
    return Transcript(
        text=" ".join(text.split()),
        duration=recording.duration,
        words=tuple(words),
        segments=tuple(segments_of(words)),
        model=model.source,
        source=recording.name,
        language=language,
        notes=recording.notes,
    )


def _ctc_head(model: SpeechRecognizer) -> CTCHead:
    if "ctc" not in model.heads:
        raise OptionError(
            f"alignment needs a CTC head, and this model has only {', '.join(model.heads)}: use a CTC or hybrid model"
        )
    found: Any = getattr(model, "ctc_decoder", None) or model.decoder
    head: CTCHead = found
    return head


def _listen(
    model: SpeechRecognizer, head: CTCHead, source: Any, chunk: str | float, sample_rate: int | None
) -> tuple[Heard, Tensor, _Recording]:
    """Log-probabilities [1, T, V+1] of a whole recording, read by the plan its length asks for."""
    from aronnax.collections.asr.long_form import memory, plan
    from aronnax.collections.asr.long_form.engine import Settings, hear_stream
    from aronnax.collections.common.audio.reading import open_audio
    from aronnax.collections.common.free_memory import free_bytes

    plan.check_chunk(chunk)
    listener: Any = _Listener(model, head)
    with open_audio(source, model.sample_rate, source_rate=sample_rate) as stream, torch.inference_mode():
        needed = memory.pass_bytes(model.config, stream.samples / model.sample_rate, model.dtype.itemsize)
        free = free_bytes(model.device)
        chosen = plan.choose(model.config, stream.samples, chunk=chunk, needed_bytes=needed, free_bytes=free)
        heard = hear_stream(listener, stream, chosen, Settings(1, "ctc", None), rows_at_once=1)
        notes = (chosen.note,) if chosen.note else ()
        recording = _Recording(stream.name, stream.samples / model.sample_rate, notes)
        return heard, torch.cat(listener.log_probs, dim=1), recording


def _spelled(words: list[Word], text: str) -> list[Word]:
    """The words as the text spells them, where they can be told apart as the tokenizer does."""
    written = text.split()
    if len(written) != len(words):
        return words
    return [replace(word, text=spelling) for word, spelling in zip(words, written)]
