"""Every kind of input gives the same recordings as cuts."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse.cut import Cut

from aronnax.collections.common.data.config import DataConfig, InputConfig, read_inputs
from aronnax.collections.common.data.filters import cut_language, cut_text
from aronnax.collections.common.data.mixing import tempered
from aronnax.collections.common.data.nemo_cuts import expand
from aronnax.collections.common.data.preparing import Notes, prepare, write_parts
from aronnax.collections.common.data.report import Dropped
from aronnax.collections.common.data.sources import Inputs
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError, ManifestError

Write = Callable[..., Path]


def opened(*inputs: Any, dropped: Dropped | None = None, shuffle: bool = False, **options: Any) -> Inputs:
    options = {"seed": 0, **options}
    return Inputs(read_inputs(list(inputs), "data.train"), dropped or Dropped(), shuffle=shuffle, **options)


def samples(cut: Cut) -> np.ndarray:
    return np.asarray(cut.load_audio())


def test_a_manifest_gives_text_audio_and_other_fields(write_corpus: Write) -> None:
    path = write_corpus(3, lang="en", speaker=7, source="here")
    cuts = list(opened(path))
    assert [cut_text(cut) for cut in cuts] == ["a", "ab", "abc"]
    assert cut_language(cuts[0]) == "en"
    assert cuts[0].supervisions[0].speaker == "7"
    assert cuts[0].custom["source"] == "here"
    expected, _ = soundfile.read(path.parent / "0.wav", dtype="float32")
    np.testing.assert_array_equal(samples(cuts[0])[0], expected)


def test_an_offset_cuts_a_piece_out(write_corpus: Write) -> None:
    path = write_corpus(1)
    line = {"audio_filepath": "0.wav", "offset": 0.05, "duration": 0.1, "text": "a"}
    probed, trusted = path.with_name("x.jsonl"), path.with_name("y.jsonl")
    probed.write_text(json.dumps(line) + "\n")
    trusted.write_text(json.dumps({**line, "sampling_rate": 8000}) + "\n")
    expected, _ = soundfile.read(path.parent / "0.wav", dtype="float32")
    for manifest in (probed, trusted):
        (cut,) = opened(manifest)
        np.testing.assert_array_equal(samples(cut)[0], expected[400:1200])


def test_a_missing_duration_is_read_from_the_file(write_corpus: Write) -> None:
    path = write_corpus(1)
    info = soundfile.info(path.parent / "0.wav")
    path.write_text(json.dumps({"audio_filepath": "0.wav", "text": "a"}) + "\n")
    (cut,) = opened(path)
    assert cut.duration == pytest.approx(info.frames / 8000)


def test_an_unreadable_file_is_skipped_named_and_counted(write_corpus: Write, caplog: Any) -> None:
    path = write_corpus(3)
    (path.parent / "1.wav").write_bytes(b"no audio")
    dropped = Dropped()
    assert len(list(opened(path, dropped=dropped))) == 2
    assert dropped.reasons["unreadable audio"].count == 1
    assert str(path.parent / "1.wav") in caplog.text


def test_a_malformed_line_is_an_error_that_names_it(write_corpus: Write) -> None:
    path = write_corpus(2)
    path.write_text(path.read_text() + "oops\n")
    with pytest.raises(ManifestError, match="line 3: not JSON"):
        list(opened(path))


def test_shuffling_is_complete_seeded_and_different_each_pass(write_corpus: Write) -> None:
    path = write_corpus(30)
    inputs = opened(path, shuffle=True)
    first, second = [c.id for c in inputs], [c.id for c in inputs]
    assert sorted(first) == sorted(second) == sorted(c.id for c in opened(path))
    assert first != second
    assert first == [c.id for c in opened(path, shuffle=True)]
    assert first != [c.id for c in opened(path, shuffle=True, seed=1)]


def test_braces_stand_for_numbered_files() -> None:
    assert expand("a_OP_0..2_CL_.tar") == ["a0.tar", "a1.tar", "a2.tar"]
    assert expand("a{08..10}/b_{1..2}") == [f"a{n}/b_{m}" for n in ("08", "09", "10") for m in (1, 2)]


def tar_up(path: Path, shards: int, single: bool) -> dict[str, str]:
    """Pack a corpus into `shards` tars with their manifests, or one manifest with shard ids."""
    folder = path.parent / "tars"
    folder.mkdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    everything = []
    for shard in range(shards):
        own = lines[shard::shards]
        with tarfile.open(folder / f"audio_{shard}.tar", "w") as archive:
            for line in own:
                archive.add(path.parent / line["audio_filepath"], arcname=line["audio_filepath"])
        everything += [{**line, "shard_id": shard} for line in own]
        text = "".join(json.dumps({**line, "shard_id": shard}) + "\n" for line in own)
        (folder / f"manifest_{shard}.json").write_text(text)
    (folder / "tarred_audio_manifest.json").write_text(
        "".join(json.dumps(line) + "\n" for line in everything)
    )
    last = shards - 1
    manifest = "tarred_audio_manifest.json" if single else f"manifest__OP_0..{last}_CL_.json"
    return {
        "type": "nemo_manifest",
        "path": str(folder / manifest),
        "tar": str(folder / f"audio__OP_0..{last}_CL_.tar"),
    }


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("rate", [{}, {"sampling_rate": 8000}])
def test_tarred_audio_is_the_plain_audio(write_corpus: Write, single: bool, rate: dict[str, int]) -> None:
    path = write_corpus(7, **rate)
    plain = {cut_text(cut): samples(cut) for cut in opened(path)}
    tarred = list(opened(tar_up(path, 3, single)))
    assert len(tarred) == 7
    seen = Counter(samples(cut).tobytes() for cut in tarred)
    assert seen == Counter(samples(cut).tobytes() for cut in opened(path))
    assert {cut_text(cut) for cut in tarred} == set(plain)


def test_offsets_of_one_tar_member_carry_a_sub_suffix(write_corpus: Write) -> None:
    path = write_corpus(1)
    config = tar_up(path, 1, single=False)
    manifest = Path(expand(config["path"])[0])
    lines = [
        {"audio_filepath": f"0-sub{k}.wav", "offset": 0.05 * k, "duration": 0.05, "text": "a"} for k in (1, 2)
    ]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole, _ = soundfile.read(path.parent / "0.wav", dtype="float32")
    for k, cut in enumerate(opened(config), start=1):
        np.testing.assert_array_equal(samples(cut)[0], whole[400 * k : 400 * (k + 1)])


def test_a_member_missing_from_its_tar_is_counted(write_corpus: Write) -> None:
    path = write_corpus(4)
    config = tar_up(path, 2, single=False)
    manifest = Path(expand(config["path"])[0])
    manifest.write_text(manifest.read_text().replace("0.wav", "nowhere.wav"))
    dropped = Dropped()
    assert len(list(opened(config, dropped=dropped))) == 3
    assert "nowhere.wav" in dropped.reasons["unreadable audio"].example


@pytest.mark.parametrize("format", ["lhotse", "shar", "nemo"])
def test_prepared_formats_give_the_same_cuts(write_corpus: Write, tmp_path: Path, format: str) -> None:
    path = write_corpus(5)
    table = path.with_name("table.tsv")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    table.write_text("path\tsentence\n" + "".join(f"{e['audio_filepath']}\t{e['text']}\n" for e in lines))
    written = write_parts(prepare("folder", table, tmp_path / "out", Notes()), tmp_path / "out", format)  # type: ignore[arg-type]
    (read,) = read_inputs(str(written["all"]), "data.train")
    assert read.type == {"lhotse": "lhotse_cuts", "shar": "lhotse_shar", "nemo": "nemo_manifest"}[format]
    cuts = list(opened(read))
    assert [cut_text(cut) for cut in cuts] == [e["text"] for e in lines]
    for cut, line in zip(cuts, lines):
        expected, _ = soundfile.read(path.parent / line["audio_filepath"], dtype="float32")
        np.testing.assert_allclose(samples(cut)[0], expected, atol=1e-4)


class StandInDataset:
    """As much of a Hugging Face data set as is used."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def cast_column(self, column: str, kind: Any) -> StandInDataset:
        assert kind.decode is False
        return self

    def shuffle(self, seed: int) -> StandInDataset:
        order = np.random.default_rng(seed).permutation(len(self.rows))
        return StandInDataset([self.rows[index] for index in order])

    def __iter__(self) -> Any:
        return iter(self.rows)


