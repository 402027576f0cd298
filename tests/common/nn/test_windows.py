"""In which blocks of queries attention is computed."""

from __future__ import annotations

import torch

from aronnax.collections.common.nn.windows import CPU_QUERIES, MAX_SCORES, Attention, Block, plan_blocks

CPU = torch.device("cpu")


def sizes(blocks: tuple[Block, ...]) -> list[int]:
    return [block.q1 - block.q0 for block in blocks]


@torch.no_grad()
def test_inference_on_a_cpu_takes_queries_in_blocks_of_about_the_same_size() -> None:
    assert sizes(plan_blocks(Attention(), 8, CPU_QUERIES, CPU)) == [CPU_QUERIES]
    assert sizes(plan_blocks(Attention(), 8, 321, CPU)) == [107, 107, 107]
    chunked = plan_blocks(Attention("full", -1, 9, "chunked_limited"), 8, 321, CPU)
    assert sizes(chunked) == [100, 100, 100, 21]
    assert [block.k1 for block in chunked] == [100, 200, 300, 321]


def test_training_takes_all_queries_at_once_until_the_scores_are_too_many() -> None:
    assert sizes(plan_blocks(Attention(), 8, 1000, CPU)) == [1000]
    blocks = plan_blocks(Attention(), 8, 5000, CPU)
    assert sum(sizes(blocks)) == 5000
    assert 8 * max(sizes(blocks)) * 5000 <= MAX_SCORES < 8 * 5000 * 5000
