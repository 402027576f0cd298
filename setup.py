"""Packaging: a small core, and an extra for each thing that needs more."""

import platform
import re
import sys
import zlib
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "aronnax/__init__.py").read_text()).group(1)

CORE = [
    "torch>=2.6",
    "numpy>=1.26",
    "soundfile>=0.12",
    "soxr>=0.5",
    "sentencepiece>=0.2",
    "safetensors>=0.4",
    "huggingface-hub>=0.26",
    "omegaconf>=2.3",
    "pyyaml>=6",
    # Both come with huggingface-hub; typer and rich would be up to eleven packages more.
    "click>=8.2",
    "tqdm>=4.66",
]
EXTRAS = {
    "train": [
        "lightning>=2.5",
        "lhotse>=1.33",
        "kaldialign>=0.9",
        "scipy>=1.11",
        "sacrebleu>=2.4",
        "whisper-normalizer>=0.1",
        "tensorboard>=2.16",
        "matplotlib>=3.8",
    ],
    "llm": ["transformers>=5.0", "peft>=0.18"],
    "meeting": ["meeteval>=0.4", "pyannote.metrics>=3.2"],
    "media": ["av>=13"],
    "speak": ["espeakng-loader>=0.2"],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})

# Not in [all]: silero-vad brings torchaudio, whose wheels fit one torch only, and datasets is large.
EXTRAS["vad"] = ["silero-vad>=5"]
EXTRAS["hf"] = ["datasets>=3"]
# Nor this one: it needs the system's PortAudio.
EXTRAS["live"] = ["sounddevice>=0.4"]

# Faster int8 and int16 weights where the processor has AMX. Not a module of Python but a plain library; where it
# cannot be compiled, aronnax does without.
SOURCES = [f"aronnax/core/{name}" for name in ("tiles.h", "tiles.c", "tiles_attention.c")]
MARK = zlib.crc32(b"".join((HERE / name).read_bytes() for name in SOURCES))
TILES = Extension(
    "aronnax.core._tiles",
    SOURCES[1:],
    depends=SOURCES,
    define_macros=[("MARK", f"{MARK}u")],
    extra_compile_args=["-O3", "-fopenmp"],
    extra_link_args=["-fopenmp"],
    optional=True,
)
LINUX = sys.platform == "linux" and platform.machine() == "x86_64"

setup(
    name="aronnax",
    version=VERSION,
    description="Run, train and study public speech models: FastConformer, Canary, Sortformer, SALM, BESTOW.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["aronnax", "aronnax.*"]),
    package_data={"aronnax": ["py.typed", "bundled/**/*"]},
    ext_modules=[TILES] if LINUX else [],
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["aronnax = aronnax.cli.main:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
