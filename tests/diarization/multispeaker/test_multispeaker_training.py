"""Training: batches of sessions, whose speakers are mixed in, what is learned, and configuration files."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import SupervisionSegment
from lhotse.supervision import AlignmentItem

import aronnax
from aronnax.collections.asr.canary.batch import CanaryBatch
from aronnax.collections.common.data.recordings import made_cut
from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.diarization.multispeaker import training
from aronnax.collections.diarization.multispeaker.model import MultispeakerModel
from aronnax.collections.diarization.multispeaker.serialisation import Run
from aronnax.collections.diarization.multispeaker.task import (
    MultispeakerTask,
    MultispeakerTaskConfig,
    Validated,
    word_errors,
)
from aronnax.core.errors import ConfigError, ManifestError

from .conftest import RATE, TOKENS, diarizer, multispeaker, recogniser

EXAMPLES = Path(__file__).parents[3] / "examples" / "diarization"
PITCH = {"low": 300.0, "high": 1900.0}


class Sound:
    """A signal as data modules read it."""

    def __init__(self, signal):
        self.signal = signal

    def __call__(self):
        return self.signal


def said(speaker, text, start, end, words=None):
    one = SupervisionSegment(f"{speaker}-{start}", "r", start, end - start, text=text, speaker=speaker)
    if words is None:
        return one
    items = [AlignmentItem(word, at, 0.1) for word, at in zip(text.split(), words)]
    return one.with_alignment("word", items)


def session_cut(*supervisions, seconds=2.0, signal=None, name="session"):
    samples = round(seconds * RATE)
    signal = np.zeros(samples, np.float32) if signal is None else signal
    cut = made_cut(Sound(signal), len(signal), RATE, "", name)
    cut.supervisions = list(supervisions)
    return cut


def batch_of(model, *cuts):
    signals = [torch.from_numpy(cut.load_audio()[0]) for cut in cuts]
    return MultispeakerTask(model, OptimConfig()).batch_maker()(cuts, signals)


def test_words_are_written_in_the_order_in_which_they_begin(kind):
    model = multispeaker(kind)
    cut = session_cut(said("zoe", "low high", 0.2, 1.2), said("al", "high low", 0.9, 1.8, words=(1.0, 1.5)))
    batch = batch_of(model, cut)
    expected = "<|spltoken0|> low <|spltoken0|> high <|spltoken1|> high <|spltoken1|> low"
    assert batch.speech.texts == [expected]
    ids = batch.speech.tokens[0, : batch.speech.token_lengths[0]].tolist()
    if isinstance(batch.speech, CanaryBatch):
        prompt = batch.speech.prompts()[0]
        assert model.recogniser.text.special_id("<|diarize|>") in prompt
        assert ids[-1] == model.recogniser.text.end_id
        ids = ids[len(prompt) : -1]
    speakers = [model.tokenizer.vocabulary.index(token) for token in TOKENS]
    assert [speakers.index(token) for token in ids if token in speakers] == [0, 0, 1, 1]
    assert batch.activity.shape == (1, 25, 2)
    assert batch.activity[0, :, 0].nonzero()[:, 0].tolist() == list(range(2, 15))
    assert batch.activity[0, :, 1].nonzero()[:, 0].tolist() == list(range(11, 23))


def test_times_of_words_decide_and_stand_in_where_they_are_unknown():
    cut = session_cut(said("a", "low low", 0.0, 1.0, words=(0.0, 0.2)), said("b", "high", 0.3, 0.6))
    assert [run.speaker for run in batch_of(multispeaker(), cut).runs[0]] == [0, 0, 1]
    spread = session_cut(said("a", "low low", 0.0, 1.0), said("b", "high", 0.3, 0.6))
    assert [run.speaker for run in batch_of(multispeaker(), spread).runs[0]] == [0, 1, 0]
    segments = multispeaker(level="segment")
    assert [run.words for run in batch_of(segments, spread).runs[0]] == [("low", "low"), ("high",)]


def test_a_session_of_more_speakers_than_the_model_has_is_refused():
    cut = session_cut(*(said(name, "low", at, at + 0.3) for at, name in enumerate("abc")), seconds=3.0)
    with pytest.raises(ManifestError, match="has 3 speakers, and the model writes at most 2"):
        batch_of(multispeaker(), cut)


def test_a_supervision_without_a_speaker_is_refused():
    with pytest.raises(ManifestError, match="a supervision has no speaker"):
        batch_of(multispeaker(), session_cut(said(None, "low", 0.0, 0.5)))


def test_each_session_is_learned_with_the_truth_or_with_what_the_diarizer_finds():
    model = multispeaker()
    signal = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    cuts = [session_cut(said("a", "low", 0.0, 1.0), signal=signal, name=str(row)) for row in range(40)]
    batch = batch_of(model, *cuts)

    def mixed(share):
        task = MultispeakerTask(model, OptimConfig(), MultispeakerTaskConfig(ground_truth=share))
        torch.manual_seed(0)
        return task._mixed(batch)

    truth, found = mixed(1.0), mixed(0.0)
    assert torch.equal(truth, batch.activity)
    expected = model.diarize_signal(batch.heard, batch.heard_lengths).probabilities
    assert torch.equal(found, expected.detach())
    some = mixed(0.5)
    true_rows = [torch.equal(row, one) for row, one in zip(some, truth)]
    found_rows = [torch.equal(row, one) for row, one in zip(some, found)]
    assert all(a != b for a, b in zip(true_rows, found_rows))
    assert 10 < sum(true_rows) < 30


def test_a_diarizer_of_another_rate_hears_the_same_session():
    slow = diarizer()
    half = MultispeakerModel.of(recogniser("ctc"), slow, speakers=2)
    maker = MultispeakerTask(half, OptimConfig()).batch_maker()
    maker.diarizer_rate = 8000
    batch = maker([session_cut(said("a", "low", 0.0, 1.0))], [torch.zeros(2 * RATE)])
    assert batch.heard.shape == (1, RATE)
    assert batch.heard_lengths.tolist() == [RATE]


def test_the_loss_reaches_the_recogniser_and_not_the_diarizer(kind):
    model = multispeaker(kind).train()
    task = MultispeakerTask(model, OptimConfig(), MultispeakerTaskConfig(ground_truth=0.0))
    losses = task.losses(
        batch_of(model, session_cut(said("a", "low", 0.1, 1.0), said("b", "high", 0.9, 1.6)))
    )
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    assert model.recogniser.encoder.pre_encode.out.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.diarizer.parameters())


def test_a_short_session_is_trained_on_as_it_is_transcribed():
    model = multispeaker()
    task = MultispeakerTask(model, OptimConfig())
    signal = np.random.default_rng(0).standard_normal(RATE // 2).astype(np.float32)
    cut = session_cut(said("a", "low", 0.0, 0.5), signal=signal)
    batch = batch_of(model, cut)
    with torch.inference_mode():
        alone = task._supervised(batch, batch.activity)
        both = batch_of(model, cut, session_cut(said("a", "low", 0.0, 1.0), seconds=2.0))
        together = task._supervised(both, both.activity)
    assert alone.lengths.tolist() == [13]
    torch.testing.assert_close(together.states[0, :13], alone.states[0], atol=1e-5, rtol=0)


def test_made_up_batches_cost_what_real_ones_do(kind):
    task = MultispeakerTask(multispeaker(kind).train(), OptimConfig())
    batch = task.fabricate(2, 3.0, 8)
    assert batch.speech.signal.shape == (2, 3 * RATE)
    assert [len(runs) for runs in batch.runs] == [4, 4]
    assert torch.isfinite(task.losses(batch)["loss"])


def test_errors_are_counted_over_sessions_with_speakers_matched():
    reference = [[Run(0, ("a", "b")), Run(1, ("c",))], [Run(0, ("d",))], []]
    swapped = [[Run(1, ("a", "b")), Run(0, ("c",))], [Run(0, ("d",))], []]
    assert word_errors(reference, swapped).errors == 0
    wrong = [[Run(0, ("a",)), Run(1, ("b", "c"))], [], [Run(0, ("x",))]]
    errors = word_errors(reference, wrong)
    assert (errors.length, errors.errors) == (4, 4)
    tally = Validated(2.5, 3, {"cpwer": errors, "cpwer_oracle": errors})
    assert Validated.of(tally.counts()) == tally
    assert tally.metrics() == {"loss": 2.5 / 3, "cpwer": 1.0, "cpwer_oracle": 1.0}


def tone(word, loud, seconds, draw):
    """A word: a tone of its own pitch, said loudly or softly."""
    at = np.arange(round(seconds * RATE)) / RATE
    return (loud * np.sin(2 * np.pi * PITCH[word] * at + draw.uniform(0, 6))).astype(np.float32)


@pytest.fixture
def voices(tmp_path):
    """Recordings of two speakers each of whom says both words."""
    draw, lines = np.random.default_rng(0), []
    for name, loud in (("anna", 0.3), ("bert", 0.1)):
        for word in PITCH:
            path = tmp_path / f"{name}-{word}.wav"
            soundfile.write(path, np.pad(tone(word, loud, 0.4, draw), 1600), RATE)
            lines.append({"audio_filepath": path.name, "duration": 0.6, "speaker": name, "text": word})
    manifest = tmp_path / "voices.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest


@pytest.fixture
def config(tmp_path, voices):
    """A tiny training of the example's kind."""
    recogniser("hybrid").save_pretrained(tmp_path / "recogniser")
    diarizer().save_pretrained(tmp_path / "diarizer")
    overrides = {
        "init_from": tmp_path / "recogniser",
        "diarizer": tmp_path / "diarizer",
        "output": tmp_path / "run",
        "simulation.voices": voices,
        "simulation.validation_voices": voices,
        "simulation.validation_sessions": 2,
        "simulation.count": 4,
        "simulation.seconds": 2.5,
        "simulation.speakers": "[2]",
        "simulation.speaker_weights": "[]",
        "model.speakers": 2,
        "data.num_workers": 0,
        "data.batching.batch_size": 2,
        "trainer.max_steps": 2,
        "trainer.val_every": 2,
        "trainer.checkpoint_every": 2,
        "trainer.accelerator": "cpu",
        "trainer.loggers": "[csv]",
        "optim.warmup_steps": 1,
    }
    return [f"{name}={value}" for name, value in overrides.items()]


