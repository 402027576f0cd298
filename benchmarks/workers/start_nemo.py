"""One cold start of NeMo: import, load, first text. Arguments: a .nemo file and a recording."""

import time

began = time.perf_counter()
import sys  # noqa: E402

import nemo  # noqa: E402
import soundfile  # noqa: E402
from nemo.collections.asr.models import ASRModel  # noqa: E402

imported = time.perf_counter()
model = ASRModel.restore_from(sys.argv[1], map_location="cpu")
loaded = time.perf_counter()
# Paths would need a `validation_ds` in the configuration, which a model that was only built has not.
samples, _ = soundfile.read(sys.argv[2], dtype="float32")
text = model.transcribe([samples], verbose=False)[0].text
done = time.perf_counter()

import json  # noqa: E402
from pathlib import Path  # noqa: E402

peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
times = {"import": imported - began, "load": loaded - imported, "first text": done - loaded}
answer = {**times, "peak MB": int(peak.split()[1]) / 1024, "text": text, "version": nemo.__version__}
print("@@" + json.dumps(answer))
