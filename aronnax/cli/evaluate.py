"""`aronnax evaluate MODEL MANIFEST`: error rates, translation scores and inventions of a model on a manifest."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from aronnax.cli.commands import Argument, Option
from aronnax.cli.delivery import check_folder
from aronnax.cli.hearing import Loading
from aronnax.cli.terminal import bar, table
from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.asr.evaluation import Evaluation
    from aronnax.collections.common.metrics import GroupScore


def evaluate(
    model: Annotated[
        str,
        Argument(help="Bundled name, folder, .nemo file or hub id; with --diarization, the reference."),
    ],
    manifest: Annotated[
        Path, Argument(help="NeMo manifest with texts (JSON lines); with --diarization, the hypothesis.")
    ],
    head: Annotated[str | None, Option(help="ctc, rnnt or tdt; the model's first by default.")] = None,
    normaliser: Annotated[
        str,
        Option(
            "--normalizer",
            "--normaliser",
            "--normalise",
            help="Of both texts before errors are counted: none, basic, or whisper (Whisper's own for English, "
            "basic for other languages).",
        ),
    ] = "none",
    source_lang: Annotated[
        str | None, Option(help="Prompted models: language spoken, whatever the manifest says.")
    ] = None,
    target_lang: Annotated[
        str | None, Option(help="Prompted models: language to write, whatever the manifest says.")
    ] = None,
    beam: Annotated[int | None, Option(help="Prompted models: width of the beam; 1 is greedy.")] = None,
    prompt: Annotated[
        str | None, Option(help="Speech language models: what to ask, instead of their own words.")
    ] = None,
    out: Annotated[Path | None, Option(help="Folder for summary.json and utterances.jsonl.")] = None,
    batch_size: Annotated[int, Option(help="Recordings encoded together.")] = 8,
    device: Annotated[str | None, Option(help="cpu, cuda, ...; the best there is by default.")] = None,
    weights: Annotated[str | None, Option(help="int8 or int16: whole-number weights on the CPU.")] = None,
    diarization: Annotated[
        bool, Option("--diarization", help="Compare two files, or folders of them, that tell of speakers.")
    ] = False,
    collar: Annotated[
        float | None,
        Option(
            help="Turns: seconds on each side of reference boundaries that are not scored, 0 by default. "
            "Words: seconds by which tcpWER lets them lie off, 5 by default."
        ),
    ] = None,
    skip_overlap: Annotated[
        bool, Option("--skip-overlap", help="Turns: leave out where the reference has several speakers.")
    ] = False,
    uem: Annotated[Path | None, Option(help="Turns: UEM file of what is scored.")] = None,
    keywords: Annotated[
        str | None,
        Option(
            help="Score lists of words in the prompt: words of this file, one a line; alone, of the lines' keywords.",
            alone="lines",
        ),
    ] = None,
    list_lengths: Annotated[str, Option(help="Words: how long lists are.")] = "0,10,50,100",
) -> None:
    """Score a model on a manifest: WER and CER with their parts, BLEU and chrF of translations, and speed.

    Lines may have prompt slots (source_lang, target_lang, pnc, ...); a manifest of several languages or tasks gets a
    table with a row for each. Lines with an empty text are recordings without speech, for which the characters that
    are written a minute are counted. With --out, `utterances.jsonl` has a line an utterance (id, text, pred_text,
    wer, cer) and `summary.json` the totals. The exit status is 1 when a recording could not be read.

    A speech language model is asked for a transcript in its own words, or those of --prompt. With --keywords it hears
    everything without a list of words and with lists of each length, which hold the words that are said: recall and
    precision of listed words, and WER, a row for each length.

    With --diarization REFERENCE HYPOTHESIS nothing is heard. Two that hold turns (RTTM, or the JSON of diarize) give
    DER, its parts and JER; two that hold words with speakers (STM, SegLST, manifests with `speaker`, or the JSON of
    transcribe --diarize) give cpWER and tcpWER; for each recording and overall.
    """
    check_folder(out)
    if diarization:
        from aronnax.cli.score_speakers import Scoring, score_speakers

        score_speakers(Path(model), manifest, Scoring(collar, skip_overlap, uem, normaliser), out)
        return
    if collar is not None or skip_overlap or uem is not None:
        raise OptionError("--collar, --skip-overlap and --uem are for --diarization")
    if keywords is not None:
        from aronnax.cli.score_keywords import Boosting, score_keywords

        boosting = Boosting(keywords, list_lengths, normaliser, batch_size, prompt)
        score_keywords(model, manifest, boosting, device, out)
        return
    asked = {
        "source_lang": source_lang,
        "target_lang": target_lang,
        "beam": beam,
        "prompt": prompt,
        "head": head,
    }
    result = _heard(Loading(model, device, None, weights), manifest, asked, normaliser, batch_size)
    for line in report(result):
        print(line)
    if out is not None:
        _write(result, out, {"model": model, "manifest": str(manifest), "normalise": normaliser})
    for name, reason in result.failed:
        named = reason.startswith((f"{manifest}, line ", f"{os.path.normpath(name)}: "))
        print(f"not scored: {reason}" if named else f"not scored: {name}: {reason}", file=sys.stderr)
    if result.failed:
        raise SystemExit(1)


def _heard(
    loading: Loading, manifest: Path, asked: Mapping[str, Any], normaliser: str, batch_size: int
) -> Evaluation:
    """What a model makes of a manifest, with a bar of progress; OptionError if it cannot be asked that."""
    from aronnax.collections.asr.evaluation import evaluate as run
    from aronnax.collections.common.data.manifest import read_manifest
    from aronnax.core.loading import load

    seconds = sum(entry.duration or 0.0 for entry in read_manifest(manifest))
    loaded: Any = load(loading.name, device=loading.device, weights=loading.weights)
    given = checked_options(loaded, loading.name, asked)
    with bar(
        seconds or None, "{l_bar}{bar:30}| {n:.0f} of {total:.0f} s of audio, {remaining} left"
    ) as shown:
        return run(
            loaded,
            manifest,
            normalise=normaliser,
            batch_size=batch_size,
            progress=None if shown is None else shown.update,
            **given,
        )


def _write(result: Evaluation, out: Path, of: Mapping[str, str]) -> None:
    """Totals and rows below `out`; `of` says what was scored how."""
    from aronnax.collections.asr.evaluation import write_rows

    write_rows(result, out / "utterances.jsonl")
    summary = {**of, **result.to_dict()}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"rows are in {out / 'utterances.jsonl'}")


def checked_options(model: Any, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; OptionError if the model does not transcribe, or takes no such options."""
    from aronnax.collections.asr.recognizer import SpeechRecognizer

    given = {option: value for option, value in asked.items() if value is not None}
    if "keywords" in getattr(model, "slots", ()):
        known, kind = {"prompt"}, "a speech language model"
    elif not isinstance(model, SpeechRecognizer):
        raise OptionError(f"{name} is neither a speech recogniser nor a speech language model")
    elif model.model_type == "canary":
        known, kind = {"source_lang", "target_lang", "beam", "head"}, "an encoder-decoder"
    else:
        known, kind = {"head"}, "a recogniser without prompts"
    refused = next((option for option in given if option not in known), None)
    if refused is not None:
        takes = ", ".join(f"--{option.replace('_', '-')}" for option in sorted(known))
        raise OptionError(
            f"{name} is {kind} and takes {takes}, so --{refused.replace('_', '-')} cannot be given"
        )
    return given


