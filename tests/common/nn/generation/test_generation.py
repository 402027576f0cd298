"""The decoding engine over a small random Canary decoder: token for token, however the work is arranged."""

from __future__ import annotations

import math

import pytest
import torch

from aronnax.collections.asr.canary.decoder import (
    TokenClassifier,
    TransformerDecoder,
    TransformerDecoderConfig,
)
from aronnax.collections.asr.canary.stepping import Stepper
from aronnax.collections.common.nn.generation import GenerationOptions, generate, generate_stream
from aronnax.collections.common.nn.generation.beam import beam_search
from aronnax.collections.common.nn.generation.stopping import Stopping, pack, rooms
from aronnax.core.errors import OptionError

VOCABULARY, WIDTH, LONGEST, EOS = 50, 16, 40, 3
CASES, ROWS = 50, 4
"""Random batches of so many ragged rows: 200 inputs."""


@pytest.fixture(scope="module")
def stepper():
    torch.manual_seed(1)
    config = TransformerDecoderConfig(
        hidden_size=WIDTH, inner_size=32, n_layers=2, n_heads=4, max_sequence_length=LONGEST
    )
    decoder, head = TransformerDecoder(config, VOCABULARY), TokenClassifier(WIDTH, VOCABULARY)
    with torch.no_grad():
        for name, parameter in [*decoder.named_parameters(), *head.named_parameters()]:
            parameter.normal_(float("norm" in name and name.endswith("weight")), 0.4)
        head.mlp.layer0.bias[EOS] += 2.5
    return Stepper(decoder.eval(), head.eval())


def batches(number=CASES):
    for seed in range(number):
        draw = torch.Generator().manual_seed(seed)
        frames = torch.randint(1, 12, (ROWS,), generator=draw)
        lengths = torch.randint(1, 6, (ROWS,), generator=draw)
        states = torch.randn(ROWS, int(frames.max()), WIDTH, generator=draw)
        prompts = torch.randint(4, VOCABULARY, (ROWS, int(lengths.max())), generator=draw)
        limits = lengths + torch.randint(0, 25, (ROWS,), generator=draw)
        yield states, frames, prompts, lengths, limits


def run(stepper, batch, options=None, **more):
    states, frames, prompts, lengths, limits = batch
    return generate(
        stepper.bind(states, frames), prompts, lengths, eos=EOS, limits=limits, options=options, **more
    )


def row_of(batch, row):
    states, frames, prompts, lengths, limits = batch
    return (
        states[row : row + 1, : int(frames[row])],
        frames[row : row + 1],
        prompts[row : row + 1, : int(lengths[row])],
        lengths[row : row + 1],
        limits[row : row + 1],
    )


def tokens(answers):
    return [[one.tokens for one in row] for row in answers]


@torch.no_grad()
def without_cache(stepper, batch):
    """The answer of every row by whole forward passes."""
    found = []
    for row in range(ROWS):
        states, frames, prompt, _, limits = row_of(batch, row)
        said = prompt[0].tolist()
        while len(said) < int(limits):
            scores = stepper.head(stepper.decoder(torch.tensor([said]), states, frames))[0, -1]
            token = int(scores.argmax())
            if token == EOS:
                break
            said.append(token)
        found.append([said[prompt.shape[1] :]])
    return found


def test_cached_decoding_equals_uncached(stepper):
    answers = [tokens(run(stepper, batch)) for batch in batches()]
    assert answers == [without_cache(stepper, batch) for batch in batches()]
    lengths = [len(row[0]) for answer in answers for row in answer]
    assert len(lengths) == 200
    assert min(lengths) == 0
    assert max(lengths) > 10


def test_fixed_sizes_give_the_tokens_of_exact_ones(stepper):
    options = [None, GenerationOptions(beam=3, n_best=2)]
    exact = [tokens(run(stepper, batch, o)) for batch in batches() for o in options]
    fixed = Stepper(stepper.decoder, stepper.head)
    fixed.static = True
    assert [tokens(run(fixed, batch, o)) for batch in batches() for o in options] == exact


