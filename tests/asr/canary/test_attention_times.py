"""Token times from cross-attention: made-up attention whose truth is known, and a brute-force search."""

import itertools

import pytest
import torch

from aronnax.collections.asr.canary.attention_times import _warped, token_frames


def spiky(starts: list[int], frames: int, width: int = 2) -> torch.Tensor:
    """Attention [U, T] of a head that looks at `width` frames from each start."""
    rows = torch.full((len(starts), frames), 1e-3)
    for row, start in zip(rows, starts):
        row[start : start + width] = 1.0
    return rows / rows.sum(dim=-1, keepdim=True)


def test_tokens_are_found_where_a_following_head_looks():
    starts, frames = [2, 5, 6, 11], 16
    good = spiky(starts, frames)
    stuck = torch.zeros(4, frames)
    stuck[:, 15] = 1.0
    flat = torch.full((4, frames), 1 / frames)
    backwards = spiky(starts[::-1], frames)
    layer = torch.stack([stuck, good, flat, backwards])[None]
    ((found, durations),) = token_frames([layer], torch.tensor([4]), torch.tensor([frames]))
    assert found == starts
    assert durations == [2, 2, 2, 2]


def test_a_row_does_not_depend_on_its_batch():
    generator = torch.Generator().manual_seed(1)
    lengths, frames = [3, 7, 1], [9, 20, 4]
    heads = torch.rand(3, 4, 7, 20, generator=generator)
    together = token_frames([heads[:, :2], heads[:, 2:]], torch.tensor(lengths), torch.tensor(frames))
    for row, (u, t) in enumerate(zip(lengths, frames)):
        alone = heads[row : row + 1, :, :u, :t]
        single = token_frames([alone[:, :2], alone[:, 2:]], torch.tensor([u]), torch.tensor([t]))
        assert together[row] == single[0]
        starts, durations = single[0]
        assert starts == sorted(starts)
        assert all(start + lasting <= t for start, lasting in zip(starts, durations))


def paths(tokens: int, frames: int):
    """All rising paths from (0, 0) to the last token and frame."""
    steps = [(0, 1), (1, 0), (1, 1)]

    def grow(path):
        u, t = path[-1]
        if (u, t) == (tokens - 1, frames - 1):
            yield path
            return
        for du, dt in steps:
            if u + du < tokens and t + dt < frames:
                yield from grow([*path, (u + du, t + dt)])

    yield from grow([(0, 0)])


@pytest.mark.parametrize(("tokens", "frames"), itertools.product([1, 3, 4], [1, 4, 5]))
def test_the_path_is_the_cheapest_of_all(tokens, frames):
    cost = torch.rand(1, tokens, frames, generator=torch.Generator().manual_seed(tokens * 10 + frames))
    first, last = _warped(cost, torch.tensor([tokens]), torch.tensor([frames]))
    best = min(paths(tokens, frames), key=lambda path: sum(float(cost[0, u, t]) for u, t in path))
    for u in range(tokens):
        inside = [t for v, t in best if v == u]
        assert (int(first[0, u]), int(last[0, u])) == (inside[0], inside[-1])


def test_no_tokens_have_no_times():
    assert (
        token_frames([torch.rand(2, 3, 0, 5)], torch.tensor([0, 0]), torch.tensor([5, 5])) == [([], [])] * 2
    )
