"""The whole recipe: synthesised voices first, then a model for each speaker left out, then the bundled one.

`python examples/asr/digits/folds.py RUNS [name=value ...]` trains in the folder RUNS, two at a time on one thread
each, resumes what was interrupted, and prints the table of word error rates. Options go to every training:
`data.fsdd=...`, `data.rir_noise=...`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SPEAKERS = ("george", "jackson", "nicolas", "theo", "yweweler")
CONDITIONS = [
    f"{kind}, {rate} kHz, {head}"
    for kind in ("strings", "single digits")
    for rate in (8, 16)
    for head in ("tdt", "ctc")
]
# No recording at all: the folds may share this start.
SYNTHESISED = (
    "data.synthesised_share=1", "training.start=null", "training.steps=1500", "training.lr=2e-3",
    "training.tract=0.08", "training.curriculum=[[2,0.15],[4,0.5],[7,1.0]]",
)  # fmt: skip
# The takes of FSDD's own test split stay unheard, for the tests.
BUNDLED = ("data.hold_out=null", "data.test_split=false", "training.steps=1800")


def train(runs: Path, name: str, options: list[str]) -> None:
    """One training in `runs`/`name`, unless it is already there; its log lies beside it."""
    if (runs / name / "model").exists():
        return
    script, cache = Path(__file__).with_name("train.py"), runs / "voices"
    command = [sys.executable, str(script), *options, f"output={runs / name}", f"data.cache={cache}"]
    with open(runs / f"{name}.log", "a") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)


def table(runs: Path) -> str:
    """Markdown: a row a condition, a column a speaker left out; `runs`/results.json gets all counts."""
    results = [json.loads((runs / speaker / "results.json").read_text()) for speaker in SPEAKERS]
    (runs / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    lines = [
        "| WER % | " + " | ".join(SPEAKERS) + " | mean |",
        "|---|" + "---|" * (len(SPEAKERS) + 1),
    ]
    for condition in CONDITIONS:
        rates = [100 * result[condition]["wer"] for result in results]
        cells = " | ".join(f"{rate:.1f}" for rate in [*rates, sum(rates) / len(rates)])
        lines.append(f"| {condition} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Train everything and print the table."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    runs, options = Path(sys.argv[1]), sys.argv[2:]
    runs.mkdir(parents=True, exist_ok=True)
    train(runs, "synthesised", [*options, *SYNTHESISED])
    start = [*options, f"training.start={runs / 'synthesised' / 'model'}"]
    trainings = {speaker: [*start, f"data.hold_out={speaker}"] for speaker in SPEAKERS}
    trainings["digits"] = [*start, *BUNDLED]
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lambda item: train(runs, *item), trainings.items()))
    print(table(runs))


if __name__ == "__main__":
    main()
