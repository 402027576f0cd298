"""The worker's half of `peers.Peer`: read a call from standard input, answer on standard output."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any


def serve(functions: Mapping[str, Callable[..., Any]]) -> None:
    """Answer calls until standard input closes; whatever the toolkit itself prints goes to standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"result": functions[request["name"]](**request["arguments"])}
        except Exception:
            reply = {"error": traceback.format_exc()}
        answers.write("@@" + json.dumps(reply) + "\n")
        answers.flush()
