"""How a recording is read: at once with full attention, at once with local attention, or in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from aronnax.collections.asr.encoder import Attention
from aronnax.collections.asr.long_form.windows import Windows
from aronnax.core.errors import OptionError

FULL_SECONDS = 480.0
"""Up to here full attention is used: it costs less than the rest of the encoder."""

LOCAL_SECONDS = 3600.0
"""Up to here the whole recording is encoded at once with local attention; beyond it is read in chunks."""

LOCAL_CONTEXT_SECONDS = 20.48
"""Context to each side in local attention: 256 frames of 80 ms, as NVIDIA's model cards advise."""

CHUNK_SECONDS = 44.0
LEFT_SECONDS = 10.0
RIGHT_SECONDS = 6.0
"""A window is a minute long: whole frames of 80 and of 40 ms, lengths the models know from training."""

SHARE_OF_MEMORY = 0.5
"""A pass may take this share of the memory that is free."""


@dataclass(frozen=True)
class Plan:
    """The way one recording is read, and why.

    attention: the encoder's for this call, None for its own. windows: for kind "chunks". piece: for kind
    "pieces", the samples of each; a piece is encoded and decoded by itself.
    """

    kind: Literal["full", "local", "chunks", "pieces"]
    reason: str
    attention: Attention | None = None
    windows: Windows | None = None
    piece: int | None = None
    beyond: bool = False
    """Whether the model hears more at once than it was trained for."""

    @property
    def note(self) -> str | None:
        """What the result says of it; reading at once with full attention needs no word where that was learned."""
        return None if self.kind == "full" and not self.beyond else self.reason


def check_chunk(chunk: str | float) -> None:
    """OptionError unless `chunk` is auto, full, local, or a positive number of seconds."""
    if isinstance(chunk, str):
        if chunk not in ("auto", "full", "local"):
            raise OptionError(f"chunk={chunk!r} is not known: use 'auto', 'full', 'local' or seconds")
    elif isinstance(chunk, bool) or not 0.5 <= chunk <= 3600:
        raise OptionError(f"chunk={chunk!r}: a chunk has between 0.5 and 3600 seconds")


def choose(config: Any, samples: int, *, chunk: str | float, needed_bytes: int, free_bytes: int) -> Plan:
    """The plan for a recording of `samples`; `chunk` as in `transcribe`.

    `needed_bytes` is what encoding it at once takes, `free_bytes` what there is.
    """
    seconds = samples / config.preprocessor.sample_rate
    fits = needed_bytes <= SHARE_OF_MEMORY * free_bytes
    if not isinstance(chunk, str):
        if seconds <= chunk and fits:
            return Plan("full", f"{seconds:.1f} s are no more than one chunk of {chunk:g} s")
        return _chunks(config, float(chunk), f"chunks of {chunk:g} s were asked for")
    if chunk == "full":
        return Plan("full", "full attention was asked for")
    if chunk == "local":
        return _local(config, "local attention was asked for")
    if seconds <= FULL_SECONDS and fits:
        return Plan("full", f"{seconds:.1f} s fit full attention")
    if seconds <= LOCAL_SECONDS and fits:
        return _local(config, f"{seconds:.0f} s are more than the {FULL_SECONDS:.0f} s of full attention")
    if seconds > LOCAL_SECONDS:
        why = f"{seconds:.0f} s are more than the {LOCAL_SECONDS:.0f} s read at once"
    else:
        why = f"reading {seconds:.0f} s at once takes {_gib(needed_bytes)}, and {_gib(free_bytes)} are free"
    return _chunks(config, CHUNK_SECONDS, why)


def choose_pieces(config: Any, samples: int, longest: float, chunk: str | float) -> Plan:
    """The plan for a model that hears at most `longest` seconds at once; `chunk` as in `transcribe`."""
    rate = config.preprocessor.sample_rate
    seconds = samples / rate
    if chunk == "local":
        raise OptionError("chunk='local' is not for this model, which decodes what it has encoded as a whole")
    trained = f"the {longest:g} s this model was trained for"
    most = seconds if chunk == "full" else longest if isinstance(chunk, str) else float(chunk)
    if seconds <= most:
        beyond = seconds > longest
        more = f", more than {trained}" if beyond else ""
        return Plan("full", f"{seconds:.1f} s are heard at once{more}", beyond=beyond)
    said = f"{seconds:.1f} s are more than {trained}"
    if not isinstance(chunk, str):
        said = f"that was asked for, and is more than {trained}" if most > longest else "that was asked for"
    return Plan("pieces", f"heard in pieces of {most:g} s: {said}", piece=max(round(most * rate), 1))


def _local(config: Any, why: str) -> Plan:
    """Local attention, or the encoder's own where that is already limited."""
    encoder = config.encoder
    limited = all(side >= 0 for context in encoder.att_context_size for side in context)
    if limited:
        return Plan("local", f"read at once with the model's own limited attention: {why}")
    frames = round(LOCAL_CONTEXT_SECONDS / _frame_seconds(config))
    attention = Attention(kind="local", left=frames, right=frames)
    return Plan("local", f"read at once with local attention, {frames} frames to each side: {why}", attention)


def _chunks(config: Any, seconds: float, why: str) -> Plan:
    frame = _frame_seconds(config)
    per_frame = round(frame * config.preprocessor.sample_rate)
    windows = Windows(
        left=round(LEFT_SECONDS / frame),
        centre=max(round(seconds / frame), 1),
        right=round(RIGHT_SECONDS / frame),
        samples_per_frame=per_frame,
    )
    said = (
        f"read in chunks of {windows.centre * frame:g} s with {LEFT_SECONDS:g} s of context before and"
        f" {RIGHT_SECONDS:g} s after: {why}"
    )
    return Plan("chunks", said, windows=windows)


def _frame_seconds(config: Any) -> float:
    return float(config.preprocessor.window_stride * config.encoder.subsampling_factor)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
