"""One cold start of aronnax: import, load, first text. Arguments: a .nemo file and a recording."""

import time

began = time.perf_counter()
import sys  # noqa: E402

import aronnax  # noqa: E402
from aronnax import load  # noqa: E402

imported = time.perf_counter()
model = load(sys.argv[1], device="cpu")
loaded = time.perf_counter()
text = model.transcribe(sys.argv[2]).text
done = time.perf_counter()

import json  # noqa: E402
from pathlib import Path  # noqa: E402

peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
times = {"import": imported - began, "load": loaded - imported, "first text": done - loaded}
answer = {**times, "peak MB": int(peak.split()[1]) / 1024, "text": text, "version": aronnax.__version__}
print("@@" + json.dumps(answer))
