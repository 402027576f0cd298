"""Test a small speech language model on one FSDD speaker: `measure.py MODEL FSDD_FOLDER SPEAKER [RESULTS.json]`.

Prints word errors of "transcribe", exact answers by kind of question, written and spoken, text tasks that have
nothing to do with digits, and, of a BESTOW model, word errors and lagging of live transcription.
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "asr" / "digits"))

import numpy as np
import questions
from heard import spoken_questions
from voices import RATE, load_fsdd

import aronnax
from aronnax.collections.common.metrics import score
from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.collections.speechlm.model import SpeechLM

STRINGS = 260
LONGEST = 5
SEED = 2026
Clip = tuple[np.ndarray, list[str]]


def strings_of(clips: Sequence[tuple[np.ndarray, str]], count: int = STRINGS) -> list[Clip]:
    """Strings of 1 to 5 digits, as many of each, with 0 to 0.4 s of silence around the digits; always the same."""
    chance, found = random.Random(SEED), []
    for index in range(count):
        pieces, digits = [_pause(chance)], []
        for audio, text in chance.sample(list(clips), 1 + index % LONGEST):
            pieces += [audio, _pause(chance)]
            digits.append(text)
        found.append((np.concatenate(pieces, dtype=np.float32), digits))
    return found


def _pause(chance: random.Random) -> np.ndarray:
    return np.zeros(int(chance.uniform(0, 0.4) * RATE), np.float32)


def heard(audio: np.ndarray) -> Audio:
    """A recording as a part of a message."""
    return Audio((audio, RATE))


def replies(model: SpeechLM, contents: Sequence[tuple[str | Audio, ...]]) -> list[str]:
    """What the model says to one message each."""
    conversations = [[Message("user", content)] for content in contents]
    return [reply.text for reply in model.generate(conversations, max_new_tokens=40, batch_size=32)]


def transcription(model: SpeechLM, strings: Sequence[Clip]) -> dict[str, Any]:
    """Word errors of strings."""
    said = replies(model, [("transcribe:", heard(audio)) for audio, _ in strings])
    errors = score([" ".join(digits) for _, digits in strings], said).words
    return {"wer": errors.rate, **vars(errors)}


def answers(model: SpeechLM, strings: Sequence[Clip]) -> dict[str, tuple[int, int]]:
    """(right, asked) of written questions by kind."""
    chance, kinds = random.Random(SEED), list(questions.KINDS)
    contents, rights = [], []
    for index, (audio, digits) in enumerate(strings):
        kind = kinds[index % len(kinds)]
        question, right = questions.ask(digits, chance, kind)
        contents.append((heard(audio), question) if index % 2 else (f"{question}:", heard(audio)))
        rights.append((kind, right))
    return counted(rights, replies(model, contents))


def spoken_answers(model: SpeechLM, strings: Sequence[Clip]) -> dict[str, tuple[int, int]]:
    """(right, asked) of questions asked aloud by voices never heard, before the string."""
    asked = spoken_questions(len(strings), SEED, test=True)
    contents = [(heard(question.audio), heard(audio)) for question, (audio, _) in zip(asked, strings)]
    rights = [
        (question.kind, questions.answer(question.kind, digits, question.asked))
        for question, (_, digits) in zip(asked, strings)
    ]
    return counted(rights, replies(model, contents))


def two_turns(model: SpeechLM, strings: Sequence[Clip]) -> dict[str, tuple[int, int]]:
    """(right, asked) of a question about a second recording, after one about another; never trained on."""
    chance, conversations, rights = random.Random(SEED), [], []
    for (first, one), (second, other) in zip(strings[::2], strings[1::2]):
        (question, right), (then, answer) = questions.ask(one, chance), questions.ask(other, chance)
        before = [Message("user", (heard(first), question)), Message("assistant", (right,))]
        conversations.append([*before, Message("user", (heard(second), then))])
        rights.append(("two recordings", answer))
    said = [reply.text for reply in model.generate(conversations, max_new_tokens=40, batch_size=32)]
    return counted(rights, said)


def text_tasks(model: Any, each: int = 40) -> dict[str, tuple[int, int]]:
    """(right, asked) of text tasks by kind; what a model forgets shows here."""
    chance = random.Random(SEED)
    made = [(name, *questions.text_task(chance, name)) for name in questions.TEXT_TASKS for _ in range(each)]
    said = replies(model, [(instruction,) for _, instruction, _ in made])
    return counted([(name, right) for name, _, right in made], said)


def counted(rights: Sequence[tuple[str, str]], said: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(right, asked) by kind and of all."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for (kind, right), text in zip(rights, said):
        for name in (kind, "all"):
            found[name][0] += text.strip() == right
            found[name][1] += 1
    return {name: (right, asked) for name, (right, asked) in found.items()}


def measure(folder: str | Path, fsdd: str, speaker: str, out: Path | None = None) -> dict[str, Any]:
    """All of the tests, printed, and written to `out`."""
    model = aronnax.load(str(folder), device="cpu")
    assert isinstance(model, SpeechLM)
    strings = strings_of(load_fsdd(Path(fsdd))[speaker])
    results: dict[str, Any] = {"speaker": speaker, "transcription": transcription(model, strings)}
    results["written questions"] = answers(model, strings)
    if model.model_type == "voicetextblender":
        results["spoken questions"] = spoken_answers(model, strings)
    results["two recordings in two turns"] = two_turns(model, strings)
    results["text tasks"] = text_tasks(model)
    if model.model_type == "bestow":
        from live import lagging

        results["live"] = lagging(model, strings[:100])
    for name, found in results.items():
        print(f"{name}: {json.dumps(found)}", flush=True)
    if out is not None:
        out.write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    measure(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]) if len(sys.argv) > 4 else None)
