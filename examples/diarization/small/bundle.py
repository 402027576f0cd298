"""Finish a trained diarizer: choose the threshold on ten speakers kept aside, and write the folder that is bundled.

python examples/diarization/small/bundle.py runs/diarizer-small/model aronnax/bundled/diarizer-small voices=DIR

With a few hundred hours less training than the published models, the network is often unsure which of two voices it
hears, and gives both less than one half. The threshold at which fewest speaker frames are wrong is looked for on
sessions of speakers that are neither trained on nor tested on, and folded into the bias of the last layer, so that
one half is right again for whoever uses the model.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

import torch
from sessions import CLEAN, session
from voices import CALIBRATION_CLIPS, RATE, Surroundings, read_speakers, split

import aronnax
from aronnax.collections.diarization.simulation.config import SimulationConfig
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.collections.diarization.sortformer.task import FrameCounts, count_frames

SESSIONS = 60
THRESHOLDS = (0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15)


@torch.inference_mode()
def best_threshold(model: SortformerModel, folder: str) -> float:
    """The threshold of the fewest errors, speakers in the order of arrival."""
    _, clips, _ = split(read_speakers(folder))
    config = SimulationConfig(seconds=30.0, speakers=(2, 3, 4), room_probability=0.0)
    counts = {threshold: FrameCounts() for threshold in THRESHOLDS}
    for number in range(SESSIONS):
        rng = random.Random(f"calibration {number}")
        made = session(clips[:CALIBRATION_CLIPS], Surroundings(), config, CLEAN, rng, model.max_speakers)
        signal = torch.from_numpy(made.signal)[None]
        heard = model(signal, torch.tensor([signal.shape[1]]))
        labels = torch.from_numpy(made.labels)[None]
        for threshold in THRESHOLDS:
            found = (heard.probabilities >= threshold).float()
            counts[threshold] += count_frames(found, labels, heard.lengths)
    for threshold, count in counts.items():
        scores = count.metrics()
        print(
            f"threshold {threshold:.2f}: DER {100 * scores['der_best']:.1f} %, in order {100 * scores['der']:.1f} %"
        )
    return min(THRESHOLDS, key=lambda threshold: counts[threshold].metrics()["der"])


def main() -> None:
    """Calibrate, and write the folder with its card."""
    source, target, *pairs = sys.argv[1:]
    options = dict(pair.split("=", 1) for pair in pairs)
    model = aronnax.load(source, device="cpu")
    assert isinstance(model, SortformerModel)
    assert model.sample_rate == RATE
    threshold = best_threshold(model, options["voices"])
    with torch.no_grad():
        model.sortformer_modules.single_hidden_to_spks.bias -= math.log(threshold / (1 - threshold))
    card = Path(__file__).with_name("card.md")
    model.save_pretrained(
        target, card=card.read_text("utf-8") if card.is_file() else None, dtype=torch.float16
    )
    print(f"{target}: threshold {threshold:.2f} folded into the head")


if __name__ == "__main__":
    if len(sys.argv) < 3 or "--help" in sys.argv:
        print(__doc__)
    else:
        main()
