"""What the verbs that turn recordings into text share: inputs, delivery of results, progress, exit status."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aronnax.cli.delivery import Files, Printed, check_formats, deliver_all
from aronnax.core.errors import AronnaxError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.asr.recognizer import SpeechRecognizer
    from aronnax.collections.asr.transcribing import Result
    from aronnax.collections.common.results import Transcript
    from aronnax.collections.diarization.multispeaker.model import MultispeakerModel
    from aronnax.collections.diarization.sortformer.model import SortformerModel
    from aronnax.collections.speechlm.model import SpeechLM

    Recogniser = SpeechRecognizer | MultispeakerModel | SpeechLM

BUNDLED_DIARIZER = "diarizer-small"
PUBLISHED_DIARIZER = "nvidia/diar_streaming_sortformer_4spk-v2"


@dataclass(frozen=True)
class Loading:
    """Which model, and how it is loaded."""

    name: str
    device: str | None
    dtype: str | None
    weights: str | None


@dataclass(frozen=True)
class Speakers:
    """Who tells the speakers apart (the default diarizer for "") and how."""

    model: str
    options: dict[str, Any] = field(default_factory=dict)


def hear(
    inputs: Sequence[str],
    loading: Loading,
    formats: list[str] | None,
    out: Path | None,
    options: dict[str, Any],
    asked: Mapping[str, Any],
    verbose: bool = False,
    speakers: Speakers | None = None,
) -> int:
    """Turn all inputs into text and deliver it; the exit status.

    `options` are those of every recogniser, `asked` those of the models that take prompts, None where not given;
    `speakers` has a diarizer tell who says it.
    """
    from aronnax.collections.asr.inputs import sources
    from aronnax.collections.common.results import FORMATS

    say_what_is_logged(verbose)
    wanted = check_formats(formats, list(FORMATS), out)
    options["chunk"] = _chunk(options["chunk"])
    if options["confidence"] == "none":
        options["confidence"] = None
    recogniser = _load(loading.name, loading.device, dtype_of(loading.dtype), loading.weights)
    options = _own_options(recogniser, loading.name, options)
    options |= _prompt_options(recogniser, loading.name, asked)
    found = list(sources([stdin() if name == "-" else name for name in inputs]))
    if speakers is None:

        def results(progress: Callable[[float], None]) -> Generator[Result, None, None]:
            return recogniser.transcribe_iter(found, progress=progress, **options)

    else:
        from aronnax.collections.asr.recognizer import SpeechRecognizer
        from aronnax.collections.diarization.joining import transcribe_speakers_iter

        if not isinstance(recogniser, SpeechRecognizer):
            why = (
                "says who speaks by itself"
                if recogniser.model_type == "multispeaker"
                else "gives words no times"
            )
            raise OptionError(f"{loading.name} {why}: leave out --diarize")
        if options.get("timestamps") is False:
            raise OptionError("--diarize needs the times of words, which --no-timestamps leaves out")
        plain, diarizer = recogniser, load_diarizer(speakers.model or default_diarizer(), loading.device)

        def results(progress: Callable[[float], None]) -> Generator[Result, None, None]:
            return transcribe_speakers_iter(
                plain, diarizer, found, diarization=speakers.options, progress=progress, **options
            )

    attributed = speakers is not None or recogniser.model_type == "multispeaker"
    return _deliver(found, wanted, out, results, attributed)


def _own_options(recogniser: Recogniser, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of every recogniser that this one has; OptionError for others that were given."""
    if "keywords" not in recogniser.slots:
        return dict(options)
    strange = {"head": None, "chunk": "auto", "vad": None}
    given = [f"--{key}" for key, value in strange.items() if options[key] != value]
    if given:
        raise OptionError(f"{name} is a speech language model, which has no {', '.join(given)}")
    return {key: options[key] for key in ("batch_size", "language")}