def test_the_example_trains_and_its_model_loads(config, tmp_path):
    loaded = training.load_config(EXAMPLES / "multispeaker.yaml", config)
    lines = []
    result = training.train(loaded, lines.append)
    assert {"val/loss", "val/cpwer", "val/cpwer_oracle"} <= set(result.after)
    assert any(line.startswith("cpWER, speakers by the diarizer:") for line in lines)
    model = aronnax.load(str(result.folder), device="cpu")
    assert isinstance(model, MultispeakerModel)
    assert model.max_speakers == 2
    untouched = diarizer().state_dict()
    assert all(torch.equal(untouched[name], tensor) for name, tensor in model.diarizer.state_dict().items())
    further = tmp_path / "further.yaml"
    further.write_text(f"output: {tmp_path / 'further'}\ninit_from: {result.folder}\ndata: {{}}\n")
    again = training.build_model(training.load_config(further))
    assert again.config == model.config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("init_from=null", "init_from is required"),
        ("simulation.whole_utterances=false", "whole_utterances must stay true"),
        ("model.type=ctc", "model.type is 'ctc'; this recipe trains multispeaker"),
        ("model.diarizer={}", "model.diarizer comes from a checkpoint"),
        (
            "model.kernel.normalize=l2",
            "model.kernel.normalize is not a known option; did you mean normalise?",
        ),
        ("model.level=turn", "model.level is 'turn'"),
        ("task.ground_truth=2", "task.ground_truth=2.0 must lie between 0 and 1"),
        ("task.truth=1", "task.truth is not a known option"),
    ],
)
def test_a_wrong_option_is_named(config, change, message):
    with pytest.raises(ConfigError, match=message):
        training.load_config(EXAMPLES / "multispeaker.yaml", [*config, change])


