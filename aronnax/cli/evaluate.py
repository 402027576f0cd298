"""`aronnax evaluate MODEL MANIFEST`: error rates, translation scores and inventions of a model on a manifest."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.asr.evaluation import Evaluation
    from aronnax.collections.common.metrics import GroupScore


def evaluate(
    model: Annotated[str, typer.Argument(help="Bundled name, folder, .nemo file or hub id.")],
    manifest: Annotated[Path, typer.Argument(help="NeMo manifest with texts (JSON lines).")],
    head: Annotated[str | None, typer.Option(help="ctc, rnnt or tdt; the model's first by default.")] = None,
    normaliser: Annotated[
        str,
        typer.Option(
            "--normalizer",
            "--normaliser",
            "--normalise",
            help="Of both texts before errors are counted: none, basic, or whisper (Whisper's own for English, "
            "basic for other languages).",
        ),
    ] = "none",
    source_lang: Annotated[
        str | None, typer.Option(help="Prompted models: language spoken, whatever the manifest says.")
    ] = None,
    target_lang: Annotated[
        str | None, typer.Option(help="Prompted models: language to write, whatever the manifest says.")
    ] = None,
    beam: Annotated[int | None, typer.Option(help="Prompted models: width of the beam; 1 is greedy.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for summary.json and utterances.jsonl.")] = None,
    batch_size: Annotated[int, typer.Option(help="Recordings encoded together.")] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; the best there is by default.")] = None,
    weights: Annotated[str | None, typer.Option(help="int8: 8-bit weights on the CPU.")] = None,
) -> None:
    """Score a model on a manifest: WER and CER with their parts, BLEU and chrF of translations, and speed.

    Lines may have prompt slots (source_lang, target_lang, pnc, ...); a manifest of several languages or tasks gets a
    table with a row for each. Lines with an empty text are recordings without speech, for which the characters that
    are written a minute are counted. With --out, `utterances.jsonl` has a line an utterance (id, text, pred_text,
    wer, cer) and `summary.json` the totals. The exit status is 1 when a recording could not be read.
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
    asked: dict[str, Any] = {"source_lang": source_lang, "target_lang": target_lang, "beam": beam}
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked and loaded.model_type != "canary":
        raise OptionError(f"--{next(iter(asked)).replace('_', '-')} is for models that take prompts")
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("seconds of audio", total=seconds or None)
        result = run(
            loaded,
            manifest,
            head=head,
            normalise=normaliser,
            batch_size=batch_size,
            progress=lambda done: bar.advance(task, done),
            **asked,
        )
    for line in report(result):
        print(line)
    if out is not None:
        write_rows(result, out / "utterances.jsonl")
        summary = {"model": model, "manifest": str(manifest), "normalise": normaliser, **result.to_dict()}
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        print(f"rows are in {out / 'utterances.jsonl'}")
    for name, reason in result.failed:
        print(f"not scored: {name}: {reason}", file=sys.stderr)
    if result.failed:
        raise typer.Exit(1)


def report(result: Evaluation) -> list[str]:
    """The lines a user reads of an evaluation."""
    score, quiet = result.score, result.parts.non_speech
    lines = [f"WER {score.words}", f"CER {score.characters}"] if score.rows else []
    lines += table(result.parts.groups)
    if quiet.recordings:
        lines.append(f"without speech: {quiet}")
    number = len(score.rows) + quiet.recordings
    speed = f"RTFx {result.rtfx:.1f}, real-time factor {1 / result.rtfx:.4f}" if result.rtfx else "RTFx 0"
    lines.append(
        f"{number} utterances, {result.audio_seconds:.1f} s of audio in {result.wall_seconds:.1f} s: {speed}"
    )
    return lines


def table(groups: Sequence[GroupScore]) -> list[str]:
    """A row for each language and language pair; nothing where there is but one language and no translation."""
    if len(groups) < 2 and not any(group.translated for group in groups):
        return []
    lines = [f"{'':10}{'utterances':>12}{'WER %':>9}{'CER %':>9}{'BLEU':>8}{'chrF':>8}"]
    for group in groups:
        marks = "".join(
            f"{value:>8.1f}" if value is not None else f"{'':8}" for value in (group.bleu, group.chrf)
        )
        rates = f"{100 * group.words.rate:>9.2f}{100 * group.characters.rate:>9.2f}"
        lines.append(f"{group.name or 'other':10}{group.utterances:>12}{rates}{marks}".rstrip())
    return lines
