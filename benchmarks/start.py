"""Cold start beside NeMo: import, load of a 110 M .nemo, first text of a 5 s recording; and `import aronnax` alone.

Every number is of a fresh process; the two sides take turns. Peak memory is the kernel's own (VmHWM).

    ARONNAX_NEMO_PYTHON=.venv-parity/bin/python python benchmarks/start.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

from peers import WORKERS, Peer, nemo_python, save

PARTS = ("import", "load", "first text")
SECONDS = 5


def recording(path: str) -> None:
    """Noise of changing loudness, 16 bits at 16 kHz; with random weights only its length matters."""
    rng = random.Random(0)
    samples = [int(rng.gauss(0, 1) * 3000 * (1 + i // 3200 % 3)) for i in range(SECONDS * 16000)]
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(struct.pack(f"<{len(samples)}h", *(max(-32768, min(32767, s)) for s in samples)))


def cold_start(python: str, side: str, model: str, audio: str) -> dict[str, Any]:
    """What one fresh process of a side measured, and the wall time of the whole process."""
    began = time.perf_counter()
    done = subprocess.run(
        [python, str(WORKERS / f"start_{side}.py"), model, audio], capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - began
    lines = [line for line in done.stdout.splitlines() if line.startswith("@@")]
    if not lines:
        raise RuntimeError(f"the {side} process said nothing:\n{done.stderr[-2000:]}")
    return {**json.loads(lines[-1][2:]), "process": wall}


def import_alone(repeats: int) -> float:
    """Seconds that `import aronnax` adds to the start of Python."""
    times: dict[str, list[float]] = {"pass": [], "import aronnax": []}
    for _ in range(repeats):
        for code, found in times.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            found.append(time.perf_counter() - began)
    return statistics.median(times["import aronnax"]) - statistics.median(times["pass"])


def measure(repeats: int) -> dict[str, Any]:
    """Medians of both sides over `repeats` cold starts, after one that fills the file cache."""
    import numpy as np

    nemo = nemo_python()
    with tempfile.TemporaryDirectory() as folder:
        model, audio, clips = f"{folder}/model.nemo", f"{folder}/audio.wav", f"{folder}/clips.npy"
        recording(audio)
        np.save(clips, np.random.default_rng(0).normal(0, 0.1, (4, SECONDS * 16000)).astype(np.float32))
        peer = Peer(nemo, "nemo_transcription.py")
        peer.call("build", path=model, clips=clips)
        peer.close()
        size = Path(model).stat().st_size / 2**20
        sides = {"aronnax": sys.executable, "nemo": nemo}
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for _ in range(repeats + 1):
            for side, python in sides.items():
                runs[side].append(cold_start(python, side, model, audio))
    same = runs["aronnax"][0]["text"] == runs["nemo"][0]["text"]
    keys = (*PARTS, "process", "peak MB")
    rows = {
        side: {key: statistics.median(run[key] for run in found[1:]) for key in keys}
        for side, found in runs.items()
    }
    for row in rows.values():
        row["import + load + first text"] = sum(row[part] for part in PARTS)
    versions = {side: found[0]["version"] for side, found in runs.items()}
    return {
        "model MB": size,
        "repeats": repeats,
        "versions": versions,
        "texts equal": same,
        "load average": os.getloadavg()[0],
        **rows,
        "import aronnax": import_alone(max(repeats, 5)),
    }


def main() -> None:
    """Measure, print the ratio table, save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    result = measure(parser.parse_args().repeats)
    ours, theirs = result["aronnax"], result["nemo"]
    print(
        f"110 M TDT .nemo of {result['model MB']:.0f} MB, {SECONDS} s of audio, texts equal: {result['texts equal']}"
    )
    print(f"{'':28}{'aronnax':>10}{'NeMo ' + result['versions']['nemo']:>12}{'ratio':>8}")
    for key in (*PARTS, "import + load + first text", "process", "peak MB"):
        print(f"{key:28}{ours[key]:10.2f}{theirs[key]:12.2f}{ours[key] / theirs[key]:8.2f}")
    print(f"import aronnax adds {result['import aronnax']:.3f} s to Python's own start")
    save("start", result)


if __name__ == "__main__":
    main()
