"""The example of docs/generation.md runs and gives what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[4] / "docs" / "generation.md"


def test_the_example_gives_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    printed = capsys.readouterr().out.splitlines()
    promised = re.findall(r"^print\(.*?#\s+(.*)$", code, re.MULTILINE)
    assert printed[: len(promised)] == promised
    assert printed[len(promised) :][-1].endswith("eos")
