"""What the file of each transcript is called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence


def output_names(sources: Sequence[str | None]) -> list[str]:
    """A name without its format for every input, no two alike even where upper and lower case count as one.

    `talk.wav` gives `talk`. Inputs that share a stem keep their extension (`talk.wav`, `talk.mp3`), and those
    that still share it are numbered in input order (`talk.wav`, `talk.wav-2`).

    >>> output_names(["a/talk.wav", "b/talk.mp3", "c/talk.mp3", "other.wav"])
    ['talk.wav', 'talk.mp3', 'talk.mp3-2', 'other']
    """
    files = [os.path.basename(source or "") or "audio" for source in sources]
    paths = [(os.path.splitext(file)[0], file) for file in files]
    stems = Counter(stem.lower() for stem, _ in paths)
    taken: set[str] = set()
    numbers: Counter[str] = Counter()
    names = []
    for stem, file in paths:
        wanted = stem if stems[stem.lower()] == 1 else file
        name = wanted
        while name.lower() in taken:
            # Numbers go on from the last one given: a manifest may name one file many thousand times.
            numbers[wanted.lower()] += 1
            name = f"{wanted}-{numbers[wanted.lower()] + 1}"
        taken.add(name.lower())
        names.append(name)
    return names
