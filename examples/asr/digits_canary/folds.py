"""The whole recipe: a model for each speaker left out, then the bundled one.

`python examples/asr/digits_canary/folds.py DIGITS RUNS [name=value ...]` starts from models that
`examples/asr/digits/folds.py` has left in the folder DIGITS, trains in the folder RUNS, two at a time on one thread
each, resumes what was interrupted, and prints the tables. Options go to every training: `data.fsdd=...`,
`data.rir_noise=...`, and `folds=[theo,george]` for some speakers only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SPEAKERS = ("george", "jackson", "nicolas", "theo", "yweweler")
LANGUAGES = ("en", "de", "fr", "es")
CONDITIONS = [
    *(f"strings, 8 kHz, {language}{pnc}" for language in LANGUAGES for pnc in ("", ", pnc")),
    *(f"strings, 16 kHz, {language}" for language in LANGUAGES),
    *(f"single digits, 8 kHz, {language}" for language in LANGUAGES),
]
NOISES = ("trained on", "not trained on", "all noises")
# The takes of FSDD's own test split stay unheard, for the tests.
BUNDLED = ("data.hold_out=null", "data.test_split=false")


def train(digits: Path, runs: Path, name: str, options: list[str]) -> None:
    """One training in `runs`/`name`, unless it is already there; its log lies beside it."""
    if (runs / name / "noise" / "learner.pt").exists():
        return
    # Where a speaker is left out, from espeak-ng's voices alone: nobody of FSDD was heard before.
    start = digits / ("digits" if name == "digits-canary" else "synthesised") / "model"
    command = [sys.executable, str(Path(__file__).with_name("train.py")), *options]
    command += [f"start={start}", f"output={runs / name}", f"data.cache={digits / 'voices'}"]
    with open(runs / f"{name}.log", "a") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)


def table(runs: Path, speakers: list[str]) -> str:
    """Markdown: a row a condition, a column a speaker left out; `runs`/results.json gets all counts."""
    results: dict[str, list[dict[str, Any]]] = {
        stage: [json.loads((runs / speaker / stage / "results.json").read_text()) for speaker in speakers]
        for stage in ("speech", "noise")
    }
    (runs / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    last, rows = results["noise"], {}
    for condition in CONDITIONS:
        rows[condition] = [100 * result[condition]["wer"] for result in last]
    for kind in ("strings", "single digits"):
        rows[f"{kind}, language change"] = [100 * result[f"{kind}, language change"] for result in last]
    rows["before the noise stage: strings, 8 kHz, en"] = [
        100 * result["strings, 8 kHz, en"]["wer"] for result in results["speech"]
    ]
    for stage, when in (("speech", "before"), ("noise", "after")):
        for noise in NOISES:
            rows[f"characters a minute {when}, {noise}"] = [
                result["characters a minute"][noise] for result in results[stage]
            ]
    lines = ["| % | " + " | ".join(speakers) + " | mean |", "|---|" + "---|" * (len(speakers) + 1)]
    for name, values in rows.items():
        cells = " | ".join(f"{value:.1f}" for value in [*values, sum(values) / len(values)])
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Train everything and print the table."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    digits, runs, options, speakers = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:], list(SPEAKERS)
    for option in [option for option in options if option.startswith("folds=")]:
        options.remove(option)
        speakers = option.removeprefix("folds=").strip("[]").split(",")
    runs.mkdir(parents=True, exist_ok=True)
    trainings = {speaker: [*options, f"data.hold_out={speaker}"] for speaker in speakers}
    trainings["digits-canary"] = [*options, *BUNDLED]
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lambda item: train(digits, runs, *item), trainings.items()))
    print(table(runs, speakers))


if __name__ == "__main__":
    main()
