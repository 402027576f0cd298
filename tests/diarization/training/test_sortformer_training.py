"""Training Sortformer: a tiny model learns two sessions by heart; its counts; configuration files and data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.diarization import training
from aronnax.collections.diarization.sortformer.config import SortformerConfig
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.collections.diarization.sortformer.task import SortformerTask, SortformerTaskConfig, count_frames
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError, ManifestError

EXAMPLES = Path(__file__).parents[3] / "examples" / "diarization"
RATE = 16000
TINY: dict[str, Any] = {
    "preprocessor": {"n_mels": 32, "normalize": "none"},
    "encoder": {
        "feat_in": 32,
        "n_layers": 2,
        "d_model": 32,
        "n_heads": 2,
        "subsampling_conv_channels": 8,
        "dropout": 0.0,
        "dropout_pre_encoder": 0.0,
        "dropout_att": 0.0,
    },
    "transformer": {
        "n_layers": 1,
        "width": 24,
        "inner": 48,
        "n_heads": 2,
        "dropout": 0.0,
        "dropout_att": 0.0,
        "dropout_ff": 0.0,
    },
    "head_dropout": 0.0,
}


def buzz(pitch, seconds, seed):
    """A voice: harmonics of a pitch, in bursts."""
    at = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * pitch * n * at) / n for n in range(1, 12))
    return (0.1 * tone + 0.001 * np.random.default_rng(seed).standard_normal(len(at))).astype(np.float32)


@pytest.fixture
def voices(tmp_path):
    lines = []
    for name, pitch in (("anna", 220.0), ("bert", 110.0), ("cleo", 160.0)):
        for take in range(2):
            path = tmp_path / f"{name}{take}.wav"
            signal = np.pad(buzz(pitch, 2.5, take), (RATE // 2, RATE // 2))
            soundfile.write(path, signal, RATE)
            lines.append({"audio_filepath": path.name, "duration": len(signal) / RATE, "speaker": name})
    manifest = tmp_path / "voices.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest


def tiny_yaml(folder, **sections):
    path = folder / "tiny.json.yaml"
    made = {
        "output": str(folder / "run"),
        "model": {"type": "sortformer", **TINY},
        "data": {"num_workers": 0, "batching": {"batch_size": 2}},
        "simulation": {
            "seconds": 4.0,
            "speakers": [2],
            "turn_seconds": 1.0,
            "count": 4,
            "validation_sessions": 2,
        },
        "optim": {"lr": 3e-3, "warmup_steps": 1},
        "trainer": {
            "max_steps": 2,
            "val_every": 2,
            "checkpoint_every": 2,
            "accelerator": "cpu",
            "loggers": ["csv"],
        },
    }
    for name, section in sections.items():
        made[name] = {**made.get(name, {}), **section} if isinstance(section, dict) else section
    path.write_text(json.dumps(made))
    return path


def test_a_tiny_model_learns_two_sessions_by_heart(voices):
    section = training.SimulationSection(seconds=6.0, speakers=(2,), turn_seconds=1.0)
    sessions = training.simulated(section, str(voices), RATE, seed=3, count=2)
    torch.manual_seed(0)
    model = SortformerModel(from_dict(SortformerConfig, TINY, "model"))
    task = SortformerTask(model, OptimConfig())
    cuts = list(sessions)
    batch = task.batch_maker()(cuts, [torch.from_numpy(cut.load_audio()[0]) for cut in cuts])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    task.train()
    for _ in range(150):
        losses = task.losses(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    task.eval()
    with torch.inference_mode():
        heard = model(batch.signal, batch.signal_lengths)
    counts = count_frames(heard.probabilities, batch.labels, heard.lengths).metrics()
    assert counts["der"] < 0.1
    assert counts["first_right"] == counts["order_right"] == 1.0
    assert float(losses["loss"].detach()) < 0.1


def test_frames_are_counted_with_and_without_a_search():
    labels = torch.zeros(1, 10, 2)
    labels[0, :4, 1] = 1  # the second column arrives first
    labels[0, 3:8, 0] = 1
    lengths = torch.tensor([10])
    right = labels[:, :, [1, 0]]
    perfect = count_frames(right, labels, lengths)
    assert (perfect.spoken, perfect.missed, perfect.false_alarm, perfect.confused) == (9, 0, 0, 0)
    assert perfect.first_right == perfect.order_right == 1
    swapped = count_frames(labels, labels, lengths)
    assert swapped.confused_best == 0
    assert swapped.confused == 7
    assert swapped.first_right == swapped.order_right == 0
    silent = count_frames(torch.zeros(1, 10, 2), labels, lengths)
    assert silent.missed == 9
    assert silent.first_right == silent.order_right == 0
    padded = count_frames(torch.ones(1, 10, 2), labels, torch.tensor([5]))
    assert padded.spoken == 6
    assert padded.false_alarm == 4


@pytest.mark.parametrize("name", ["sortformer", "sortformer_small"])
def test_the_examples_load_and_have_the_sizes_they_speak_of(name):
    config = training.load_config(EXAMPLES / f"{name}.yaml", ["simulation.voices=x.jsonl"])
    assert config.trainer.monitor == "val/der"
    with torch.device("meta"):
        parameters = training.build_model(config).num_parameters()
    assert parameters == pytest.approx({"sortformer": 117.5e6, "sortformer_small": 1.5e6}[name], rel=0.01)


def test_bad_configurations_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="n_layrs"):
        training.load_config(tiny_yaml(tmp_path, model={"n_layrs": 3}))
    with pytest.raises(ConfigError, match="criterion"):
        training.load_config(tiny_yaml(tmp_path, task={"criterion": "luck"}))
    with pytest.raises(ConfigError, match="name one thing to train on"):
        training.train(training.load_config(tiny_yaml(tmp_path)))


def test_labelled_recordings_come_in_windows(tmp_path):
    soundfile.write(tmp_path / "talk.wav", buzz(150.0, 5.0, 0), RATE)
    (tmp_path / "talk.rttm").write_text(
        "SPEAKER talk 1 0.5 2.0 <NA> <NA> anna <NA> <NA>\nSPEAKER talk 1 2.0 2.5 <NA> <NA> bert <NA> <NA>\n"
    )
    manifest = tmp_path / "sessions.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "talk.wav", "rttm_filepath": "talk.rttm"}) + "\n")
    config = training.load_config(tiny_yaml(tmp_path, data={"train": str(manifest)}, window=2.0))
    cuts = list(training.LabelledSessions(config.data.train, 2.0))
    assert [cut.duration for cut in cuts] == [2.0, 2.0, 1.0]
    assert [sorted(turn.speaker for turn in cut.supervisions) for cut in cuts] == [
        ["anna"],
        ["anna", "bert"],
        ["bert"],
    ]


ANNA = "SPEAKER talk 1 0.5 1.0 <NA> <NA> anna <NA> <NA>\n"


@pytest.mark.parametrize(
    ("rttm", "said"),
    [
        (None, r"rttm_filepath names .*talk\.rttm, which does not exist; write its path"),
        (
            "SPEAKER talk 1 zero 1 <NA> <NA> anna <NA> <NA>\n",
            r"talk\.rttm:1: the start \(field 4\) is 'zero'",
        ),
        (
            ANNA + ANNA.replace("1.0", "4.0"),
            r"talk\.rttm:2: the turn ends at 4\.500 s but .* ends at 2\.000 s",
        ),
        (ANNA.replace("talk", "other"), r"talk\.rttm has no turns of talk, but of other; its second field"),
        ("", "rttm_filepath is missing"),
    ],
)
def test_training_names_manifest_and_line_of_turns_that_cannot_be(tmp_path, rttm, said):
    for name in ("fine", "talk"):
        soundfile.write(tmp_path / f"{name}.wav", buzz(150.0, 2.0, 0), RATE)
    (tmp_path / "fine.rttm").write_text(ANNA.replace("talk", "fine") + ANNA)  # may name other recordings too
    lines = [{"audio_filepath": f"{name}.wav", "rttm_filepath": f"{name}.rttm"} for name in ("fine", "talk")]
    if rttm == "":
        del lines[1]["rttm_filepath"]
    elif rttm is not None:
        (tmp_path / "talk.rttm").write_text(rttm)
    manifest = tmp_path / "sessions.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = training.load_config(tiny_yaml(tmp_path, data={"train": str(manifest), "num_workers": 0}))
    with pytest.raises(ManifestError, match=rf"sessions\.jsonl, line 2: .*{said}"):
        training.train(config, lambda line: None)


def test_an_empty_file_of_turns_is_a_session_in_which_nobody_speaks(tmp_path):
    soundfile.write(tmp_path / "a talk.wav", buzz(150.0, 2.0, 0), RATE)
    manifest = tmp_path / "sessions.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "a talk.wav", "rttm_filepath": "talk.rttm"}) + "\n")
    (tmp_path / "talk.rttm").write_text("")
    inputs = training.load_config(tiny_yaml(tmp_path, data={"train": str(manifest)})).data.train
    (cut,) = training.LabelledSessions(inputs, 9.0)
    assert not cut.supervisions
    (tmp_path / "talk.rttm").write_text(ANNA.replace("talk", "a_talk"))
    (cut,) = training.LabelledSessions(inputs, 9.0)
    assert [turn.speaker for turn in cut.supervisions] == ["anna"]


def test_training_runs_from_a_file_on_sessions_made_on_the_fly(voices, tmp_path):
    path = tiny_yaml(tmp_path, simulation={"voices": str(voices), "validation_voices": str(voices)})
    lines = []
    result = training.train(training.load_config(path), lines.append)
    assert {"val/loss", "val/der", "val/der_best", "val/f1", "val/first_right"} <= set(result.after)
    assert (result.folder / "model.safetensors").is_file()
    assert isinstance(result.model, SortformerModel)
    started = training.load_config(
        tiny_yaml(tmp_path, init_from=str(result.folder), model={"sort_weight": 1.0, "pil_weight": 0.0})
    )
    changed = training.build_model(started)
    assert changed.config.pil_weight == 0.0
    for name, value in result.model.state_dict().items():
        assert value.equal(changed.state_dict()[name]), name


def test_fabricated_batches_are_of_the_size_asked_for():
    task = SortformerTask(
        SortformerModel(from_dict(SortformerConfig, TINY, "model")), OptimConfig(), SortformerTaskConfig()
    )
    batch = task.fabricate(3, 2.0, 0)
    assert batch.signal.shape == (3, 2 * RATE)
    assert batch.labels.shape == (3, 25, 4)
    assert torch.isfinite(task.losses(batch)["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("sort_weight", [0.5, 0.0])
def test_order_is_learnt_by_the_sort_loss_alone_and_not_by_the_other(tmp_path, sort_weight):
    """Sessions of buzzing voices: the hybrid loss gets the first speaker first, without it the order is chance."""
    lines = []
    for number, pitch in enumerate(np.geomspace(90.0, 300.0, 16)):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.pad(buzz(pitch, 2.5, number), (RATE // 4, RATE // 4)), RATE)
        lines.append({"audio_filepath": path.name, "duration": 3.0, "speaker": f"s{number}"})
    manifests = []
    for name, part in (("train", lines[::2]), ("other", lines[1::2])):
        manifests.append(tmp_path / f"{name}.jsonl")
        manifests[-1].write_text("".join(json.dumps(line) + "\n" for line in part))
    config = training.load_config(
        tiny_yaml(
            tmp_path,
            model={"sort_weight": sort_weight, "pil_weight": 0.5, "max_speakers": 2},
            simulation={
                "voices": str(manifests[0]),
                "validation_voices": str(manifests[1]),
                "validation_sessions": 40,
                "count": 1000,
            },
            data={"batching": {"batch_size": 8}, "num_workers": 0},
            trainer={"max_steps": 500, "val_every": 500, "checkpoint_every": 500},
            optim={"lr": 4e-3, "warmup_steps": 50},
        )
    )
    after = training.train(config, print).after
    assert after["val/der_best"] < 0.15
    if sort_weight:
        assert after["val/first_right"] > 0.9
    else:
        assert 0.2 < after["val/first_right"] < 0.8
