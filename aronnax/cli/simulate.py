"""`aronnax simulate MANIFEST --out DIR`: sessions of several speakers out of recordings of single ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from aronnax.cli.commands import Argument, Option
from aronnax.cli.terminal import bar
from aronnax.core.errors import MissingExtraError, OptionError
from aronnax.core.files import replaced_file

RECORD = "simulation.json"


def simulate(
    manifest: Annotated[
        Path, Argument(help="Recordings of one speaker each: NeMo manifest with `speaker`, or Lhotse cuts.")
    ],
    out: Annotated[Path, Option(help="Folder for audio/, rttm/, cuts.jsonl.gz and manifest.jsonl.")],
    sessions: Annotated[int, Option(help="How many.")] = 100,
    speakers: Annotated[str, Option(help="Numbers of speakers that sessions have, such as 2,3,4.")] = "2,3,4",
    seconds: Annotated[float, Option(help="Length of a session.")] = 90.0,
    silence: Annotated[float, Option(help="Mean share of a session in which nobody speaks.")] = 0.15,
    overlap: Annotated[float, Option(help="Mean share of the speech in which two or more speak.")] = 0.12,
    turn: Annotated[float, Option(help="Mean seconds of a turn.")] = 3.0,
    gain: Annotated[float, Option(help="Speakers are up to so many dB louder or softer.")] = 6.0,
    speeds: Annotated[str, Option(help="Speeds to draw each speaker's from, pitch with it.")] = "1",
    rooms: Annotated[
        Path | None, Option(help="Manifest of room responses; half of the sessions get one.")
    ] = None,
    noise: Annotated[
        str | None, Option(help="Manifest of noises, or `generated`; half of the sessions get one.")
    ] = None,
    whole: Annotated[
        bool, Option(help="Turns are whole recordings with their texts, not parts of them.")
    ] = False,
    rate: Annotated[int, Option(help="Samples a second.")] = 16000,
    seed: Annotated[int, Option(help="Another one gives other sessions.")] = 0,
) -> None:
    """Make sessions of several speakers, with labels exact to the sample, out of recordings of single ones.

    Writes FLAC and RTTM for each session, all of them as Lhotse cuts with a supervision a turn (`cuts.jsonl.gz`), and
    a manifest whose lines name both files. The same command on the same folder goes on where it was stopped.
    """
    try:
        from lhotse import CutSet

        from aronnax.collections.common.audio.perturb import PerturbConfig, perturb_cuts
        from aronnax.collections.common.data.manifest import write_manifest
        from aronnax.collections.diarization.simulation.config import SimulationConfig
        from aronnax.collections.diarization.simulation.sessions import write_sessions
        from aronnax.collections.diarization.training import simulated
    except ImportError as error:
        raise MissingExtraError(error.name or "lhotse", "train", "aronnax simulate") from None
    if sessions < 1:
        raise OptionError(f"--sessions {sessions} must be at least 1")
    config = SimulationConfig(
        seconds=seconds,
        speakers=tuple(int(one) for one in _numbers("--speakers", speakers)),
        silence=silence,
        overlap=overlap,
        turn_seconds=turn,
        gain_db=(-gain, gain),
        speeds=_numbers("--speeds", speeds),
        rooms=None if rooms is None else str(rooms),
        whole_utterances=whole,
    )
    _check_same(
        out, {"manifest": str(manifest), "noise": noise, "rate": rate, "seed": seed, **asdict(config)}
    )
    made = CutSet(simulated(config, str(manifest), rate, seed, sessions))
    if noise is not None:
        made = perturb_cuts(made, PerturbConfig(noise=noise), seed)
    with bar(sessions * seconds, "{l_bar}{bar:30}| {n:.0f} of {total:.0f} s, {remaining} left") as shown:
        cuts = list(write_sessions(made, out, None if shown is None else shown.update))
    write_manifest(
        out / "manifest.jsonl",
        (
            {
                "audio_filepath": f"audio/{cut.id}.flac",
                "rttm_filepath": f"rttm/{cut.id}.rttm",
                "duration": cut.duration,
                "num_speakers": len({turn.speaker for turn in cut.supervisions}),
            }
            for cut in cuts
        ),
    )
    hours = sum(cut.duration for cut in cuts) / 3600
    print(f"{out}: {len(cuts)} sessions, {hours:.2f} h; train with data.train={out / 'cuts.jsonl.gz'}")


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(one) for one in text.split(","))
    except ValueError:
        raise OptionError(f"{option} {text!r} must be numbers with commas between them") from None


def _check_same(folder: Path, settings: dict[str, object]) -> None:
    """OptionError when the folder holds sessions of other settings, which must not be mixed with these."""
    record, text = folder / RECORD, json.dumps(settings, indent=1) + "\n"
    if record.is_file() and record.read_text("utf-8") != text:
        raise OptionError(
            f"{folder} holds sessions made with other options (see {record}): choose another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with replaced_file(record) as file:
        file.write(text.encode())
