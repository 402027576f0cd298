"""BESTOW's reader: what it sees, what it leaves alone, and its cached form."""

from __future__ import annotations

import math

import pytest
import torch

from aronnax.collections.speechlm.bestow.reader import Reader, ReaderConfig
from aronnax.collections.speechlm.bestow.waitk import WaitK

DOUBLE = torch.float64


def reader(llm=8, **changes):
    torch.manual_seed(0)
    settings = {"n_heads": 2, "attention_dropout": 0.0, "layer_dropout": 0.0, "ffn_dropout": 0.0, **changes}
    made = Reader(ReaderConfig(**settings), llm).to(DOUBLE).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def inputs(rows, tokens, frames, width=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(rows, tokens, width, dtype=DOUBLE, generator=generator)
    return text, torch.randn(rows, frames, width, dtype=DOUBLE, generator=generator)


def seen_by(k, stride, tokens, frames):
    policy = WaitK(k, stride)
    return torch.tensor([[policy.visible(token, frames) for token in range(tokens)]])


def by_hand(made, text, speech, seen):
    """The reader written out for one row, one position and one head at a time."""

    def norm(layer, x):
        return (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5) * layer.weight + layer.bias

    def attend(part, query, others):
        q, out = part.query_net(query), []
        size = len(q) // part.heads
        for head in range(part.heads):
            piece = slice(head * size, (head + 1) * size)
            keys = [part.key_net(other)[piece] for other in others]
            values = [part.value_net(other)[piece] for other in others]
            scores = torch.stack([q[piece] @ key / math.sqrt(size) for key in keys])
            shares = scores.exp() / scores.exp().sum()
            out.append(sum(share * value for share, value in zip(shares, values)))
        return part.out_projection(torch.cat(out))

    rows = [made.input_proj1(x) for x in text]
    frames = [made.input_proj2(x) for x in speech]
    for layer in made.xattn_decoder.layers:
        normed = [norm(layer.layer_norm_1, x) for x in rows]
        rows = [x + attend(layer.first_sub_layer, normed[u], normed[: u + 1]) for u, x in enumerate(rows)]
        rows = [
            x + attend(layer.second_sub_layer, norm(layer.layer_norm_2, x), frames[: seen[u]])
            for u, x in enumerate(rows)
        ]
        rows = [
            x
            + layer.third_sub_layer.dense_out(
                layer.third_sub_layer.dense_in(norm(layer.layer_norm_3, x)).clamp(min=0)
            )
            for x in rows
        ]
    final = made.xattn_decoder.final_layer_norm
    return torch.stack([made.output_proj(norm(final, x)) + text[u] for u, x in enumerate(rows)])


@pytest.mark.parametrize("changes", [{}, {"width": 12, "inner_size": 20, "n_layers": 1}])
def test_it_is_what_is_written_out_by_hand(changes):
    made, (text, speech) = reader(**changes), inputs(1, 5, 9)
    seen = seen_by(2, 2, 5, 9)
    with torch.no_grad():
        torch.testing.assert_close(made(text, speech, seen)[0], by_hand(made, text[0], speech[0], seen[0]))


def test_a_later_token_changes_nothing_before_it():
    made, (text, speech) = reader(), inputs(1, 6, 7)
    seen = torch.full((1, 6), 7)
    with torch.no_grad():
        whole = made(text, speech, seen)
        for token in range(6):
            changed = text.clone()
            changed[:, token] += 1.0
            difference = (made(changed, speech, seen) - whole).abs().amax(2)[0]
            assert (difference[:token] == 0).all()
            assert difference[token] > 0


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("stride", [2, 4])
def test_frame_j_reaches_token_t_iff_wait_k_lets_it(k, stride):
    tokens, frames = 12, 40
    made, (text, speech) = reader(), inputs(1, tokens, frames)
    seen = seen_by(k, stride, tokens, frames)
    # Row j of the batch hears another frame j.
    changed = speech + torch.eye(frames, dtype=DOUBLE)[:, :, None]
    with torch.no_grad():
        alone = made(text, speech, seen)
        rows = made(text.expand(frames, -1, -1), changed, seen.expand(frames, -1))
    for j in range(frames):
        for t in range(tokens):
            difference = (rows[j, t] - alone[0, t]).abs().max()
            assert (difference > 1e-12) == (j < (k + t) * stride), (j, t)


@pytest.mark.parametrize(("k", "stride", "frames"), [(10, 4, 40), (11, 4, 41), (20, 2, 40)])
def test_waiting_for_all_blocks_is_hearing_it_offline(k, stride, frames):
    made, (text, speech) = reader(), inputs(1, 12, frames)
    with torch.no_grad():
        waited = made(text, speech, seen_by(k, stride, 12, frames))
        offline = made(text, speech, seen_by(None, stride, 12, frames))
    assert torch.equal(waited, offline)


def test_a_position_that_sees_nothing_stays_bit_for_bit():
    made, (text, speech) = reader(), inputs(3, 4, 5)
    text[0, 0, 0] = -0.0
    seen = torch.tensor([[0, 0, 0, 0], [0, 0, 5, 5], [3, 5, 5, 5]])
    speech[0] = math.nan
    with torch.no_grad():
        out = made(text, speech, seen)
    same = out.view(torch.int64) == text.view(torch.int64)
    assert same.all(2).tolist() == [[True] * 4, [True, True, False, False], [False] * 4]


def test_a_ratio_of_nought_is_the_text_bit_for_bit_and_one_is_no_blending():
    made, (text, speech) = reader(), inputs(3, 4, 5)
    seen = torch.full((3, 4), 5)
    with torch.no_grad():
        full = made(text, speech, seen)
        out = made(text, speech, seen, ratio=torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(out[0], text[0])
    torch.testing.assert_close(out[1], full[1])
    torch.testing.assert_close(out[2], 0.25 * full[2] + 0.75 * text[2])


def test_no_speech_at_all_is_the_text():
    made, (text, _) = reader(), inputs(2, 3, 1)
    nothing = text.new_zeros(2, 0, 8)
    assert torch.equal(made(text, nothing, torch.zeros(2, 3, dtype=torch.int64)), text)


def test_a_zero_start_leaves_the_language_model_alone_and_learns():
    torch.manual_seed(0)
    made, (text, speech) = Reader(ReaderConfig(n_heads=2, zero_start=True), 8).double(), inputs(1, 3, 5)
    out = made(text, speech, torch.full((1, 3), 5))
    assert torch.equal(out, text)
    (out * torch.randn_like(out)).sum().backward()
    assert made.output_proj.weight.grad.abs().sum() > 0


def test_padding_does_not_change_a_row():
    made, (text, speech) = reader(), inputs(2, 6, 9)
    seen = torch.full((2, 6), 9)
    seen[1] = 4
    with torch.no_grad():
        together = made(text, speech, seen)
        alone = made(text[1:, :3], speech[1:, :4], seen[1:, :3])
    torch.testing.assert_close(together[1:, :3], alone, atol=1e-12, rtol=0)


def steps(made, text, cache, places):
    return torch.stack([made.step(text[:, place], cache) for place in places], 1)


@pytest.mark.parametrize("changes", [{}, {"width": 12}])
def test_token_by_token_is_the_whole_pass(changes):
    made, (text, speech) = reader(**changes), inputs(3, 8, 9)
    lengths, frames = torch.tensor([3, 1, 2]), torch.tensor([9, 4, 0])
    memory = made.remember(speech, frames)
    prompt, cache = made.prefill(text[:, :3], lengths, frames[:, None].expand(3, 3), memory, 8)
    # Rows of prompts of 3, 1 and 2 tokens go on from where they are.
    rest = torch.stack([text[row, length : length + 5] for row, length in enumerate(lengths)])
    out = steps(made, rest, cache, range(5))
    with torch.no_grad():
        whole = made(text, speech, frames[:, None].expand(3, 8))
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(prompt[row, :length], whole[row, :length], atol=1e-10, rtol=0)
        torch.testing.assert_close(out[row], whole[row, length : length + 5], atol=1e-10, rtol=0)
    assert torch.equal(out[2], rest[2])


def test_wait_k_with_a_memory_that_grows_is_the_masked_pass():
    made, (text, speech) = reader(), inputs(1, 7, 20)
    policy, prompt = WaitK(2, 3), 2
    with torch.no_grad():
        seen = torch.tensor([[policy.visible(max(0, u - prompt + 1), 20) for u in range(7)]])
        whole = made(text, speech, seen)
    first = policy.visible(0, 20)
    memory = made.remember(speech[:, :first], torch.tensor([first]))
    out, cache = made.prefill(text[:, :prompt], torch.tensor([prompt]), seen[:, :prompt], memory, 7)
    pieces = [out]
    for place in range(prompt, 7):
        heard = int(seen[0, place])
        cache.memory = made.remember(speech[:, :heard], torch.tensor([heard]))
        pieces.append(made.step(text[:, place], cache)[:, None])
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-12, rtol=0)


def test_rows_move_with_their_speech():
    made, (text, speech) = reader(), inputs(3, 6, 9)
    two, frames = torch.tensor([2, 2, 2]), torch.tensor([9, 4, 0])
    memory = made.remember(speech, frames)
    _, cache = made.prefill(text[:, :2], two, frames[:, None].expand(3, 2), memory, 6)
    cache.repeat(2)
    doubled = text.repeat_interleave(2, 0)
    doubled[1::2, 2] += 1.0
    steps(made, doubled, cache, [2])
    cache.reorder([1, 0, 2, 3, 5, 4])
    cache.select([2, 0])
    rows = [5, 4, 1, 0]
    out = steps(made, doubled[rows], cache, [3, 4])
    with torch.no_grad():
        whole = made(doubled[rows], speech[[2, 2, 0, 0]], frames[[2, 2, 0, 0], None].expand(4, 6))
    torch.testing.assert_close(out, whole[:, 3:5], atol=1e-10, rtol=0)


def test_going_back_is_exact():
    made, (text, speech) = reader(), inputs(2, 6, 9)
    two, frames = torch.tensor([2, 2]), torch.tensor([9, 4])
    memory = made.remember(speech, frames)
    _, cache = made.prefill(text[:, :2], two, frames[:, None].expand(2, 2), memory, 6)
    mark = cache.snapshot()
    first = steps(made, text, cache, [2, 3])
    cache.rollback(mark)
    assert torch.equal(steps(made, text, cache, [2, 3]), first)


def test_gradients_are_right_under_the_wait_k_mask():
    made, (text, speech) = reader(llm=4, n_layers=2), inputs(1, 3, 5, width=4)
    seen = seen_by(1, 2, 3, 5)
    text.requires_grad_()
    speech.requires_grad_()
    weight = made.xattn_decoder.layers[0].second_sub_layer.key_net.weight
    assert torch.autograd.gradcheck(lambda a, b, _: made(a, b, seen), (text, speech, weight))
