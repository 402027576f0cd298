"""`aronnax diarize`: who speaks when, in recordings or live."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from aronnax.cli.commands import Argument, Option, given
from aronnax.cli.delivery import Files, Printed, check_formats, deliver_all
from aronnax.cli.hearing import default_diarizer, load_diarizer, say_what_is_logged, stdin
from aronnax.core.errors import AronnaxError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.asr.inputs import Source
    from aronnax.collections.common.results import Diarization
    from aronnax.collections.diarization.diarizing import Result
    from aronnax.collections.diarization.sortformer.model import SortformerModel

FORMATS = ("rttm", "json", "png")


def diarize(
    inputs: Annotated[
        list[str] | None,
        Argument(help="Recordings, folders, NeMo manifests (.json, .jsonl), or - for stdin."),
    ] = None,
    model: Annotated[
        str | None,
        Option(
            "--model",
            "-m",
            help="Bundled name, folder, .nemo file or hub id; the bundled diarizer, or else "
            "nvidia/diar_streaming_sortformer_4spk-v2, by default.",
        ),
    ] = None,
    formats: Annotated[
        list[str] | None, Option("--format", "-f", help="rttm, json or png; may be repeated.")
    ] = None,
    out: Annotated[Path | None, Option("--out", "-o", help="Folder for the files.")] = None,
    latency: Annotated[
        str | None,
        Option(
            help="offline, or 0.32, 1.04, 10.0 or 30.4 seconds; by default short recordings are heard at once."
        ),
    ] = None,
    preset: Annotated[
        str | None, Option(help="Published post-processing: dihard3 or callhome (-v1, -v2), or none.")
    ] = None,
    onset: Annotated[float | None, Option(help="A turn begins above this probability.")] = None,
    offset: Annotated[float | None, Option(help="It ends below this one.")] = None,
    pad_onset: Annotated[float | None, Option(help="Seconds put before each turn.")] = None,
    pad_offset: Annotated[float | None, Option(help="Seconds put behind each turn.")] = None,
    min_duration_on: Annotated[float | None, Option(help="Shorter turns are dropped.")] = None,
    min_duration_off: Annotated[float | None, Option(help="Shorter pauses are filled.")] = None,
    speakers: Annotated[
        int | None, Option(help="How many to expect, where that is known.", python="num_speakers")
    ] = None,
    channels: Annotated[
        str, Option(help="mix, or apart where each channel has speakers of its own.")
    ] = "mix",
    batch_size: Annotated[int, Option(help="Short recordings heard together.")] = 4,
    probabilities: Annotated[bool, Option(help="Put those of every frame into json.")] = False,
    live: Annotated[
        bool, Option(help="Print turns as they end, of a microphone or, with -, of standard input.")
    ] = False,
    rate: Annotated[
        int | None, Option(help="With --live -: samples a second of raw audio; the model's by default.")
    ] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, ...; the best there is by default.")] = None,
    weights: Annotated[str | None, Option(help="int16 or int8: whole-number weights on the CPU.")] = None,
    verbose: Annotated[bool, Option("--verbose", "-v", help="Say what is loaded from where.")] = False,
) -> None:
    """Find who speaks when.

    With --out every input gives OUT/<stem>.<format>, written as soon as it is done; inputs that share a stem keep
    their extension, <stem>.<ext>.<format>, and then count. Without --out RTTM or JSON is printed. `png` draws the
    speakers over the waveform. An input that cannot be read is reported and the others go on: exit status 1. Ctrl-C
    keeps what is done: exit status 130.

    --live listens to the microphone, or with `-` to standard input: a wav stream, or raw 16-bit little-endian samples
    of one channel at --rate. Each turn is printed when it is over, as RTTM or a line of JSON.
    """
    say_what_is_logged(verbose)
    if rate is not None and not live:
        raise OptionError("--rate is for --live: recordings say their own")
    wanted = check_formats(formats, FORMATS, out)
    if probabilities and (live or "json" not in wanted):
        raise OptionError(
            "--probabilities go into the JSON of whole recordings: give --format json, without --live"
        )
    whole = {"channels": channels, "speakers": speakers, "out": out}
    if live and (given(diarize, whole) or "png" in wanted or latency == "offline"):
        raise OptionError(
            "--live prints rttm or json as turns end: --out, --format png, --latency offline, --channels and"
            " --speakers need whole recordings"
        )
    if not live and not inputs:
        raise OptionError(
            "nothing to diarize: name recordings, or - for stdin; --live listens to a microphone"
        )
    loaded = load_diarizer(model or default_diarizer(), device, weights)
    replaced = {
        "onset": onset,
        "offset": offset,
        "pad_onset": pad_onset,
        "pad_offset": pad_offset,
        "min_duration_on": min_duration_on,
        "min_duration_off": min_duration_off,
    }
    turns = {"preset": preset, "replaced": replaced}
    if live:
        from aronnax.cli.live import Live, listen

        raise SystemExit(listen(loaded, inputs, Live(_latency(latency), wanted[0], rate), turns))
    told = {
        "latency": _latency(latency),
        "batch_size": batch_size,
        "channels": channels,
        "num_speakers": speakers,
    }
    raise SystemExit(_diarize(loaded, inputs or [], told | turns, wanted, out, probabilities))


def _diarize(
    model: SortformerModel,
    inputs: list[str],
    told: Mapping[str, Any],
    formats: list[str],
    out: Path | None,
    probabilities: bool,
) -> int:
    from aronnax.collections.asr.inputs import sources
    from aronnax.collections.diarization.diarizing import Options, diarize_iter

    options = Options.checked(model, **told)
    if "png" in formats:
        from aronnax.collections.diarization.picture import check_drawing

        check_drawing()
        if out is None:
            raise OptionError("a png cannot be printed: give --out FOLDER")
    found = list(sources([stdin() if name == "-" else name for name in inputs]))
    names = [None if isinstance(source, AronnaxError) else source.name for source in found]

    def results(progress: Callable[[float], None]) -> Generator[Result, None, None]:
        yield from diarize_iter(model, found, replace(options, progress=progress))

    def value(result: Result) -> tuple[Diarization | None, Any]:
        return result.diarization, found[result.index]

    render = partial(_rendered, model.sample_rate, probabilities)
    delivery = Files(names, formats, render, out) if out else Printed(names, formats[0], render, gap="")
    return deliver_all(results, value, delivery, "diarizations")


def _rendered(
    sample_rate: int, probabilities: bool, value: tuple[Diarization, Source], file_format: str, one_line: bool
) -> bytes:
    diarization, source = value
    if file_format == "rttm":
        return diarization.to_rttm().encode()
    if file_format == "json":
        plain: dict[str, Any] = diarization.to_dict(probabilities=probabilities)
        return (json.dumps(plain, ensure_ascii=False, indent=None if one_line else 2) + "\n").encode()
    from aronnax.collections.diarization.picture import draw

    audio = source.open(sample_rate)
    try:
        return draw(diarization, audio)
    finally:
        audio.close()


def _latency(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
