"""Every benchmark in turn, one after another so that none disturbs another; `make bench` runs this.

python benchmarks/run_all.py [NAME ...]

Two more need recordings (ARONNAX_DATA) and are run by themselves: int8_wer.py and noise_stage.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "transcription": (),
    "training_step": (),
    "loss": (),
    "decoding": (),
    "aed_decoding": (),
    "decoder_shift": (),
    "llm_decoding": (),
    "speechlm_cost": (),
    "diarization": ("step", "--repeats", "12"),
    "whole_numbers": (),
    "encoder": (),
    "start": (),
    "padding": (),
    "batching": (),
    "install": (),
}
"""Their options."""


def main() -> None:
    """Run the named benchmarks, or all; exit with the number that failed."""
    failed = 0
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"\n== {name} ==", flush=True)
        command = [sys.executable, str(FOLDER / f"{name}.py"), *BENCHMARKS.get(name, ())]
        failed += subprocess.run(command, check=False).returncode != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