@pytest.mark.parametrize(
    "options",
    [
        GenerationOptions(),
        GenerationOptions(beam=3, n_best=3),
        GenerationOptions(temperature=0.8, seed=7, n_best=2),
    ],
    ids=["greedy", "beam", "sampling"],
)
def test_a_row_decodes_alone_as_in_its_batch(stepper, options):
    for batch in batches():
        together = tokens(run(stepper, batch, options))
        alone = [tokens(run(stepper, row_of(batch, row), options))[0] for row in range(ROWS)]
        assert together == alone


@pytest.mark.parametrize("beam", [1, 3])
def test_rows_that_leave_the_batch_change_nothing(stepper, beam):
    options = GenerationOptions(beam=beam)
    for batch in batches():
        kept = run(stepper, batch, options, compact=False)
        assert tokens(run(stepper, batch, options)) == tokens(kept)


def test_a_beam_of_one_is_greedy_decoding(stepper):
    options = GenerationOptions()
    for batch in batches():
        states, frames, prompts, lengths, limits = batch
        room = rooms(lengths, limits, options)
        bound = stepper.bind(states, frames)
        beams = beam_search(bound, prompts, lengths, room, options, Stopping(EOS, None, (), ()), True)
        greedy = run(stepper, batch)
        assert tokens(beams) == tokens(greedy)
        for one, other in zip(beams, greedy):
            assert one[0].finished == other[0].finished
            assert one[0].score == pytest.approx(other[0].score, abs=1e-4)


def test_a_wider_beam_finds_no_worse_scores_than_narrower_ones_on_the_whole(stepper):
    scores = {
        beam: sum(
            row[0].score for batch in batches() for row in run(stepper, batch, GenerationOptions(beam=beam))
        )
        for beam in (1, 4)
    }
    assert scores[4] > scores[1]


def test_n_best_answers_differ_and_come_best_first(stepper):
    for batch in batches(10):
        for row in run(stepper, batch, GenerationOptions(beam=4, n_best=4)):
            scores = [one.score for one in row]
            assert scores == sorted(scores, reverse=True)
            assert len({(*one.tokens, one.finished) for one in row}) == len(row)


def test_scores_are_the_sums_of_teacher_forced_log_probs(stepper):
    for batch in batches(10):
        for options in (GenerationOptions(), GenerationOptions(beam=3, length_penalty=1.0)):
            for row, answers in enumerate(run(stepper, batch, options)):
                states, frames, prompt, _, _ = row_of(batch, row)
                said = answers[0].tokens + ([EOS] if answers[0].finished == "eos" else [])
                if not said:
                    continue
                whole = torch.cat([prompt[0], torch.tensor(said)])[None]
                with torch.no_grad():
                    log_probs = stepper.head(stepper.decoder(whole, states, frames))[
                        0, prompt.shape[1] - 1 : -1
                    ]
                each = log_probs.gather(1, torch.tensor(said)[:, None])[:, 0]
                assert answers[0].score == pytest.approx(float(each.sum()), abs=1e-4)
                count = len(answers[0].tokens)
                assert answers[0].log_probs == pytest.approx(each[:count].tolist(), abs=1e-4)


@pytest.mark.parametrize("measure", ["tsallis", "max_prob"])
def test_confidences_lie_between_nothing_and_certainty(stepper, measure):
    for beam in (1, 3):
        options = GenerationOptions(beam=beam, confidence=measure)
        for batch in batches(5):
            for row in run(stepper, batch, options):
                assert row[0].confidences is not None
                assert len(row[0].confidences) == len(row[0].tokens)
                assert all(0.0 <= value <= 1.0 for value in row[0].confidences)


def test_a_longer_answer_is_preferred_as_the_length_penalty_grows(stepper):
    lengths = [
        sum(
            len(row[0].tokens)
            for batch in batches(20)
            for row in run(stepper, batch, GenerationOptions(beam=4, length_penalty=alpha))
        )
        for alpha in (0.0, 2.0)
    ]
    assert lengths[1] > lengths[0]


def test_samples_are_the_same_by_seed_and_differ_between_seeds(stepper):
    batch = next(batches(1))
    draw = [
        tokens(run(stepper, batch, GenerationOptions(temperature=1.5, seed=seed, n_best=3)))
        for seed in (1, 1, 2)
    ]
    assert draw[0] == draw[1] != draw[2]
    assert any(len({tuple(one) for one in row}) > 1 for row in draw[0])


