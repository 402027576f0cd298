"""Importing aronnax is instant, and inference needs none of the optional packages."""

import subprocess
import sys

OPTIONAL = (
    "lightning",
    "lhotse",
    "kaldialign",
    "sacrebleu",
    "whisper_normalizer",
    "tensorboard",
    "matplotlib",
)
OPTIONAL += ("av", "espeakng_loader", "librosa", "transformers", "torchaudio", "scipy", "pandas", "psutil")


def run(code: str) -> str:
    """What `code` prints in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_aronnax_imports_nothing_heavy():
    loaded = run("import aronnax, sys; print(' '.join(sys.modules))").split()
    assert not {"torch", "numpy", "click", "omegaconf", *OPTIONAL} & set(loaded)


def test_the_command_line_lists_its_verbs_without_importing_torch():
    loaded = run(
        "import sys\n"
        "from aronnax.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules)"
    )
    assert "transcribe" in loaded
    assert loaded.split()[-1] == "False"


def test_the_core_transcribes_with_no_optional_package_installed():
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
import numpy as np, aronnax
model = aronnax.load('digits')
print(repr(model.transcribe((np.zeros(16000, np.float32), 16000)).text))
"""
    assert run(code).strip() == "''"
