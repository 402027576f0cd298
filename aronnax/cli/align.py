"""`aronnax align`: the times of the words of a known text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from aronnax.cli.commands import Argument, Option
from aronnax.core.errors import OptionError

FORMATS = ("json", "ctm", "srt")


def align(
    audio: Annotated[str, Argument(help="The recording.")],
    text: Annotated[str | None, Argument(help="What is said in it.")] = None,
    text_file: Annotated[Path | None, Option(help="A file with the text, instead of TEXT.")] = None,
    model: Annotated[
        str,
        Option("--model", "-m", help="A model with a CTC head: name, folder, .nemo file or hub id."),
    ] = "digits",
    file_format: Annotated[str, Option("--format", "-f", help="json, ctm or srt.")] = "json",
    out: Annotated[Path | None, Option("--out", "-o", help="File to write; stdout by default.")] = None,
    language: Annotated[str | None, Option(help="Language of the text, for aggregate tokenizers.")] = None,
    chunk: Annotated[str, Option(help="auto, full, local, or seconds of a chunk.")] = "auto",
    device: Annotated[str | None, Option(help="cpu, cuda, ...; the best there is by default.")] = None,
) -> None:
    """Find when each word of a known text is said.

    The words keep the spelling of the text. A word's confidence tells how well the sound fits it: a low one
    points at a word that was not said.
    """
    from aronnax.collections.asr.alignment import align as align_text
    from aronnax.collections.asr.recognizer import SpeechRecognizer
    from aronnax.collections.common.results import write
    from aronnax.core.loading import load

    if file_format not in FORMATS:
        raise OptionError(f"format {file_format!r} is not known; use one of {', '.join(FORMATS)}")
    words = _text(text, text_file)
    recogniser = load(model, device=device)
    if not isinstance(recogniser, SpeechRecognizer):
        raise OptionError(f"{model} holds a {type(recogniser).__name__}, which does not align")
    transcript = align_text(recogniser, audio, words, language=language, chunk=_chunk(chunk))
    written = write(transcript, file_format)
    if out is None:
        print(written, end="" if written.endswith("\n") else "\n")
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(written, encoding="utf-8")


def _text(text: str | None, text_file: Path | None) -> str:
    if (text is None) == (text_file is None):
        raise OptionError("give the text itself or --text-file, one of the two")
    if text is not None:
        return text
    assert text_file is not None
    try:
        return text_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{text_file}: cannot be read as text ({error})") from error


def _chunk(chunk: str) -> str | float:
    try:
        return float(chunk)
    except ValueError:
        return chunk