def test_drawing_among_one_token_is_greedy_decoding(stepper):
    for options in (
        GenerationOptions(temperature=1.0, top_k=1),
        GenerationOptions(temperature=1.0, top_p=1e-6),
        GenerationOptions(temperature=1e-4),
    ):
        for batch in batches(5):
            assert tokens(run(stepper, batch, options)) == tokens(run(stepper, batch))


def test_tokens_are_drawn_as_often_as_they_are_probable():
    from aronnax.collections.common.nn.generation.sampling import choose

    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(8000, 4)
    drawn = torch.rand(8000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def shares(**options):
        found = choose(scores, GenerationOptions(temperature=1.0, **options), drawn)
        return (torch.bincount(found, minlength=4) / 8000).tolist()

    assert shares() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.02)
    assert shares(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.02)
    assert shares(top_p=0.9) == pytest.approx([0.526, 0.316, 0.158, 0], abs=0.02)


def test_stop_sequences_and_guards_end_answers(stepper):
    for batch in batches(10):
        for beam in (1, 3):
            plain = run(stepper, batch, GenerationOptions(beam=beam), guards=[lambda row, said: None])
            assert tokens(plain) == tokens(run(stepper, batch, GenerationOptions(beam=beam)))
            guarded = run(
                stepper,
                batch,
                GenerationOptions(beam=beam),
                guards=[lambda row, said: 1 if len(said) == 2 else None],
            )
            assert max(len(row[0].tokens) for row in guarded) <= 1
        whole = run(stepper, batch)
        for row, answers in enumerate(whole):
            said = answers[0].tokens
            if len(said) >= 3:
                options = GenerationOptions(stop=(tuple(said[1:3]),))
                stopped = run(stepper, row_of(batch, row), options)[0][0]
                assert stopped.finished == "stopped"
                assert said[: len(stopped.tokens)] == stopped.tokens
                assert len(stopped.tokens) <= 1


def test_limits_hold_a_row_each(stepper):
    for batch in batches():
        for row, answers in enumerate(run(stepper, batch)):
            room = int(batch[4][row] - batch[3][row])
            assert len(answers[0].tokens) <= room
            if answers[0].finished == "limit":
                assert len(answers[0].tokens) == room
    batch = next(batches(1))
    assert all(len(row[0].tokens) <= 2 for row in run(stepper, batch, GenerationOptions(max_new_tokens=2)))


def test_a_stream_tells_the_tokens_of_the_answers(stepper):
    for batch in batches(10):
        states, frames, prompts, lengths, limits = batch
        told: dict[int, list[int]] = {row: [] for row in range(ROWS)}
        answers = {}
        for said in generate_stream(stepper.bind(states, frames), prompts, lengths, eos=EOS, limits=limits):
            assert said.row not in answers
            if said.token is not None:
                told[said.row].append(said.token)
            if said.answer is not None:
                answers[said.row] = said.answer
        assert [[told[row]] for row in range(ROWS)] == tokens(run(stepper, batch))
        assert {row: answer.tokens for row, answer in answers.items()} == told


@pytest.mark.parametrize("static", [False, True])
def test_rolling_back_gives_the_same_scores_again(stepper, static):
    arranged = Stepper(stepper.decoder, stepper.head)
    arranged.static = static
    for states, frames, prompts, lengths, _ in batches(10):
        bound = arranged.bind(states, frames)
        scores, cache = bound.prefill(prompts, lengths, capacity=30)
        first = bound.step(scores.argmax(-1), cache).clone()
        mark = cache.snapshot()
        after = [bound.step(torch.full((ROWS,), token), cache).clone() for token in (7, 8, 9)]
        cache.rollback(mark)
        for token in (20, 21):
            bound.step(torch.full((ROWS,), token), cache)
        cache.rollback(mark)
        again = [bound.step(torch.full((ROWS,), token), cache).clone() for token in (7, 8, 9)]
        assert torch.isfinite(first).all()
        assert all(torch.equal(one, other) for one, other in zip(after, again))


def test_rows_moved_since_the_snapshot_cannot_be_rolled_back(stepper):
    states, frames, prompts, lengths, _ = next(batches(1))
    _, cache = stepper.bind(states, frames).prefill(prompts, lengths, capacity=30)
    mark = cache.snapshot()
    cache.select([0, 3])
    with pytest.raises(OptionError, match="moved"):
        cache.rollback(mark)