def install_datasets(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> None:
    module = SimpleNamespace(
        load_dataset=lambda path, name, split, streaming: StandInDataset(rows),
        Audio=lambda decode: SimpleNamespace(decode=decode),
    )
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hugging_face_rows_become_cuts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encoded = io.BytesIO()
    wave = np.sin(np.arange(1600) / 10).astype(np.float32)
    soundfile.write(encoded, wave, 8000, format="WAV", subtype="FLOAT")
    soundfile.write(tmp_path / "b.flac", wave, 8000)
    rows = [
        {"audio": {"bytes": encoded.getvalue(), "path": "a.wav"}, "text": "a", "lang": "de", "id": "x"},
        {"audio": {"bytes": None, "path": str(tmp_path / "b.flac")}, "text": "b", "lang": "de", "id": "y"},
        {"audio": {"bytes": b"junk", "path": None}, "text": "c", "lang": "de", "id": "z"},
    ]
    install_datasets(monkeypatch, rows)
    dropped = Dropped()
    first, second = opened({"type": "hf_dataset", "path": "some/set"}, dropped=dropped)
    np.testing.assert_array_equal(samples(first)[0], wave)
    assert (cut_text(second), cut_language(second), second.duration) == ("b", "de", 0.2)
    assert dropped.reasons["unreadable audio"].count == 1
    with pytest.raises(ManifestError, match="no column 'sentence', but audio, text"):
        list(opened({"type": "hf_dataset", "path": "some/set", "text_field": "sentence"}))


def test_tags_reach_every_cut_of_a_group(write_corpus: Write) -> None:
    inner = {"path": str(write_corpus(2)), "tags": {"language": "en"}}
    cuts = list(opened({"type": "group", "inputs": [inner], "tags": {"domain": "test"}}))
    assert {(cut_language(cut), cut.custom["domain"]) for cut in cuts} == {("en", "test")}


def test_weights_are_kept_over_many_draws(write_corpus: Write) -> None:
    big, small = write_corpus(20, "big"), write_corpus(4, "small")
    inputs = opened({"path": str(big), "weight": 1.0}, {"path": str(small), "weight": 3.0})
    assert inputs.endless
    drawn = Counter(Path(cut.recording.sources[0].source).parent.name for cut in islice(inputs, 1000))
    assert drawn["small"] / 1000 == pytest.approx(0.75, abs=0.06)


def test_nested_weights_multiply_and_temperature_goes_by_level(write_corpus: Write) -> None:
    paths = [str(write_corpus(3, name)) for name in ("a", "b", "c")]
    group = {
        "type": "group",
        "weight": 9.0,
        "inputs": [{"path": paths[0], "weight": 4.0}, {"path": paths[1], "weight": 1.0}],
    }
    inputs = opened(group, {"path": paths[2], "weight": 1.0}, temperature=(0.5, 0.0))
    drawn = Counter(Path(cut.recording.sources[0].source).parent.name for cut in islice(inputs, 1000))
    shares = {name: count / 1000 for name, count in drawn.items()}
    assert shares == pytest.approx({"a": 0.375, "b": 0.375, "c": 0.25}, abs=0.06)
    with pytest.raises(ConfigError, match="temperature has 3 values and the inputs 2 levels"):
        opened(group, {"path": paths[2], "weight": 1.0}, temperature=(1.0, 1.0, 1.0))


def test_temperature_flattens_weights() -> None:
    assert tempered([1.0, 9.0], 1.0) == pytest.approx([0.1, 0.9])
    assert tempered([1.0, 9.0], 0.5) == pytest.approx([0.25, 0.75])
    assert tempered([1.0, 9.0], 0.0) == pytest.approx([0.5, 0.5])


def test_siblings_all_have_a_weight_or_none(write_corpus: Write) -> None:
    path = str(write_corpus(2))
    with pytest.raises(ConfigError, match="either all inputs of a group have a weight or none"):
        opened({"path": path, "weight": 1.0}, {"path": path})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": [{"pth": "a.jsonl"}]}, r"data.train\[0\].pth is not a known option; did you mean path"),
        ({"train": "some.data"}, "neither a NeMo manifest"),
        ({"train": 3}, "data.train is 3; it must be a path"),
        ({"train": {"type": "group"}}, "needs `inputs`"),
        ({"train": {"path": "a.json", "weight": 0.0}}, "must be above 0"),
        ({"validation": {"dev": [1]}}, r"data.validation.dev\[0\] is 1"),
        ({"batching": {"bucket_duration_bins": [2.0, 1.0]}}, "must rise"),
        ({"batching": {"bucket_duration_bins": [1.0], "bucket_batch_sizes": [1, 2]}}, "one for each bin"),
        ({"batching": {"bucket_duration_bins": [[1.0, 5]]}}, "2-D bucket_duration_bins need"),
        ({"batching": {"batch_size": 0}}, "batch_size is 0"),
    ],
)
def test_a_bad_configuration_is_explained(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(DataConfig, data, where="data")


def test_validation_may_be_one_set_or_several_by_name() -> None:
    assert list(DataConfig(validation="a.json").validation) == ["validation"]
    both = DataConfig(validation={"x": "a.json", "y": ["b.json", InputConfig(path="c.json")]})
    assert [len(inputs) for inputs in both.validation.values()] == [1, 2]
