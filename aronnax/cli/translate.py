"""`aronnax translate`: recordings in one language to text in another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from aronnax.cli.commands import Argument, Option
from aronnax.cli.hearing import Loading, hear

DEFAULT_MODEL = "nvidia/canary-1b-flash"


def translate(
    inputs: Annotated[
        list[str], Argument(help="Recordings, folders, NeMo manifests (.json, .jsonl), or - for stdin.")
    ],
    source: Annotated[
        str | None, Option("--from", help="Language spoken, such as de.", python="source_lang")
    ] = None,
    target: Annotated[
        str | None, Option("--to", help="Language written, such as en.", python="target_lang")
    ] = None,
    model: Annotated[
        str, Option("--model", "-m", help="Bundled name, folder, .nemo file or hub id.")
    ] = DEFAULT_MODEL,
    formats: Annotated[
        list[str] | None, Option("--format", "-f", help="txt, json, srt, vtt, ctm or stm; may be repeated.")
    ] = None,
    out: Annotated[Path | None, Option("--out", "-o", help="Folder for the files.")] = None,
    batch_size: Annotated[int, Option(help="Recordings encoded together.")] = 8,
    pnc: Annotated[bool | None, Option("--pnc/--no-pnc", help="Punctuation and upper case.")] = None,
    itn: Annotated[bool | None, Option("--itn/--no-itn", help="Numbers as digits.")] = None,
    timestamps: Annotated[
        bool | None, Option("--timestamps/--no-timestamps", help="Have the model write times.")
    ] = None,
    beam: Annotated[int | None, Option(help="Hypotheses kept; 1 is greedy.")] = None,
    length_penalty: Annotated[
        float | None, Option(help="Exponent of the beam's length normalisation.")
    ] = None,
    guard: Annotated[
        bool | None,
        Option("--guard/--no-guard", help="Cut off repetitions, drop text where nobody speaks."),
    ] = None,
    chunk: Annotated[str, Option(help="auto, full, or seconds heard at once.")] = "auto",
    vad: Annotated[str | None, Option(help="energy or silero: decode only where there is speech.")] = None,
    confidence: Annotated[
        str, Option(help="auto (what suits the model), tsallis, max_prob or none.")
    ] = "auto",
    device: Annotated[str | None, Option(help="cpu, cuda, ...; the best there is by default.")] = None,
    dtype: Annotated[str | None, Option(help="float32, bfloat16 or float16.")] = None,
    weights: Annotated[str | None, Option(help="int8 or int16: whole-number weights on the CPU.")] = None,
    verbose: Annotated[bool, Option("--verbose", "-v", help="Say how each recording is read.")] = False,
) -> None:
    """Turn recordings in one language into text in another.

    Files, formats and exit statuses are those of `aronnax transcribe`. The languages may also stand in a manifest's
    lines, as source_lang and target_lang. Without --from, English is taken to be spoken.
    """
    asked = {
        "source_lang": source,
        "target_lang": target,
        "task": "translate",
        "pnc": pnc,
        "itn": itn,
        "timestamps": timestamps,
        "beam": beam,
        "length_penalty": length_penalty,
        "guard": guard,
    }
    options = {
        "batch_size": batch_size,
        "head": None,
        "chunk": chunk,
        "vad": vad,
        "confidence": confidence,
        "language": None,
    }
    loading = Loading(model, device, dtype, weights)
    raise SystemExit(hear(inputs, loading, formats, out, options, asked, verbose))
