"""2-D buckets that NeMo's `estimate_duration_bins_2d.py` finds, for tests/common/data/test_bins.py.

The script is not part of NeMo's wheel: give the path of a checkout's `scripts/speech_recognition`, and run from the
root with both packages importable.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CASES = (
    {"seed": 0, "count": 2000, "kind": "plain", "buckets": 30, "sub_buckets": 2, "max_duration": None},
    {"seed": 1, "count": 500, "kind": "up to 41 s", "buckets": 5, "sub_buckets": 3, "max_duration": 41.0},
    {"seed": 2, "count": 1000, "kind": "alike", "buckets": 10, "sub_buckets": 2, "max_duration": None},
    {"seed": 3, "count": 1000, "kind": "cut off", "buckets": 8, "sub_buckets": 2, "max_duration": None},
    {"seed": 4, "count": 300, "kind": "two", "buckets": 2, "sub_buckets": 1, "max_duration": None},
)
FIXTURE = Path("tests/parity/fixtures/bins_2d.json")


def load(path: str) -> Any:
    """The module of a file."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(scripts: str) -> None:
    """Write the fixture."""
    nemo = load(f"{scripts}/estimate_duration_bins_2d.py")
    corpus = load("tests/common/data/corpus.py").corpus
    nemo.FixedBucketBatchSizeConstraint2D = lambda *_: SimpleNamespace(measure_length=lambda pair: pair)
    results = []
    for case in CASES:
        pairs = list(zip(*corpus(case["seed"], case["count"], case["kind"])))
        limit = float("inf") if case["max_duration"] is None else case["max_duration"]
        found, rates = nemo.estimate_duration_buckets(
            pairs, case["buckets"], case["sub_buckets"], None, limit, 4.0, True
        )
        edges = [[float(f"{seconds:.3f}"), int(tokens)] for seconds, tokens in found]
        results.append({**case, "bins": edges, "max_tps": [round(float(rate), 6) for rate in rates]})
    FIXTURE.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
