"""The loss of answers is plain cross-entropy, and never holds the scores of all positions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from aronnax.collections.llm.loss import answer_cross_entropy

B, U, D, V = 3, 20, 8, 1000


def case(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, torch.nn.Linear]:
    draws = torch.Generator().manual_seed(0)
    hidden = torch.randn(B, U, D, generator=draws, dtype=dtype, requires_grad=True)
    labels = torch.randint(V, (B, U), generator=draws)
    labels[torch.rand(B, U, generator=draws) < 0.4] = -100
    head = torch.nn.Linear(D, V, dtype=dtype)
    torch.nn.init.normal_(head.weight, generator=draws)
    return hidden, labels, head


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_loss_and_gradients_are_those_of_plain_cross_entropy(reduction: str, chunk: int) -> None:
    hidden, labels, head = case()
    loss, count = answer_cross_entropy(hidden, labels, head, chunk=chunk, reduction=reduction)  # type: ignore[arg-type]
    plain = functional.cross_entropy(head(hidden).flatten(0, 1), labels.flatten(), reduction=reduction)
    assert int(count) == int((labels != -100).sum())
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    inputs = (hidden, head.weight, head.bias)
    for mine, wanted in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(plain, inputs)):
        torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-12)


def test_the_gradient_is_the_derivative() -> None:
    hidden, labels, head = case()
    few = hidden[:, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: answer_cross_entropy(x, labels[:, :3], head, chunk=2)[0], (few,)
    )


def test_a_position_that_is_not_learned_gets_no_gradient_at_all() -> None:
    hidden, labels, head = case()
    (grad,) = torch.autograd.grad(answer_cross_entropy(hidden, labels, head)[0], (hidden,))
    assert (grad[labels == -100] == 0).all()
    assert (grad[labels != -100] != 0).any(-1).all()


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return made


def test_scores_exist_for_one_chunk_at_a_time_forward_and_backward() -> None:
    hidden, labels, head = case()
    with Largest() as seen:
        answer_cross_entropy(hidden, labels, head, chunk=4)[0].backward()
    assert seen.numbers == max(4 * V, head.weight.numel())
    assert seen.numbers < int((labels != -100).sum()) * V < B * U * V


def test_a_batch_without_answers_has_no_loss_and_trains_nothing() -> None:
    hidden, labels, head = case()
    loss, count = answer_cross_entropy(hidden, torch.full_like(labels, -100), head)
    loss.backward()
    assert (loss.item(), int(count)) == (0.0, 0)
    assert hidden.grad is not None
    assert (hidden.grad == 0).all()


def test_half_precision_is_compared_in_single() -> None:
    hidden, labels, head = case(torch.bfloat16)
    loss, _ = answer_cross_entropy(hidden, labels, head)
    assert loss.dtype == torch.float32
