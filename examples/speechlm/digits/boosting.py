"""Key words in the prompt on words that sound alike: `boosting.py MODEL FSDD_FOLDER SPEAKER [RESULTS.json]`.

"one" may be spelled "won", "two" "too", "four" "for" and "eight" "ate". Each string has a drawn spelling for each of
them; what is counted are those words in transcripts with the right list, with the other spellings, and with none.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "asr" / "digits"))

import questions
from measure import SEED, Clip, strings_of
from voices import RATE, load_fsdd

import aronnax
from aronnax.collections.common.metrics import score
from aronnax.collections.speechlm.model import SpeechLM


def boosting(model: SpeechLM, strings: Sequence[Clip]) -> dict[str, dict[str, Any]]:
    """Share of the homophones that are spelled as asked, and word errors, by the list that was given."""
    chance, found = random.Random(SEED), {}
    spellings = [
        {word: chance.choice((word, twin)) for word, twin in questions.HOMOPHONES.items()} for _ in strings
    ]
    references = [
        [spelling.get(word, word) for word in digits] for spelling, (_, digits) in zip(spellings, strings)
    ]
    lists = {
        "right list": [list(spelling.values()) for spelling in spellings],
        "wrong list": [
            [twin if spelling[word] == word else word for word, twin in questions.HOMOPHONES.items()]
            for spelling in spellings
        ],
        "no list": [[] for _ in strings],
    }
    for name, listed in lists.items():
        said = [
            model.transcribe((audio, RATE), keywords=words).text.split()
            for (audio, _), words in zip(strings, listed)
        ]
        pairs = [
            (right, written)
            for reference, text in zip(references, said)
            if len(text) == len(reference)
            for right, written in zip(reference, text)
            if right in questions.HOMOPHONES or right in questions.HOMOPHONES.values()
        ]
        errors = score([" ".join(row) for row in references], [" ".join(row) for row in said]).words
        right = sum(one == other for one, other in pairs)
        found[name] = {
            "right": right,
            "of": len(pairs),
            "share": right / max(1, len(pairs)),
            "wer": errors.rate,
        }
    return found


def main(folder: str, fsdd: str, speaker: str, out: str | None = None) -> None:
    """Print the results, and write them to `out`."""
    model = aronnax.load(folder, device="cpu")
    assert isinstance(model, SpeechLM)
    results = boosting(model, strings_of(load_fsdd(Path(fsdd))[speaker]))
    for name, found in results.items():
        print(f"{name}: {json.dumps(found)}", flush=True)
    if out is not None:
        Path(out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:5])
