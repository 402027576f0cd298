from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from aronnax.collections.common.audio import sources
from aronnax.collections.common.audio.reading import open_audio, probe, read_audio
from aronnax.core.errors import AudioError, OptionError


def wave(seconds: float = 1.0, rate: int = 16000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Return tones over noise, float32 [S, C]."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate))[:, None] / rate
    tones = 0.3 * np.sin(2 * np.pi * 220.0 * (1 + np.arange(channels)) * time)
    return (tones + 0.02 * generator.standard_normal(tones.shape)).astype(np.float32)


def written(path: Path, samples: np.ndarray, rate: int = 16000, **settings: str) -> Path:
    soundfile.write(path, samples, rate, **settings)
    return path


def media(path: Path, samples: np.ndarray, rate: int, codec: str) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        size = stream.codec_context.frame_size or 1024
        for start in range(0, len(samples), size):
            frame = av.AudioFrame.from_ndarray(samples[start : start + size].T, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("extension", ["wav", "flac", "aiff"])
def test_a_lossless_file_reads_as_it_was_written(tmp_path: Path, extension: str) -> None:
    samples = wave()
    path = written(tmp_path / f"a.{extension}", samples)
    audio = read_audio(path, sample_rate=16000)
    np.testing.assert_allclose(audio.samples, samples[:, 0], atol=1e-4)
    assert audio.samples.dtype == np.float32
    assert audio.seconds == 1.0
    assert audio.name == str(path)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 44101])
def test_resampling_equals_librosas(rate: int) -> None:
    librosa = pytest.importorskip("librosa")
    samples = wave(2.0, rate)[:, 0]
    ours = read_audio((samples, rate), sample_rate=16000).samples
    theirs = librosa.resample(samples, orig_sr=rate, target_sr=16000, res_type="soxr_hq")
    shared = min(len(ours), len(theirs))
    assert abs(len(ours) - len(theirs)) <= 1
    np.testing.assert_allclose(ours[:shared], theirs[:shared], atol=1e-5)


@pytest.mark.parametrize("rate", [3000, 8000, 44100, 192000])
def test_a_sine_resampled_is_the_sine_sampled_anew(rate: int) -> None:
    def sine(samples: int, per_second: int) -> np.ndarray:
        return 0.5 * np.sin(2 * np.pi * 700.0 * np.arange(samples) / per_second)

    ours = read_audio((sine(rate, rate), rate), sample_rate=16000).samples
    assert len(ours) == 16000
    np.testing.assert_allclose(ours[2000:-2000], sine(16000, 16000)[2000:-2000], atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 192000, 44101])