def test_what_a_run_starts_from_must_fit(config):
    def build(*changes):
        return training.build_model(training.load_config(EXAMPLES / "multispeaker.yaml", [*config, *changes]))

    with pytest.raises(ConfigError, match="is not a speech recogniser"):
        build("init_from=diarizer-small")
    with pytest.raises(ConfigError, match="holds a HybridModel, which does not diarize"):
        build("diarizer=digits")
    with pytest.raises(ConfigError, match="the diarizer tells 4 speakers apart, fewer than the 5"):
        build("model.speakers=5")
    assert build("diarizer=null").diarizer is None
    with pytest.raises(ConfigError, match="name one thing to train on"):
        training.train(
            training.load_config(EXAMPLES / "multispeaker.yaml", [*config, "simulation.voices=null"])
        )


def learned_session(draw):
    """Two speakers who say two words each; a recogniser cannot hear which of them says a word."""
    signal, supervisions = np.zeros(2 * RATE, np.float32), []
    first = draw.permutation(["a", "b"])
    for place, name in enumerate([*first, *draw.permutation(["a", "b"])]):
        word, start = draw.choice(["low", "high"]), 0.1 + 0.45 * place
        samples = tone(word, 0.2, 0.4, draw)
        at = round(start * RATE)
        signal[at : at + len(samples)] += samples
        supervisions.append(said(name, str(word), start, start + 0.4))
    return session_cut(*supervisions, signal=signal)


def learned(kind, kernel, steps, draw):
    """cpWER of a tiny model after a little training, on sessions it has not heard."""
    options = {} if kernel else {"kernel": None}
    model = MultispeakerModel.of(recogniser(kind, width=32, layers=2), None, speakers=2, **options).train()
    task = MultispeakerTask(model, OptimConfig(), MultispeakerTaskConfig(ground_truth=1.0))
    optimizer = torch.optim.AdamW(model.recogniser.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5)
    for _ in range(steps):
        loss = task.losses(batch_of(model, *(learned_session(draw) for _ in range(8))))["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.recogniser.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    task.eval()
    batch = batch_of(model, *(learned_session(draw) for _ in range(24)))
    with torch.inference_mode():
        found = task.written(task._supervised(batch, batch.activity), batch)
    return word_errors(batch.runs, found).rate


@pytest.mark.slow
def test_the_kernel_tells_who_speaks_where_the_sound_cannot():
    with_kernel = learned("ctc", True, 150, np.random.default_rng(1))
    without = learned("ctc", False, 150, np.random.default_rng(1))
    print(f"cpWER {with_kernel:.1%} with the kernel, {without:.1%} without")
    assert with_kernel < 0.1
    assert with_kernel < without / 2
