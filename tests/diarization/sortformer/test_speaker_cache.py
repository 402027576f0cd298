from __future__ import annotations

import math

import torch

from aronnax.collections.diarization.sortformer.config import SpeakerCacheConfig
from aronnax.collections.diarization.sortformer.speaker_cache import compress, packed, window

CONFIG = SpeakerCacheConfig()


def case(seed: int, frames: int = 300, speakers: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(2, frames, speakers, generator=generator) ** 3
    return (
        torch.randn(2, frames, 6, generator=generator),
        probabilities,
        torch.randn(2, 6, generator=generator),
    )


def by_hand(probabilities: torch.Tensor, places: int) -> list[int]:
    """The six steps written out for one row, with plain lists."""
    frames, speakers = probabilities.shape
    share = places // speakers - 3
    log = [[math.log(max(p, 0.25)) for p in row] for row in probabilities.tolist()]
    quiet = [[math.log(max(1 - p, 0.25)) for p in row] for row in probabilities.tolist()]
    table = []
    for speaker in range(speakers):
        scores = [log[t][speaker] - quiet[t][speaker] + sum(quiet[t]) + math.log(2) for t in range(frames)]
        speaking = [probabilities[t, speaker] > 0.5 for t in range(frames)]
        alone = sum(s > 0 and on for s, on in zip(scores, speaking))
        scores = [s if on else -math.inf for s, on in zip(scores, speaking)]
        if alone >= math.floor(share * 0.5):
            scores = [s if s > 0 else -math.inf for s in scores]
        scores = [s + 0.05 if t >= places else s for t, s in enumerate(scores)]
        for count, gain in ((math.floor(share * 0.75), 2), (math.floor(share * 1.5), 1)):
            for t in sorted(range(frames), key=lambda t: -scores[t])[:count]:
                scores[t] += gain * math.log(2)
        table += [(s, speaker, t) for t, s in enumerate(scores)]
        table += [(math.inf, speaker, frames + slot) for slot in range(3)]
    best = sorted(table, key=lambda item: -item[0])[:places]
    kept = sorted((speaker, t) for score, speaker, t in best if score > -math.inf)
    indices = [t if t < frames else -1 for _, t in kept]
    return indices + [-1] * (places - len(indices))


def test_the_frames_kept_are_those_of_the_six_steps_done_by_hand() -> None:
    for seed in range(10):
        frames, probabilities, silence = case(seed)
        found = compress(frames, probabilities, silence, 188, CONFIG)
        for row in range(2):
            assert found.indices[row].tolist() == by_hand(probabilities[row], 188)
            for place, index in enumerate(found.indices[row].tolist()):
                wanted = silence[row] if index < 0 else frames[row, index]
                assert torch.equal(found.frames[row, place], wanted)
                assert index >= 0 or not found.probabilities[row, place].any()


def test_frames_lie_by_speaker_and_then_by_time() -> None:
    frames, _, silence = case(0)
    probabilities = torch.full((2, 300, 4), 0.01)
    for speaker in range(4):
        probabilities[:, 70 * speaker : 70 * speaker + 60, speaker] = 0.95
    found = compress(frames, probabilities, silence, 188, CONFIG)
    groups = [[i for i in found.indices[0].tolist() if 70 * k <= i < 70 * k + 60] for k in range(4)]
    assert [i for i in found.indices[0].tolist() if i >= 0] == [i for group in groups for i in group]
    assert all(group == sorted(group) and len(group) >= 33 for group in groups)
    assert found.indices[0].tolist().count(-1) == 12


def test_in_training_the_speakers_heard_so_far_are_shuffled_and_the_others_stay() -> None:
    torch.manual_seed(0)
    frames, _, silence = case(0)
    probabilities = torch.full((2, 300, 4), 0.01)
    probabilities[:, :100, 0] = probabilities[:, 100:200, 1] = probabilities[:, 200:, 2] = 0.95
    orders = {
        tuple(compress(frames, probabilities, silence, 188, CONFIG, training=True).order[0].tolist())
        for _ in range(60)
    }
    assert len(orders) == 6
    assert {order[3] for order in orders} == {3}


def test_padding_behind_a_row_changes_nothing() -> None:
    frames, probabilities, silence = case(3)
    short = compress(frames, probabilities, silence, 188, CONFIG)
    longer = compress(
        torch.cat([frames, torch.ones(2, 40, 6)], 1),
        torch.cat([probabilities, torch.zeros(2, 40, 4)], 1),
        silence,
        188,
        CONFIG,
    )
    assert torch.equal(short.indices, longer.indices)


def test_packing_puts_the_valid_frames_of_each_row_behind_each_other() -> None:
    a, b = torch.arange(1, 7.0).view(2, 3, 1), torch.arange(11, 15.0).view(2, 2, 1)
    found = packed([a, b], [torch.tensor([2, 0]), torch.tensor([1, 2])], 4)
    assert found[..., 0].tolist() == [[1, 2, 11, 0], [13, 14, 0, 0]]
    cut = window(a, torch.tensor([1, 0]), torch.tensor([2, 1]), 3)
    assert cut[..., 0].tolist() == [[2, 3, 0], [4, 0, 0]]
