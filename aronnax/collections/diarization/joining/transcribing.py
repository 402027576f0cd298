"""Recordings to transcripts with speakers: a recogniser and a diarizer hear each one, their results are joined."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from aronnax.collections.asr.inputs import Source, sources
from aronnax.collections.asr.transcribing import Result, collect
from aronnax.collections.diarization.diarizing import Options, diarize_iter
from aronnax.collections.diarization.joining.join import LIMIT, join
from aronnax.collections.diarization.postprocessing import PostProcessing
from aronnax.core.errors import AronnaxError

if TYPE_CHECKING:
    from aronnax.collections.asr.recognizer import SpeechRecognizer
    from aronnax.collections.common.results import Transcript
    from aronnax.collections.diarization.sortformer.model import SortformerModel


def transcribe_speakers(
    recogniser: SpeechRecognizer,
    diarizer: SortformerModel,
    x: Any,
    *,
    limit: float = LIMIT,
    sample_rate: int | None = None,
    diarization: dict[str, Any] | None = None,
    **transcription: Any,
) -> Transcript | list[Transcript]:
    """The transcript with speakers of one recording, or a list of them for a list, a folder or a manifest.

    diarization: options of `diarize`; transcription: those of `transcribe`; limit: see `join`.
    Raises what `transcribe` and `diarize` raise.
    """
    results = transcribe_speakers_iter(
        recogniser,
        diarizer,
        x,
        limit=limit,
        sample_rate=sample_rate,
        diarization=diarization,
        **transcription,
    )
    return collect(x, results)


def transcribe_speakers_iter(
    recogniser: SpeechRecognizer,
    diarizer: SortformerModel,
    x: Any,
    *,
    limit: float = LIMIT,
    sample_rate: int | None = None,
    diarization: dict[str, Any] | None = None,
    **transcription: Any,
) -> Generator[Result, None, None]:
    """Results as they finish, as of `transcribe_iter`; a recording that cannot be read gives one with `error` set."""
    given = dict(diarization or {})
    thresholds = {field.name: given.pop(field.name, None) for field in fields(PostProcessing)}
    options = Options.checked(diarizer, replaced=thresholds, **given)
    held: dict[int, Source] = {}
    results = recogniser.transcribe_iter(_kept(x, sample_rate, held), **transcription)
    return _joined(results, diarizer, options, held, limit)


def _kept(x: Any, sample_rate: int | None, held: dict[int, Source]) -> Iterator[Source | AronnaxError]:
    """The recordings of an input, which are `held` until they have been heard the second time."""
    for index, source in enumerate(sources(x, sample_rate)):
        if isinstance(source, Source):
            if hasattr(source.audio, "read"):
                source = replace(source, audio=source.audio.read())
            held[index] = source
        yield source


def _joined(
    results: Generator[Result, None, None],
    diarizer: SortformerModel,
    options: Options,
    held: dict[int, Source],
    limit: float,
) -> Generator[Result, None, None]:
    with closing(results):
        for result in results:
            source = held.pop(result.index, None)
            if result.transcript is None or source is None:
                yield result
                continue
            heard = next(diarize_iter(diarizer, [source], options))
            if heard.diarization is None:
                yield Result(result.index, result.source, error=heard.error)
                continue
            try:
                found = join(result.transcript, heard.diarization, limit=limit)
            except AronnaxError as error:
                yield Result(result.index, result.source, error=error)
                continue
            yield replace(result, transcript=found)