def report(result: Evaluation) -> list[str]:
    """The lines a user reads of an evaluation."""
    score, quiet = result.score, result.parts.non_speech
    lines = [f"WER {score.words}", f"CER {score.characters}"] if score.rows else []
    lines += by_group(result.parts.groups)
    if quiet.recordings:
        lines.append(f"without speech: {quiet}")
    number = len(score.rows) + quiet.recordings
    utterances = "1 utterance" if number == 1 else f"{number} utterances"
    speed = f"RTFx {result.rtfx:.1f}, real-time factor {1 / result.rtfx:.4f}" if result.rtfx else "RTFx 0"
    lines.append(
        f"{utterances}, {result.audio_seconds:.1f} s of audio in {result.wall_seconds:.1f} s: {speed}"
    )
    lines.append(f"padding: {result.padding:.1%} of what was encoded")
    return lines


def by_group(groups: Sequence[GroupScore]) -> list[str]:
    """A row for each language and language pair; nothing where there is but one language and no translation."""
    if len(groups) < 2 and not any(group.translated for group in groups):
        return []
    rows = []
    for group in groups:
        marks = ["" if value is None else f"{value:.1f}" for value in (group.bleu, group.chrf)]
        rates = (f"{100 * group.words.rate:.2f}", f"{100 * group.characters.rate:.2f}")
        rows.append((group.name or "other", group.utterances, *rates, *marks))
    return table(("", "utterances", "WER %", "CER %", "BLEU", "chrF"), rows)
