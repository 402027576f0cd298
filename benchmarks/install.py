"""What installing costs: aronnax core, aronnax[train] and NeMo, each in a fresh virtual environment.

Prints packages, megabytes on disk and seconds, and how many packages aronnax's core adds to torch.

    python benchmarks/install.py [--skip-nemo]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
# pip and setuptools come with the environment itself and are nobody's cost.
SCAFFOLD = {"pip", "setuptools", "wheel"}


def contents(python: str) -> dict[str, float]:
    """Packages and megabytes (MB) of an environment, by its interpreter."""
    listing = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True)
    packages = {entry["name"].lower() for entry in json.loads(listing.stdout)} - SCAFFOLD
    files = (file for file in Path(python).parent.parent.rglob("*") if file.is_file())
    return {"packages": len(packages), "megabytes": round(sum(file.stat().st_size for file in files) / 1e6)}


def measure(requirements: list[str]) -> dict[str, float]:
    """Install `requirements` into a fresh environment; return packages, megabytes (MB) and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = f"{folder}/bin/python"
        before = time.perf_counter()
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        seconds = time.perf_counter() - before
        return {**contents(python), "seconds": round(seconds, 1)}


def main() -> None:
    """Measure every variant in turn and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--skip-nemo",
        action="store_true",
        help="do not install NeMo (it takes minutes); ARONNAX_NEMO_PYTHON's environment is counted, not timed",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/install.json")
    options = parser.parse_args()
    variants = {"torch alone": [TORCH], "aronnax": [TORCH, "."], "aronnax[train]": [TORCH, ".[train]"]}
    if not options.skip_nemo:
        variants["nemo_toolkit[asr]"] = [TORCH, "nemo_toolkit[asr]==3.0.0"]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "aronnax"
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv*", "build", "*.egg-info"))
        results = {
            name: measure([str(source) + item[1:] if item.startswith(".") else item for item in wanted])
            for name, wanted in variants.items()
        }
    existing = os.environ.get("ARONNAX_NEMO_PYTHON")
    if options.skip_nemo and existing:
        results["nemo_toolkit[asr]"] = contents(existing)
    print(f"{'':20} {'packages':>9} {'MB':>7} {'seconds':>8}")
    for name, row in results.items():
        print(f"{name:20} {row['packages']:>9} {row['megabytes']:>7} {row.get('seconds', '-'):>8}")
    added = results["aronnax"]["packages"] - results["torch alone"]["packages"]
    print(f"aronnax's core adds {added} packages to torch, itself counted")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"python": sys.version.split()[0], **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
