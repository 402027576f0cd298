"""The options of a call that asks who says what, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from aronnax.collections.asr.long_form.engine import Request
from aronnax.collections.asr.transcribing import CONFIDENCES
from aronnax.collections.common.calls import at_least_one, check_known, check_mode
from aronnax.collections.common.results import Diarization
from aronnax.collections.diarization.multispeaker.vocabulary import speaker_ids
from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.diarization.multispeaker.model import MultispeakerModel

DIARIZE = "diarize"
"""The slot of a prompt that asks for speakers, where the recogniser's prompt has it."""

_ASKED = ("source_lang", "target_lang", "task", "pnc", "itn", "slots", "beam", "length_penalty", "guard")


class Settings(TypedDict, total=False):
    """The options that `Options.checked` takes and gives defaults; `MultispeakerModel.transcribe` explains them."""

    diarization: Diarization | list[Diarization] | None
    batch_size: int
    head: str | None
    confidence: str | None
    chunk: str | float
    vad: str | None
    sample_rate: int | None
    language: str | None
    progress: Callable[[float], None] | None
    source_lang: str | None
    target_lang: str | None
    task: str | None
    timestamps: bool | None
    pnc: bool | str | None
    itn: bool | str | None
    slots: Mapping[str, Any] | None
    beam: int | None
    length_penalty: float | None
    guard: bool


@dataclass(frozen=True)
class Options:
    """The keywords of `transcribe`, checked."""

    batch_size: int
    """Recordings, or pieces of a long one, heard together."""
    head: str
    """Which of the recogniser's heads decodes."""
    confidence: str | None
    """How sure the model is of a word: "tsallis", "max_prob", or None for not at all."""
    piece: float
    """Seconds that are recognised at once."""
    sample_rate: int | None
    """Samples a second of bare arrays and tensors."""
    language: str | None
    """Written to the results."""
    progress: Callable[[float], None] | None
    """Called with the seconds of audio finished since the last call."""
    diarizations: tuple[Diarization, ...] | None
    """Who speaks when in each recording, in place of what the model's diarizer finds."""
    speakers: dict[int, int]
    """The number of the speaker that each speaker token's id stands for."""
    request: Request | None
    """What a prompted recogniser is asked."""

    @classmethod
    def checked(
        cls,
        model: MultispeakerModel,
        *,
        diarization: Diarization | list[Diarization] | None = None,
        batch_size: int = 8,
        head: str | None = None,
        confidence: str | None = "auto",
        chunk: str | float = "auto",
        vad: str | None = None,
        sample_rate: int | None = None,
        language: str | None = None,
        progress: Callable[[float], None] | None = None,
        **asked: Any,
    ) -> Options:
        """The options of a call, `asked` a prompted recogniser; OptionError names the one that cannot be honoured."""
        check_mode(model)
        if model.tokenizer is None:
            raise OptionError("the model has no tokenizer, so its tokens cannot be turned into text")
        at_least_one("batch_size", batch_size)
        check_known("confidence", confidence, CONFIDENCES)
        if vad is not None:
            raise OptionError(
                f"vad={vad!r} cannot be given: the diarizer of this model knows where there is speech"
            )
        if diarization is None and model.diarizer is None and model.kernel is not None:
            raise OptionError("the model has no diarizer: pass diarization=, who speaks when")
        one = (diarization,) if isinstance(diarization, Diarization) else diarization
        ids = speaker_ids(model.tokenizer, model.config.speaker_tokens)
        return cls(
            batch_size=batch_size,
            head=model.recogniser.choose_head(head),
            confidence=model.recogniser.own_confidence if confidence == "auto" else confidence,
            piece=_piece(model, chunk),
            sample_rate=sample_rate,
            language=language,
            progress=progress,
            diarizations=None if one is None else tuple(one),
            speakers={token: number for number, token in enumerate(ids)},
            request=_request(model, asked),
        )


def _piece(model: MultispeakerModel, chunk: str | float) -> float:
    """Seconds that are recognised at once."""
    if chunk == "auto":
        return model.longest_seconds
    if isinstance(chunk, (int, float)) and not isinstance(chunk, bool) and 0.5 <= chunk <= 3600:
        return float(chunk)
    raise OptionError(f"chunk={chunk!r} is not known: use 'auto' or between 0.5 and 3600 seconds")


def _request(model: MultispeakerModel, asked: Mapping[str, Any]) -> Request | None:
    """What a prompted recogniser is asked: what the caller says, and speakers where its prompt has the slot."""
    from aronnax.collections.asr.canary.model import CanaryModel
    from aronnax.collections.asr.canary.request import CanaryRequest

    given = {name: value for name, value in asked.items() if value is not None}
    if given.pop("timestamps", True) is False:
        raise OptionError("timestamps=False: the words of several speakers are told with their times")
    recogniser = model.recogniser
    unknown = [name for name in given if name not in _ASKED or not isinstance(recogniser, CanaryModel)]
    if unknown:
        raise OptionError(
            f"{unknown[0]}= is not an option of a model with a {recogniser.model_type} recogniser"
        )
    if not isinstance(recogniser, CanaryModel):
        return None
    slots = dict(given.pop("slots", {}))
    searching = {name: given.pop(name) for name in ("beam", "length_penalty", "guard") if name in given}
    return CanaryRequest.checked(
        recogniser, {**speaker_slots(recogniser.slots), **given, **slots}, **searching
    )


def speaker_slots(slots: Sequence[str]) -> dict[str, str]:
    """The slots that ask a prompted recogniser for speakers."""
    return {DIARIZE: "yes"} if DIARIZE in slots else {}
