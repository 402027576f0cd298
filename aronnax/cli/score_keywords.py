"""`aronnax evaluate --keywords`: what lists of words in the prompt do, over their length."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aronnax.cli.terminal import bar, table
from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.speechlm.keywords import KeywordEvaluation

LINES = "lines"
"""What `--keywords` is without a file: each line's own."""


@dataclass(frozen=True)
class Boosting:
    """What `aronnax evaluate --keywords` is told."""

    keywords: str
    lengths: str
    normaliser: str
    batch_size: int
    prompt: str | None = None
    """What is asked; None takes the model's own words."""


def score_keywords(
    model: str, manifest: Path, boosting: Boosting, device: str | None, out: Path | None
) -> None:
    """Transcribe with lists of each length, print what they did, and write it to `out`."""
    from aronnax.collections.common.data.manifest import read_manifest
    from aronnax.collections.speechlm.keywords import evaluate_keywords, read_keywords
    from aronnax.core.loading import load

    lengths = _lengths(boosting.lengths)
    vocabulary = [] if boosting.keywords == LINES else read_keywords(boosting.keywords)
    total = len({0, *lengths}) * sum(bool(entry.text) for entry in read_manifest(manifest))
    loaded: Any = load(model, device=device)
    taken = inspect.signature(getattr(loaded, "transcribe_iter", lambda: None)).parameters
    if "keywords" not in taken:
        raise OptionError(f"{model} takes no key words; --keywords is for speech language models")
    asked: dict[str, Any] = {} if boosting.prompt is None else {"prompt": boosting.prompt}
    with bar(total, "{l_bar}{bar:30}| {n_fmt}/{total_fmt} transcripts, {remaining} left") as shown:
        found = evaluate_keywords(
            loaded,
            manifest,
            vocabulary,
            lengths=lengths,
            normalise=boosting.normaliser,
            progress=None if shown is None else shown.update,
            batch_size=boosting.batch_size,
            **asked,
        )
    for line in report(found):
        print(line)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        summary = {"model": model, "manifest": str(manifest), **found.to_dict()}
        (out / "keywords.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        print(f"the numbers are in {out / 'keywords.json'}")
    for name, reason in found.failed:
        print(f"not scored: {name}: {reason}", file=sys.stderr)
    if found.failed:
        raise SystemExit(1)


def report(found: KeywordEvaluation) -> list[str]:
    """A row for each length of list."""
    rows = [
        (
            score.length or "no list",
            f"{100 * score.recall:.1f}",
            f"{100 * score.precision:.1f}",
            f"{100 * score.f:.1f}",
            f"{100 * score.words.rate:.2f}",
        )
        for score in found.scores
    ]
    return [
        *table(("words listed", "recall %", "precision %", "F %", "WER %"), rows),
        f"{found.utterances} utterances",
    ]


def _lengths(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise OptionError(f"--list-lengths {text!r} must be whole numbers with commas between them")
    return tuple(int(part) for part in parts)
