"""What the file of each transcript is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath


def output_names(sources: Sequence[str | None]) -> list[str]:
    """A name without its format for every input, no two alike even where upper and lower case count as one.

    `talk.wav` gives `talk`. Inputs that share a stem keep their extension (`talk.wav`, `talk.mp3`), and those
    that still share it are numbered in input order (`talk.wav`, `talk.wav-2`).

    >>> output_names(["a/talk.wav", "b/talk.mp3", "c/talk.mp3", "other.wav"])
    ['talk.wav', 'talk.mp3', 'talk.mp3-2', 'other']
    """
    paths = [PurePath(source or "audio") for source in sources]
    stems = Counter(path.stem.lower() for path in paths)
    taken: set[str] = set()
    names = []
    for path in paths:
        wanted = path.stem if stems[path.stem.lower()] == 1 else path.name
        wanted = wanted or "audio"
        name, number = wanted, 1
        while name.lower() in taken:
            number += 1
            name = f"{wanted}-{number}"
        taken.add(name.lower())
        names.append(name)
    return names
