"""Run a peer toolkit beside aronnax: a worker process in the peer's own environment, driven over JSON lines.

Both sides measure inside their own process, and a benchmark alternates between them, so that a machine whose speed
drifts slows both alike. A worker is idle while the other side is timed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).resolve().parent / "workers"
RESULTS = Path(__file__).resolve().parent / "results"


class Peer:
    """A worker script running under `python`; `call(name, **arguments)` runs one of its functions."""

    def __init__(self, python: str, script: str) -> None:
        self._process = subprocess.Popen(
            [python, str(WORKERS / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def call(self, name: str, **arguments: Any) -> Any:
        """Run the worker's function `name`; return its result.

        Raises RuntimeError with the worker's own traceback if it fails.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"name": name, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("@@"):
                answer = json.loads(line[2:])
                if "error" in answer:
                    raise RuntimeError(answer["error"])
                return answer["result"]
        raise RuntimeError(f"the worker ended without answering {name!r}")

    def close(self) -> None:
        """End the worker."""
        self._process.kill()
        self._process.wait()


def nemo_python() -> str:
    """The interpreter of NeMo's environment; exits with what to do when there is none."""
    python = os.environ.get("ARONNAX_NEMO_PYTHON", "")
    if not Path(python).is_file():
        sys.exit("NeMo's environment is missing: run `make bench`, or set ARONNAX_NEMO_PYTHON to its python")
    return python


def seconds(function: Callable[[], Any]) -> float:
    """Wall seconds one call of `function` takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def alternate(
    sides: Mapping[str, Callable[[], float]], repeats: int = 5, warmup: int = 1
) -> dict[str, float]:
    """Call each side in turn `repeats` times after a warm-up; return each side's median seconds."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warmup + repeats):
        for name, side in sides.items():
            measured = side()
            if turn >= warmup:
                times[name].append(measured)
    return {name: statistics.median(values) for name, values in times.items()}


def save(name: str, result: Mapping[str, Any]) -> None:
    """Write `result` to benchmarks/results/<name>.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