def _prompt_options(recogniser: Recogniser, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; OptionError if the model cannot be asked such things."""
    given = {key: value for key, value in asked.items() if value is not None}
    if given.get("task") == "translate" and "target_lang" not in recogniser.slots:
        raise OptionError(
            f"{name} is a {recogniser.model_type} model, which does not translate; encoder-decoders do, such as"
            " digits-canary or nvidia/canary-1b-flash"
        )
    if "keywords" in recogniser.slots:
        refused, takes = (
            given.keys() - set(recogniser.slots),
            f"takes --{' and --'.join(recogniser.slots)} alone",
        )
    elif recogniser.slots:
        refused, takes = given.keys() & {"keywords", "prompt"}, "takes no words as a prompt"
    else:
        refused, takes = given.keys() - {"timestamps"}, "takes no prompt"  # times are every recogniser's
    if refused:
        options = ", ".join(f"--{key.replace('_', '-')}" for key in given if key in refused)
        raise OptionError(
            f"{name} is a {recogniser.model_type} model and {takes}, so {options} cannot be given;"
            " encoder-decoders such as nvidia/canary-1b-flash take languages and tasks, and speech language models"
            " such as nvidia/canary-qwen-2.5b take --prompt and --keywords"
        )
    return given


def _deliver(
    found: Sequence[Any],
    formats: Sequence[str],
    out: Path | None,
    results: Callable[[Callable[[float], None]], Generator[Result, None, None]],
    speakers: bool,
) -> int:
    """Print or write what is heard; the exit status."""
    names = [None if isinstance(source, AronnaxError) else source.name for source in found]
    if (
        out is None
        and len(names) > 1
        and (formats[0] in ("srt", "vtt") or (speakers and formats[0] == "txt"))
    ):
        raise OptionError(f"{len(names)} inputs cannot be printed as one {formats[0]}: give --out FOLDER")
    delivery = Files(names, formats, _rendered, out) if out else Printed(names, formats[0], _rendered)
    return deliver_all(results, lambda result: result.transcript, delivery, "transcripts")


def _rendered(transcript: Transcript, file_format: str, one_line: bool) -> bytes:
    from aronnax.collections.common.results import write

    if file_format == "json" and one_line:
        return (json.dumps(transcript.to_dict(), ensure_ascii=False) + "\n").encode()
    return write(transcript, file_format).encode()


def _load(name: str, device: str | None, dtype: Any, weights: str | None) -> Recogniser:
    from aronnax.core.loading import load

    model: Any = load(name, device=device, dtype=dtype, weights=weights)
    if not hasattr(model, "transcribe_iter"):
        raise OptionError(
            f"{name} holds a {type(model).__name__}, which does not transcribe; digits does, for one"
        )
    recogniser: Recogniser = model
    return recogniser


def default_diarizer() -> str:
    """The bundled diarizer where there is one, else the published one."""
    from aronnax.core.hub import bundled

    return BUNDLED_DIARIZER if BUNDLED_DIARIZER in bundled() else PUBLISHED_DIARIZER


def load_diarizer(name: str, device: str | None, weights: str | None = None) -> SortformerModel:
    """The model of that name; OptionError if it does not tell speakers apart."""
    from aronnax.collections.diarization.sortformer.model import SortformerModel
    from aronnax.core.loading import load

    model = load(name, device=device, weights=weights)
    if not isinstance(model, SortformerModel):
        raise OptionError(
            f"{name} holds a {type(model).__name__}, which does not diarize; {BUNDLED_DIARIZER} does, for one"
        )
    return model


def say_what_is_logged(verbose: bool) -> None:
    """Messages of the package on stderr: a download's size and licence always, how inputs are read if asked."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("aronnax")
    package.addHandler(handler)
    package.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("aronnax.core.hub").setLevel(logging.INFO)


def _chunk(chunk: str) -> str | float:
    if chunk in ("auto", "full", "local"):
        return chunk
    try:
        return float(chunk)
    except ValueError:
        raise OptionError(f"--chunk {chunk} is not known: use auto, full, local or seconds") from None


def dtype_of(name: str | None) -> Any:
    """The floating-point type of that name, None for the default; OptionError if it is not known."""
    if name is None:
        return None
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise OptionError(f"--dtype {name} is not known: use {', '.join(known)}")
    return known[name]


def stdin() -> Any:
    """What comes on standard input, as one recording."""
    from aronnax.collections.asr.inputs import Source

    return Source("stdin", sys.stdin.buffer.read())