def test_packing_moves_only_rows_into_holes():
    assert pack([True, False, True, False, True]) == [0, 4, 2]
    assert pack([False, False, True]) == [2]
    assert pack([True, True]) == [0, 1]


def test_buffers_of_fixed_sizes_serve_the_next_call(stepper):
    fixed = Stepper(stepper.decoder, stepper.head)
    fixed.static = True
    batch = next(batches(1))
    with torch.no_grad():
        first = tokens(run(fixed, batch))
        pool = fixed.pool()
        runner = pool._idle[0]
        assert tokens(run(fixed, batch)) == first
        assert fixed.pool() is pool
        assert pool._idle == [runner]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_graphs_give_the_tokens_of_eager_steps(stepper):
    gpu = Stepper(stepper.decoder.cuda(), stepper.head.cuda())
    try:
        for options in (None, GenerationOptions(beam=3)):
            for batch in batches():
                there = tuple(tensor.cuda() for tensor in batch)
                gpu.static = False
                eager = tokens(run(gpu, there, options))
                gpu.static = None
                assert tokens(run(gpu, there, options)) == eager
        assert gpu.pool().refusal is None
    finally:
        stepper.decoder.cpu()
        stepper.head.cpu()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "beam is 0"),
        ({"beam": 2, "n_best": 3}, "n_best is 3"),
        ({"top_k": 5}, "temperature"),
        ({"top_p": 1.5, "temperature": 1.0}, "top_p is 1.5"),
        ({"beam": 2, "temperature": 1.0}, "not both"),
        ({"temperature": math.nan}, "temperature"),
        ({"stop": ((),)}, "stop"),
        ({"confidence": "sure"}, "confidence"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(OptionError, match=message):
        GenerationOptions(**options)


def test_a_beam_wider_than_the_vocabulary_is_named(stepper):
    with pytest.raises(OptionError, match="beam is 1000: the model has no more than"):
        run(stepper, next(batches(1)), GenerationOptions(beam=1000))


def test_beam_search_cannot_be_streamed(stepper):
    states, frames, prompts, lengths, limits = next(batches(1))
    with pytest.raises(OptionError, match="streamed"):
        generate_stream(
            stepper.bind(states, frames),
            prompts,
            lengths,
            eos=EOS,
            limits=limits,
            options=GenerationOptions(beam=2),
        )


def test_without_log_probabilities_the_tokens_are_the_same(stepper):
    options = GenerationOptions(log_probs=False)
    for batch in batches(10):
        told, untold = run(stepper, batch), run(stepper, batch, options)
        assert tokens(untold) == tokens(told)
        assert all(row[0].log_probs == [] and row[0].score == 0.0 for row in untold)
        assert [row[0].finished for row in untold] == [row[0].finished for row in told]


def test_a_confidence_is_told_without_log_probabilities(stepper):
    batch = next(batches(1))
    sure = run(stepper, batch, GenerationOptions(confidence="max_prob"))
    alone = run(stepper, batch, GenerationOptions(confidence="max_prob", log_probs=False))
    assert [row[0].confidences for row in alone] == [row[0].confidences for row in sure]


class Quick:
    """A decoder that may only be asked for the best token."""

    def __init__(self, decoder):
        self.prefill, self.release, self._step = decoder.prefill, decoder.release, decoder.step

    def step(self, tokens, cache):
        raise AssertionError("all scores were asked for")

    def best(self, tokens, cache):
        return self._step(tokens, cache).argmax(-1)


def test_a_quick_decoder_is_asked_for_the_best_token_alone(stepper):
    states, frames, prompts, lengths, limits = next(batches(1))
    given = {"eos": EOS, "limits": limits, "options": GenerationOptions(log_probs=False)}
    found = generate(Quick(stepper.bind(states, frames)), prompts, lengths, **given)
    assert tokens(found) == tokens(run(stepper, (states, frames, prompts, lengths, limits)))


@pytest.mark.parametrize("more", [{"beam": 2}, {"n_best": 2, "temperature": 1.0}])
def test_answers_that_are_compared_need_log_probabilities(more):
    with pytest.raises(OptionError, match="log_probs=False"):
        GenerationOptions(log_probs=False, **more)
