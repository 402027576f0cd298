"""The speaker kernel: its numbers, what it adds, and how frames are matched."""

import math

import pytest
import torch

from aronnax.collections.diarization.multispeaker.kernel import (
    KernelConfig,
    SpeakerKernel,
    aligned,
    speaker_kernel,
)
from aronnax.core.errors import ConfigError, OptionError


def formula(speaker, column, width):
    """The kernel's value from its definition, in Python's own double precision."""
    angle = speaker / 10000 ** (2 * (column // 2) / width)
    return math.sin(angle) if column % 2 == 0 else math.cos(angle)


@pytest.mark.parametrize(("speakers", "width"), [(1, 2), (2, 96), (4, 512), (8, 1024)])
def test_the_kernel_is_that_of_the_formula(speakers, width):
    expected = torch.tensor(
        [[formula(speaker, column, width) for column in range(width)] for speaker in range(speakers)],
        dtype=torch.float64,
    )
    assert torch.equal(speaker_kernel(speakers, width), expected.float())


def test_an_odd_width_is_refused():
    with pytest.raises(ConfigError, match="even width, and these have 5"):
        speaker_kernel(2, 5)


def kernel(**options):
    return SpeakerKernel(KernelConfig(**options), 3, 8)


def test_one_speaker_adds_their_own_row_and_silence_nothing():
    states = torch.randn(1, 4, 8)
    activity = torch.zeros(1, 4, 3)
    activity[0, 0, 2] = 1.0
    found = kernel()(states, activity)
    assert torch.equal(found[0, 0], states[0, 0] + speaker_kernel(3, 8)[2])
    assert torch.equal(found[0, 1:], states[0, 1:])


def test_swapped_speakers_differ_by_their_rows_alone():
    states, activity = torch.randn(2, 5, 8), torch.rand(2, 5, 3)
    difference = kernel()(states, activity) - kernel()(states, activity[:, :, [1, 0, 2]])
    table = speaker_kernel(3, 8)
    expected = (activity[:, :, :1] - activity[:, :, 1:2]) * (table[0] - table[1])
    torch.testing.assert_close(difference, expected, atol=1e-5, rtol=0)


def test_l2_brings_both_to_unit_length_and_leaves_zeros():
    states, activity = 5 * torch.randn(1, 4, 8), torch.rand(1, 4, 3)
    activity[0, 3] = 0.0
    found = kernel(normalise="l2", normalise_product=True)(states, activity)
    unit = states / states.norm(dim=-1, keepdim=True)
    said = activity / activity.norm(dim=-1, keepdim=True).clamp(min=1e-12) @ speaker_kernel(3, 8)
    said = said / said.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    torch.testing.assert_close(found, unit + said)
    torch.testing.assert_close(found[0, 3], unit[0, 3])


def test_the_kernel_is_not_stored():
    assert kernel().state_dict() == {}


def test_a_frame_too_few_is_repeated_and_one_too_many_is_cut():
    activity = torch.tensor([[[0.1], [0.2], [0.3]], [[0.4], [0.5], [0.0]]])
    longer = aligned(activity, torch.tensor([3, 2]), 4, torch.tensor([4, 3]))
    torch.testing.assert_close(longer[:, :, 0], torch.tensor([[0.1, 0.2, 0.3, 0.3], [0.4, 0.5, 0.5, 0.0]]))
    shorter = aligned(activity, torch.tensor([3, 2]), 2, torch.tensor([2, 1]))
    torch.testing.assert_close(shorter[:, :, 0], torch.tensor([[0.1, 0.2], [0.4, 0.0]]))


def test_a_row_without_frames_has_no_speakers():
    found = aligned(torch.ones(2, 3, 1), torch.tensor([0, 3]), 3, torch.tensor([1, 3]))
    assert found[:, :, 0].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert not aligned(torch.zeros(1, 0, 2), torch.tensor([0]), 1, torch.tensor([1])).any()


def test_another_frame_rate_is_refused():
    with pytest.raises(OptionError, match="has 50 frames where the encoder has 100"):
        aligned(torch.zeros(1, 50, 2), torch.tensor([50]), 100, torch.tensor([100]))
