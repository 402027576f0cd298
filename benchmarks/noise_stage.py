"""What the noise stage changes: characters a minute on recordings without speech, and word errors on clean speech.

    ARONNAX_DATA=/path/to/data python benchmarks/noise_stage.py runs/noise_stage

Trains `examples/asr/canary_small.yaml` on the spoken digits of FSDD (English, and German by prompt), then
`examples/asr/canary_noise_stage.yaml`, whose sounds are all generated. It is judged on real ones that no training has
heard: field noises and musical instruments.

No run of it is kept in `results`. What such a stage did to a larger model, digits-canary, is told and measured in
`docs/digits_canary.md`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from aronnax.collections.asr.evaluation import evaluate
from aronnax.collections.asr.training import load_config, train
from aronnax.collections.common.data.manifest import write_manifest
from aronnax.core.loading import load

RESULTS = Path(__file__).parent / "results" / "noise_stage.json"
EXAMPLES = Path(__file__).parents[1] / "examples" / "asr"
GERMAN = dict(
    zip(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
        ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"],
    )
)
# FSDD is recorded at 8 kHz.
FRONT = ["model.preprocessor={sample_rate: 8000, n_mels: 64, n_fft: 256}", "trainer.loggers=[csv]"]


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def prepare(data: Path, out: Path) -> None:
    """train.jsonl, test.jsonl and noise.jsonl below `out`."""
    parts: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    for line in read(data / "fsdd" / "manifest.jsonl"):
        common = {
            "audio_filepath": str(data / "fsdd" / str(line["audio_filepath"])),
            "duration": line["duration"],
            "source_lang": "en",
        }
        part = parts["test" if line["split"] == "test" else "train"]
        part.append({**common, "target_lang": "en", "text": line["text"]})
        part.append({**common, "target_lang": "de", "text": GERMAN[str(line["text"])]})
    for name, lines in parts.items():
        write_manifest(out / f"{name}.jsonl", lines)
    quiet = [
        ("rir_noise", line) for line in read(data / "rir_noise" / "manifest.jsonl") if line["kind"] != "rir"
    ]
    quiet += [
        ("instrument_sounds", line) for line in read(data / "instrument_sounds" / "manifest.jsonl")[::3]
    ]
    write_manifest(
        out / "noise.jsonl",
        [
            {
                "audio_filepath": str(data / folder / str(line["audio_filepath"])),
                "duration": line["duration"],
                "source_lang": "en",
                "target_lang": target,
                "text": "",
                "nonspeech": True,
            }
            for folder, line in quiet
            for target in ("en", "de")
        ],
    )


def measure(folder: Path, out: Path) -> dict[str, float]:
    model = load(str(folder), device="cpu")
    clean, noise = (evaluate(model, out / f"{name}.jsonl", batch_size=16) for name in ("test", "noise"))
    return {
        "clean_wer": clean.score.wer,
        "characters_per_minute": noise.parts.non_speech.rate,
        "silent_share": noise.parts.non_speech.silent / noise.parts.non_speech.recordings,
        "noise_minutes": noise.parts.non_speech.seconds / 60,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--noise-steps", type=int, default=300)
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    prepare(Path(os.environ["ARONNAX_DATA"]).resolve(), out)
    common = [f"data.train={out}/train.jsonl", f"data.validation={out}/test.jsonl", "data.num_workers=1"]
    steps = [f"trainer.max_steps={options.steps}", f"trainer.val_every={options.steps}"]
    first = train(
        load_config(EXAMPLES / "canary_small.yaml", [*common, *FRONT, *steps, f"output={out}/first"])
    ).folder
    before = measure(first, out)
    print("before the noise stage:", before, flush=True)
    steps = [f"trainer.max_steps={options.noise_steps}", f"trainer.val_every={options.noise_steps}"]
    stage = ["trainer.loggers=[csv]", f"init_from={first}", f"output={out}/second", "trainer.accelerator=cpu"]
    second = train(load_config(EXAMPLES / "canary_noise_stage.yaml", [*common, *steps, *stage])).folder
    after = measure(second, out)
    result = {"steps": options.steps, "noise_steps": options.noise_steps, "before": before, "after": after}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