@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_windows_equal_the_whole(
    tmp_path: Path, rate: int, extension: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if extension in ("ogg", "mp3") and rate > 48000:
        pytest.skip("the format does not go so high")
    if extension == "mp3" and rate == 44101:
        pytest.skip("the format knows no such rate")
    path = written(tmp_path / f"a.{extension}", wave(3.3, rate, channels=2), rate)
    whole = read_audio(path, sample_rate=16000).samples
    # Small enough that windows fall out of what is kept, and that a long read takes steps.
    monkeypatch.setattr(sources, "_KEPT_SAMPLES", 10000)
    monkeypatch.setattr(sources, "_BLOCK_SAMPLES", 4096)
    monkeypatch.setattr("aronnax.collections.common.audio.reading._STEP_VALUES", 1 << 16)
    with open_audio(path, 16000) as stream:
        assert stream.samples == len(whole)
        for start, stop in [(0, 5000), (4000, 20000), (20000, 20001), (100, 900), (30000, 10**6), (0, 10**6)]:
            np.testing.assert_allclose(stream.read(start, stop), whole[start:stop], atol=1e-5)
        assert stream.read(7, 7).shape == (0,)


@pytest.mark.parametrize(("extension", "codec"), [("m4a", "aac"), ("webm", "libopus"), ("mkv", "aac")])
def test_what_only_ffmpeg_reads_is_read_in_windows_too(tmp_path: Path, extension: str, codec: str) -> None:
    samples = wave(2.0, 48000)
    path = media(tmp_path / f"a.{extension}", samples.clip(-1, 1), 48000, codec)
    whole = read_audio(path, sample_rate=48000).samples
    assert len(whole) == pytest.approx(96000, abs=2100)
    error = whole[4800:90000] - samples[4800:90000, 0]
    assert np.sqrt((error**2).mean()) < 0.05
    with open_audio(path, 48000) as stream:
        np.testing.assert_allclose(stream.read(50000, 60000), whole[50000:60000], atol=1e-6)
        np.testing.assert_allclose(stream.read(10, 2000), whole[10:2000], atol=1e-6)
    with path.open("rb") as file:
        np.testing.assert_allclose(read_audio(file, sample_rate=48000).samples, whole, atol=1e-6)


def test_hours_are_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(8000 * 60, np.int16))
    script = (
        "import resource, sys\n"
        "from aronnax.collections.common.audio.reading import open_audio\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with open_audio(sys.argv[1], 16000) as stream:\n"
        "    for start in range(0, stream.samples, 480000):\n"
        "        stream.read(start, start + 480000)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 60_000  # kilobytes; the hour itself would be 230,000


def test_channels_are_averaged_or_chosen(tmp_path: Path) -> None:
    samples = wave(channels=6)
    path = written(tmp_path / "six.wav", samples, subtype="FLOAT")
    np.testing.assert_allclose(
        read_audio(path, sample_rate=16000).samples, samples.mean(1, dtype=np.float32), atol=1e-6
    )
    np.testing.assert_array_equal(read_audio(path, sample_rate=16000, channel=5).samples, samples[:, 5])
    with pytest.raises(AudioError, match="6 channel"):
        read_audio(path, sample_rate=16000, channel=6)
    for layout in (samples, samples.T):
        picked = read_audio((layout, 16000), sample_rate=16000, channel=2).samples
        np.testing.assert_array_equal(picked, samples[:, 2])


@pytest.mark.parametrize("rate", [3000, 16000, 192000])
@pytest.mark.parametrize("length", [1, 2, 5000])
def test_any_rate_and_length_reads(tmp_path: Path, rate: int, length: int) -> None:
    path = written(tmp_path / "a.wav", wave(1.0, 5000)[:length], rate, subtype="FLOAT")
    audio = read_audio(path, sample_rate=16000)
    assert len(audio.samples) == max(1, int(length * 16000 / rate + 0.5))
    assert np.isfinite(audio.samples).all()


def test_arrays_tensors_files_and_cuts_give_the_same(tmp_path: Path) -> None:
    class Cut:
        id, sampling_rate = "one", 16000

        def load_audio(self) -> np.ndarray:
            return samples.T

    samples = wave()
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    contents = path.read_bytes()
    with path.open("rb") as file:
        for source in (str(path), contents, io.BytesIO(contents), file, (samples, 16000), Cut()):
            np.testing.assert_array_equal(read_audio(source, sample_rate=16000).samples, samples[:, 0])
    tensor = torch.from_numpy(samples[:, 0])
    for bare in (tensor, tensor.double(), samples[:, 0]):
        np.testing.assert_array_equal(
            read_audio(bare, sample_rate=16000, source_rate=16000).samples, samples[:, 0]
        )


def test_a_part_of_a_recording_as_a_lhotse_cut(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    samples = wave(2.0)
    recording = lhotse.Recording.from_file(written(tmp_path / "a.wav", samples, subtype="FLOAT"))
    audio = read_audio(recording.to_cut().truncate(offset=0.5, duration=1.0), sample_rate=16000)
    np.testing.assert_allclose(audio.samples, samples[8000:24000, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "full_scale", "zero"), [("int16", 2**15, 0), ("int32", 2**31, 0), ("uint8", 2**7, 128)]
)
def test_integer_samples_are_scaled(dtype: str, full_scale: int, zero: int) -> None:
    half = np.full(100, zero + full_scale // 2, dtype)
    assert (read_audio((half, 16000), sample_rate=16000).samples == 0.5).all()


def test_probe_says_what_a_file_holds(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp3", wave(2.0, 44100, channels=2), 44100)
    info = probe(path)
    assert (info.samples, info.sample_rate, info.channels, info.seconds) == (88200, 44100, 2, 2.0)


def test_a_stream_refuses_windows_that_do_not_exist() -> None:
    with open_audio((wave(), 16000), 16000) as stream:
        with pytest.raises(OptionError, match="does not exist"):
            stream.read(-1, 5)
        with pytest.raises(OptionError, match="does not exist"):
            stream.read(5, 4)


def cut_to(path: Path, share: float) -> Path:
    contents = path.read_bytes()
    path.write_bytes(contents[: int(len(contents) * share)])
    return path


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3"])
@pytest.mark.parametrize("as_object", [False, True])
def test_a_truncated_file_is_an_error(tmp_path: Path, extension: str, as_object: bool) -> None:
    path = cut_to(written(tmp_path / f"a.{extension}", wave(10.0)), 0.5)
    source = io.BytesIO(path.read_bytes()) if as_object else path
    with pytest.raises(AudioError, match="cut short"):
        read_audio(source, sample_rate=16000)


def test_a_truncated_media_file_is_an_error(tmp_path: Path) -> None:
    path = cut_to(media(tmp_path / "a.m4a", wave(10.0, 48000), 48000, "aac"), 0.5)
    with pytest.raises(AudioError, match=r"a\.m4a"):
        read_audio(path, sample_rate=16000)


def test_a_wav_written_to_a_pipe_declares_no_length_and_reads(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", wave())
    contents = bytearray(path.read_bytes())
    contents[40:44] = contents[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(contents)
    assert len(read_audio(path, sample_rate=16000).samples) == 16000


def bad_inputs(folder: Path) -> dict[str, tuple[object, str]]:
    not_finite = wave()
    not_finite[8000] = np.nan
    infinite = wave()
    infinite[100] = np.inf
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("this is not audio\n" * 50)
    (folder / "bare.raw").write_bytes(b"\0\1" * 500)
    (folder / "header.wav").write_bytes(written(folder / "full.wav", wave()).read_bytes()[:20])
    return {
        "missing": (folder / "missing.wav", "no such file"),
        "folder": (folder, "is a folder"),
        "empty": (folder / "empty.wav", "empty file"),
        "text": (folder / "text.wav", "not audio"),
        "raw": (folder / "bare.raw", "bare.raw"),
        "header": (folder / "header.wav", "not audio"),
        "no samples": (written(folder / "zero.wav", wave()[:0]), "no samples"),
        "nan": (written(folder / "nan.wav", not_finite, subtype="FLOAT"), r"sample 8000 \(at 0.500 s\)"),
        "inf": (written(folder / "inf.wav", infinite, subtype="FLOAT"), "sample 100 "),
        "no rate": (wave(), "does not say its sample rate"),
        "tensor without rate": (torch.zeros(100), "does not say its sample rate"),
        "rate first": ((16000, wave()), "in this order"),
        "bad rate": ((wave(), 0), "whole number"),
        "fractional rate": ((wave(), 22.05), "whole number"),
        "empty array": ((np.zeros(0, np.float32), 16000), "no samples"),
        "empty channels": ((np.zeros((2, 0), np.float32), 16000), "no samples"),
        "nan array": ((np.array([0.0, np.nan]), 16000), "NaN"),
        "strings": ((np.array(["a", "b"]), 16000), "not audio"),
        "int64": ((np.zeros(10, np.int64), 16000), "int64"),
        "complex": ((np.zeros(10, np.complex64), 16000), "complex64"),
        "three axes": ((np.zeros((2, 3, 4)), 16000), "shape"),
        "list": ([0.1, 0.2], "a list is not a recording"),
        "none": (None, "not a recording"),
        "no bytes": (b"", "empty"),
        "text mode": (io.StringIO("abc"), "binary mode"),
        "junk bytes": (b"junk" * 100, "not audio"),
    }


def test_bad_input_is_a_clear_error(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for case, (source, message) in bad_inputs(tmp_path).items():
        with subtests.test(case), pytest.raises(AudioError, match=message):
            read_audio(source, sample_rate=16000)


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " * 20)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"aronnax\[media\]"):
        read_audio(tmp_path / "a.m4a", sample_rate=16000)
    assert len(read_audio(written(tmp_path / "a.wav", wave()), sample_rate=16000).samples) == 16000
