"""What a training step of multi-speaker recognition works on: sessions, who speaks in each frame, who says what.

`B` batch, `S` samples, `T` frames, `N` speakers, `U` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from aronnax.collections.asr.batch import SpeechBatch, collate
from aronnax.collections.asr.canary.batch import MakeCanaryBatch, collate_prompted
from aronnax.collections.common.text import Tokenizer
from aronnax.collections.common.text.prompts import Prompted, prompt_format
from aronnax.collections.diarization.batch import activity
from aronnax.collections.diarization.multispeaker.serialisation import (
    Level,
    Run,
    Utterance,
    encode,
    runs_of,
    serialise,
)
from aronnax.core.errors import ManifestError, OptionError

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from aronnax.collections.diarization.multispeaker.model import MultispeakerModel


@dataclass
class MultispeakerBatch:
    """Sessions with all that supervises them, padded with zeros to the longest of the batch."""

    speech: SpeechBatch
    """Signals at the recogniser's rate and the serialised texts as tokens; a CanaryBatch for prompted models."""
    activity: Tensor
    """1 where a speaker really speaks, float32 [B, T, N]; speakers in the order of arrival."""
    activity_lengths: Tensor
    """Frames that are not padding, int64 [B]."""
    heard: Tensor
    """Signals at the diarizer's rate, float32 [B, S']; no samples for a model without a diarizer."""
    heard_lengths: Tensor
    """Samples of these that are not padding, int64 [B]."""
    runs: list[list[Run]]
    """Who says what in each session, in the order in which it is written."""

    def __len__(self) -> int:
        return len(self.speech)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MultispeakerBatch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            speech=self.speech.to(device, non_blocking),
            activity=self.activity.to(device, non_blocking=non_blocking),
            activity_lengths=self.activity_lengths.to(device, non_blocking=non_blocking),
            heard=self.heard.to(device, non_blocking=non_blocking),
            heard_lengths=self.heard_lengths.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> MultispeakerBatch:
        """The same batch with its tensors in page-locked memory."""
        return replace(
            self,
            speech=self.speech.pin_memory(),
            activity=self.activity.pin_memory(),
            activity_lengths=self.activity_lengths.pin_memory(),
            heard=self.heard.pin_memory(),
            heard_lengths=self.heard_lengths.pin_memory(),
        )


@dataclass(frozen=True)
class Session:
    """One row of a batch before it is padded: signal [S], activity [T, N], and what is said."""

    name: str
    signal: Tensor
    activity: np.ndarray
    utterances: tuple[Utterance, ...]
    slots: dict[str, str]
    """Slots of the prompt, for models that take one."""


