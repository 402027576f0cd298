"""Every benchmark in turn, one after another so that none disturbs another; `make bench` runs this.

python benchmarks/run_all.py [NAME ...]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
BENCHMARKS = ("transcription", "training_step", "loss", "decoding", "encoder", "start", "padding", "install")


def main() -> None:
    """Run the named benchmarks, or all; exit with the number that failed."""
    failed = 0
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"\n== {name} ==", flush=True)
        failed += subprocess.run([sys.executable, str(FOLDER / f"{name}.py")], check=False).returncode != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
