"""The wait-k policy: what may be seen, when it is written."""

from __future__ import annotations

import pytest
import torch

from aronnax.collections.speechlm.bestow.waitk import EVERYTHING, WaitK, visibility, visible_frames
from aronnax.core.errors import OptionError


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("stride", [2, 4])
def test_token_t_sees_frame_j_iff_it_lies_in_the_first_k_plus_t_blocks(k, stride):
    mask = visibility(k, stride, tokens=12, frames=40)
    for token in range(12):
        for frame in range(40):
            assert bool(mask[token, frame]) == (frame < (k + token) * stride)


def test_waiting_for_all_sees_all():
    assert visibility(None, 4, 3, 10).all()
    assert WaitK().visible(0, 10) == 10
    assert WaitK().delays(2, 10) == [10, 10]


def test_as_many_blocks_as_there_are_is_waiting_for_all():
    assert visibility(3, 4, 5, 10).all()
    assert not visibility(2, 4, 5, 10).all()


def test_delays_are_those_of_nemos_formula_and_never_beyond_the_end():
    assert WaitK(k=2, stride=3, right=1).delays(5, 14) == [7, 10, 13, 14, 14]


def test_rows_of_a_batch_may_wait_differently():
    k = torch.tensor([1, EVERYTHING])
    tokens = torch.tensor([[0, 0, 1, 2], [0, 0, 1, 2]])
    frames = torch.tensor([[5, 5, 5, 5], [7, 7, 7, 7]])
    assert visible_frames(k, 2, tokens, frames).tolist() == [[2, 2, 4, 5], [7, 7, 7, 7]]


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 1.5}, {"k": True}, {"stride": 0}, {"right": -1}])
def test_a_policy_that_makes_no_sense_is_refused_by_name(wrong):
    with pytest.raises(OptionError, match=f"wait-k: {next(iter(wrong))} is"):
        WaitK(**wrong)
