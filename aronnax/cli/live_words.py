"""Words printed as they are written: `aronnax transcribe --live`, from a microphone or standard input."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aronnax.cli.delivery import check_formats
from aronnax.cli.hearing import Loading, dtype_of, say_what_is_logged
from aronnax.cli.live import check_inputs, heard
from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.speechlm.bestow.latency import Written
    from aronnax.collections.speechlm.bestow.model import BESTOW

FORMATS = ("txt", "json")
WAIT = 3
"""Blocks waited for where nothing is said."""


@dataclass(frozen=True)
class LiveWords:
    """How it is heard."""

    wait: int | None
    """Blocks heard before the first token."""
    stride: int | None
    """Frames of a block; None takes the model's."""
    rate: int | None
    """Samples a second of raw audio; None takes the model's."""
    prompt: str | None = None
    """What is asked about what is heard; None takes the model's own words."""


def hear_live(
    inputs: list[str] | None, loading: Loading, formats: list[str] | None, live: LiveWords, verbose: bool
) -> int:
    """Load the model and let it listen; the exit status."""
    from aronnax.core.loading import load

    wanted = check_formats(formats, FORMATS, None)
    check_inputs(inputs)
    say_what_is_logged(verbose)
    model = load(loading.name, device=loading.device, dtype=dtype_of(loading.dtype), weights=loading.weights)
    return listen(listening_model(model, loading.name), inputs, live, wanted[0])


def listening_model(model: Any, name: str) -> BESTOW:
    """The model if it can write while it listens, else an OptionError."""
    from aronnax.collections.speechlm.bestow.model import BESTOW

    if not isinstance(model, BESTOW):
        raise OptionError(
            f"{name} holds a {type(model).__name__}, which needs whole recordings; --live takes a BESTOW model,"
            " such as digits-bestow"
        )
    return model


def listen(model: BESTOW, inputs: list[str] | None, live: LiveWords, file_format: str) -> int:
    """Print what is written as it is written, until what is heard ends or Ctrl-C (status 130); the exit status.

    Text is printed piece by piece. With json a line for each token says when it was written, and the last line holds
    the whole answer with its lagging in seconds.
    """
    from aronnax.collections.speechlm.bestow.waitk import WaitK

    policy = WaitK(WAIT if live.wait is None else live.wait, live.stride or model.config.stride)
    stream = model.stream(policy, prompt=live.prompt)
    status = 0
    try:
        for samples in heard(inputs, live.rate, model.sample_rate):
            _print(stream.push(samples), file_format)
    except KeyboardInterrupt:
        status = 130
    before = len(stream.log.written)
    reply = stream.finish()
    _print(stream.log.written[before:], file_format)
    if file_format == "json":
        print(json.dumps({**reply.to_dict(), "laal": stream.log.laal()}, ensure_ascii=False), flush=True)
    else:
        print(flush=True)
    return status


def _print(written: Iterable[Written], file_format: str) -> None:
    for one in written:
        if file_format == "json":
            print(json.dumps(one.to_dict(), ensure_ascii=False), flush=True)
        else:
            print(one.text, end="", flush=True)