class MakeMultispeakerBatch:
    """Makes batches of a model from sessions, or from Lhotse cuts with a supervision for each utterance.

    A supervision has `speaker` and `text`; its words begin where its alignment `word` says, else they are spread
    evenly over it. Raises (when called) ManifestError for a supervision without a speaker, or for more speakers than
    the model has.
    """

    def __init__(self, model: MultispeakerModel) -> None:
        from aronnax.collections.asr.canary.model import CanaryModel
        from aronnax.collections.diarization.multispeaker.vocabulary import speaker_ids

        assert model.tokenizer is not None, "checked by the task"
        self.tokenizer: Tokenizer = model.tokenizer
        self.token: str = model.config.speaker_token
        self.level: Level = model.config.level
        self.speakers = model.max_speakers
        self.ids = speaker_ids(model.tokenizer, model.config.speaker_tokens)
        self.rate, self.frame = model.sample_rate, model.samples_per_frame
        self.diarizer_rate = None if model.diarizer is None else model.diarizer.sample_rate
        self.prompts: MakeCanaryBatch | None = None
        if isinstance(model.recogniser, CanaryModel):
            config = model.recogniser.config
            self.prompts = MakeCanaryBatch(
                model.recogniser.text, config.prompt_format, config.prompt_defaults
            )

    def __call__(self, cuts: Sequence[Cut], signals: Sequence[Tensor]) -> MultispeakerBatch:
        return self.collated([self.session(cut, signal) for cut, signal in zip(cuts, signals)])

    def session(self, cut: Cut, signal: Tensor) -> Session:
        """A cut with its signal [S]."""
        from aronnax.collections.common.data.filters import cut_name

        named = {supervision.speaker for supervision in cut.supervisions}
        if None in named or "" in named:
            raise ManifestError(
                f"{cut_name(cut)}: a supervision has no speaker, so nobody can be said to speak"
            )
        if len(named) > self.speakers:
            raise ManifestError(
                f"{cut_name(cut)}: the transcript has {len(named)} speakers, and the model writes at most"
                f" {self.speakers}: leave it out, or raise model.speakers"
            )
        active, names = activity(cut.supervisions, len(signal), self.rate, self.frame, self.speakers)
        said = sorted(cut.supervisions, key=lambda supervision: supervision.start)
        utterances = [
            _utterance(supervision, names.index(supervision.speaker or ""))
            for supervision in said
            if supervision.speaker in names
        ]
        slots = {} if self.prompts is None else self.prompts.slots(cut)
        return Session(str(cut.id), signal, active, tuple(utterances), slots)

    def collated(self, sessions: Sequence[Session]) -> MultispeakerBatch:
        """Pads sessions into one batch."""
        pad = torch.nn.utils.rnn.pad_sequence
        runs = [runs_of(session.utterances, self.level) for session in sessions]
        signals = [session.signal for session in sessions]
        heard = [self._heard(signal) for signal in signals]
        active = [torch.from_numpy(session.activity) for session in sessions]
        return MultispeakerBatch(
            self._speech(sessions, runs),
            pad(active, batch_first=True),
            torch.tensor([len(row) for row in active], dtype=torch.int64),
            pad(heard, batch_first=True),
            torch.tensor([len(row) for row in heard], dtype=torch.int64),
            runs,
        )

    def _speech(self, sessions: Sequence[Session], runs: Sequence[Sequence[Run]]) -> SpeechBatch:
        signals = [session.signal for session in sessions]
        names = [session.name for session in sessions]
        texts = [serialise(said, self.token) for said in runs]
        if self.prompts is None:
            tokens = [encode(said, self.tokenizer, self.ids) for said in runs]
            return collate(signals, tokens, texts, names)
        prompted = [self._prompted(session, said) for session, said in zip(sessions, runs)]
        slots = [session.slots for session in sessions]
        return collate_prompted(signals, prompted, texts, names, slots, self.prompts.tokenizer.pad_id)

    def _prompted(self, session: Session, runs: Sequence[Run]) -> Prompted:
        """The prompt that asks for speakers, and the session as its answer."""
        from aronnax.collections.diarization.multispeaker.options import speaker_slots

        assert self.prompts is not None, "asked for prompted models only"
        form, tokenizer = prompt_format(self.prompts.format_name), self.prompts.tokenizer
        slots = {**self.prompts.defaults, **speaker_slots(tuple(form.slots)), **session.slots}
        slots.setdefault("target_lang", slots.get("source_lang", ""))
        try:
            prompt = form.encode(tokenizer, slots).prompt
            answer = encode(runs, tokenizer, self.ids, slots["target_lang"])
        except OptionError as error:
            raise ManifestError(f"{session.name}: {error}") from None
        return Prompted(prompt, [*answer, tokenizer.end_id])

    def _heard(self, signal: Tensor) -> Tensor:
        """The signal as the diarizer hears it."""
        if self.diarizer_rate is None:
            return signal[:0]
        if self.diarizer_rate == self.rate:
            return signal
        import soxr

        return torch.from_numpy(soxr.resample(signal.numpy(), self.rate, self.diarizer_rate))


def _utterance(supervision: Any, speaker: int) -> Utterance:
    words = tuple((supervision.text or "").split())
    timed = (supervision.alignment or {}).get("word", ())
    starts = [item.start for item in timed if item.symbol.strip()]
    if len(starts) != len(words):
        starts = [
            supervision.start + supervision.duration * index / len(words) for index in range(len(words))
        ]
    return Utterance(speaker, words, tuple(starts))
