"""`aronnax evaluate MODEL MANIFEST`: word and character error rates of a model on a manifest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from aronnax.core.errors import OptionError


def evaluate(
    model: Annotated[str, typer.Argument(help="Bundled name, folder, .nemo file or hub id.")],
    manifest: Annotated[Path, typer.Argument(help="NeMo manifest with texts (JSON lines).")],
    head: Annotated[str | None, typer.Option(help="ctc, rnnt or tdt; the model's first by default.")] = None,
    normalise: Annotated[
        str, typer.Option(help="none, whisper (English) or whisper-basic (other languages).")
    ] = "none",
    out: Annotated[Path | None, typer.Option(help="Folder for summary.json and utterances.jsonl.")] = None,
    batch_size: Annotated[int, typer.Option(help="Recordings encoded together.")] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; the best there is by default.")] = None,
    weights: Annotated[str | None, typer.Option(help="int8: 8-bit weights on the CPU.")] = None,
) -> None:
    """Score a model on a manifest: WER and CER with their parts, and speed.

    With --out, `utterances.jsonl` has a line an utterance (id, text, pred_text, wer, cer) and `summary.json`
    the totals. The exit status is 1 when a recording could not be read.
    """
    from rich.console import Console
    from rich.progress import Progress

    from aronnax.collections.asr.evaluation import evaluate as run
    from aronnax.collections.asr.evaluation import write_rows
    from aronnax.collections.asr.recognizer import SpeechRecognizer
    from aronnax.collections.common.data.manifest import read_manifest
    from aronnax.core.loading import load

    seconds = sum(entry.duration or 0.0 for entry in read_manifest(manifest))
    loaded = load(model, device=device, weights=weights)
    if not isinstance(loaded, SpeechRecognizer):
        raise OptionError(f"{model} is not a speech recogniser")
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("seconds of audio", total=seconds or None)
        result = run(
            loaded,
            manifest,
            head=head,
            normalise=normalise,
            batch_size=batch_size,
            progress=lambda done: bar.advance(task, done),
        )
    print(f"WER {result.score.words}")
    print(f"CER {result.score.characters}")
    print(
        f"{len(result.score.rows)} utterances, {result.audio_seconds:.1f} s of audio in "
        f"{result.wall_seconds:.1f} s: RTFx {result.rtfx:.1f}"
    )
    if out is not None:
        write_rows(result, out / "utterances.jsonl")
        summary = {"model": model, "manifest": str(manifest), "normalise": normalise, **result.to_dict()}
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        print(f"rows are in {out / 'utterances.jsonl'}")
    for name, reason in result.failed:
        print(f"not scored: {name}: {reason}", file=sys.stderr)
    if result.failed:
        raise typer.Exit(1)
