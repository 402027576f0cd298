"""`aronnax transcribe`: recordings to text, subtitles and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from aronnax.cli.commands import Argument, Option, given
from aronnax.cli.hearing import Loading, Speakers, hear
from aronnax.cli.live_words import LiveWords, hear_live
from aronnax.core.errors import OptionError

DEFAULT_MODEL = "nvidia/parakeet-tdt-0.6b-v3"


def transcribe(
    inputs: Annotated[
        list[str] | None,
        Argument(help="Recordings, folders, NeMo manifests (.json, .jsonl), or - for stdin."),
    ] = None,
    model: Annotated[
        str, Option("--model", "-m", help="Bundled name, folder, .nemo file or hub id.")
    ] = DEFAULT_MODEL,
    formats: Annotated[
        list[str] | None, Option("--format", "-f", help="txt, json, srt, vtt, ctm or stm; may be repeated.")
    ] = None,
    out: Annotated[Path | None, Option("--out", "-o", help="Folder for the files.")] = None,
    batch_size: Annotated[int, Option(help="Recordings encoded together.")] = 8,
    head: Annotated[str | None, Option(help="ctc, rnnt or tdt; the model's first by default.")] = None,
    chunk: Annotated[str, Option(help="auto, full, local, or seconds of a chunk.")] = "auto",
    vad: Annotated[str | None, Option(help="energy or silero: decode only where there is speech.")] = None,
    confidence: Annotated[
        str, Option(help="auto (what suits the model), tsallis, max_prob or none.")
    ] = "auto",
    device: Annotated[str | None, Option(help="cpu, cuda, ...; the best there is by default.")] = None,
    dtype: Annotated[str | None, Option(help="float32, bfloat16 or float16.")] = None,
    weights: Annotated[str | None, Option(help="int8 or int16: whole-number weights on the CPU.")] = None,
    language: Annotated[str | None, Option(help="Written to the results.")] = None,
    source_lang: Annotated[str | None, Option(help="Prompted models: language spoken.")] = None,
    target_lang: Annotated[str | None, Option(help="Prompted models: language written.")] = None,
    task: Annotated[str | None, Option(help="Prompted models: transcribe or translate.")] = None,
    pnc: Annotated[
        bool | None, Option("--pnc/--no-pnc", help="Prompted models: punctuation and upper case.")
    ] = None,
    itn: Annotated[bool | None, Option("--itn/--no-itn", help="Prompted models: numbers as digits.")] = None,
    timestamps: Annotated[
        bool | None,
        Option("--timestamps/--no-timestamps", help="Prompted models: have the model write times."),
    ] = None,
    beam: Annotated[int | None, Option(help="Prompted models: hypotheses kept; 1 is greedy.")] = None,
    length_penalty: Annotated[
        float | None, Option(help="Prompted models: exponent of the beam's length normalisation.")
    ] = None,
    guard: Annotated[
        bool | None,
        Option(
            "--guard/--no-guard", help="Prompted models: cut off repetitions, drop text where nobody speaks."
        ),
    ] = None,
    prompt: Annotated[
        str | None, Option(help="Speech language models: what to ask, instead of their own words.")
    ] = None,
    keywords: Annotated[
        str | None, Option(help="Speech language models: words that may occur, with commas between them.")
    ] = None,
    diarize: Annotated[
        str | None,
        Option(
            "--diarize",
            alone="",
            help="Say who says it. A diarizer may be named: a bundled name, folder, .nemo file or hub id.",
        ),
    ] = None,
    channels: Annotated[
        str, Option(help="With --diarize: mix, or apart where each channel has speakers of its own.")
    ] = "mix",
    speakers: Annotated[
        int | None,
        Option(help="With --diarize: how many to expect, where that is known.", python="num_speakers"),
    ] = None,
    live: Annotated[
        bool, Option(help="BESTOW: write while listening to a microphone or, with -, to standard input.")
    ] = False,
    wait: Annotated[
        int | None, Option(help="With --live: blocks heard before the first token; 3 by default.")
    ] = None,
    stride: Annotated[
        int | None, Option(help="With --live: frames of a block; the model's by default.")
    ] = None,
    rate: Annotated[
        int | None, Option(help="With --live -: samples a second of raw audio; the model's by default.")
    ] = None,
    verbose: Annotated[bool, Option("--verbose", "-v", help="Say how each recording is read.")] = False,
) -> None:
    """Turn recordings into text with word times and confidences.

    With --out every input gives OUT/<stem>.<format>, written as soon as it is done; inputs that share a stem keep
    their extension, <stem>.<ext>.<format>, and then count, <stem>.<ext>-2.<format>. Without --out the text is
    printed, one line an input, or one JSON object with --format json. An input that cannot be read is reported
    and the others go on: exit status 1. Ctrl-C keeps what is done: exit status 130.

    With --diarize every word gets a speaker, SPEAKER 1 being who speaks first; put the inputs before it, or name the
    diarizer, lest it take an input for its own. Text then has a line for each turn: `SPEAKER 1: ...`.

    Prompted models (Canary) are told what to write; what is not given is taken from a manifest's lines, then from
    the checkpoint. Speech language models (SALM) are asked in words: --prompt, and --keywords "Aronnax, Nautilus" for
    names that may occur. Other models refuse these options.

    --live listens to the microphone, or with `-` to standard input: a wav stream, or raw 16-bit little-endian samples
    of one channel at --rate. A BESTOW model writes a token for each block of speech once --wait blocks are heard; it
    answers --prompt where one is given.
    """
    loading = Loading(model, device, dtype, weights)
    listening = LiveWords(wait, stride, rate)
    asked = {
        "source_lang": source_lang,
        "target_lang": target_lang,
        "task": task,
        "pnc": pnc,
        "itn": itn,
        "timestamps": timestamps,
        "beam": beam,
        "length_penalty": length_penalty,
        "guard": guard,
        "prompt": prompt,
        "keywords": keywords,
    }
    options = {
        "batch_size": batch_size,
        "head": head,
        "chunk": chunk,
        "vad": vad,
        "confidence": confidence,
        "language": language,
    }
    telling = {"channels": channels, "speakers": speakers}
    if live:
        if out is not None or diarize is not None:
            raise OptionError("--live prints words as they are written: --out and --diarize need recordings")
        _refuse_live(options | telling | {name: value for name, value in asked.items() if name != "prompt"})
        raise SystemExit(hear_live(inputs, loading, formats, replace(listening, prompt=prompt), verbose))
    if listening != LiveWords(None, None, None):
        raise OptionError("--wait, --stride and --rate are for --live")
    if not inputs:
        taken = f"; --diarize took {diarize!r} for a diarizer's name, put it in front" if diarize else ""
        raise OptionError(f"nothing to transcribe: name recordings, or - for stdin{taken}")
    if diarize is None and given(transcribe, telling):
        raise OptionError("--speakers and --channels are for --diarize")
    who = None if diarize is None else Speakers(diarize, {"channels": channels, "num_speakers": speakers})
    raise SystemExit(hear(inputs, loading, formats, out, options, asked, verbose, who))


def _refuse_live(options: Mapping[str, Any]) -> None:
    """OptionError for options that a model which writes while it listens does not have, where they were given."""
    strange = given(transcribe, options)
    if strange:
        raise OptionError(
            f"--live has a BESTOW model write while it listens, and asks in words, with --prompt: it takes no "
            f"{', '.join(strange)}"
        )
