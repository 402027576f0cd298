"""`.nemo` archives of every shape load; hostile and broken ones are refused with a sentence."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from aronnax.core import archive, nemo
from aronnax.core.errors import CheckpointError, ConfigError
from aronnax.core.loading import load

FIXTURES = Path(__file__).resolve().parents[1] / "parity" / "fixtures" / "nemo"
Members = dict[str, bytes]


def members_of(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return {
            member.name.removeprefix("./"): tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar
            if member.isfile()
        }


def pack(path: Path, members: Members, mode: str = "w", prefix: str = "./") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def configured(members: Members, change: Callable[[dict[str, Any]], None]) -> Members:
    config = yaml.safe_load(members["model_config.yaml"])
    change(config)
    return {**members, "model_config.yaml": yaml.safe_dump(config).encode()}


def weights_of(members: Members, change: Callable[[dict[str, Any]], Any]) -> Members:
    state = torch.load(io.BytesIO(members["model_weights.ckpt"]), weights_only=True)
    state = change(state) or state
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return {**members, "model_weights.ckpt": buffer.getvalue()}


@pytest.fixture(scope="module")
def good() -> Members:
    return members_of(FIXTURES / "ctc_bpe.nemo")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.nemo"


def assert_equal_to_fixture(path: Path) -> None:
    truth, found = nemo.read(FIXTURES / "ctc_bpe.nemo"), nemo.read(path)
    assert found.config == truth.config
    assert found.assets == truth.assets
    assert set(found.tensors) == set(truth.tensors)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in truth.tensors.items())


# Shapes of archives that exist in the wild.


@pytest.mark.parametrize(("mode", "prefix"), [("w", "./"), ("w", ""), ("w:gz", "./"), ("w:gz", "")])
def test_plain_and_gzip_with_both_namings_load(good: Members, target: Path, mode: str, prefix: str) -> None:
    assert_equal_to_fixture(pack(target, good, mode, prefix))


def test_an_extracted_folder_loads(good: Members, tmp_path: Path) -> None:
    for name, content in good.items():
        (tmp_path / name).write_bytes(content)
    assert_equal_to_fixture(tmp_path)
    assert load(tmp_path, device="cpu").model_type == "ctc"


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_members_does_not_matter(good: Members, target: Path, order: int) -> None:
    assert_equal_to_fixture(pack(target, dict(list(good.items())[::order]), "w:gz"))


def test_a_pax_header_with_a_long_name_is_understood(good: Members, target: Path) -> None:
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in {**good, "long" * 60 + ".txt": b"x"}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1234567.25  # type: ignore[assignment]
            tar.addfile(info, io.BytesIO(content))
    assert_equal_to_fixture(target)


@pytest.mark.parametrize(
    "reference", ["{base}", "/data/run7/tokenizers/{base}", "nemo:{base}", "nemo:{hashed}"]
)
def test_every_way_to_refer_to_a_file_is_followed(good: Members, target: Path, reference: str) -> None:
    hashed = next(name for name in good if name.endswith("_tokenizer.model"))
    base = hashed.partition("_")[2]
    value = reference.format(base=base, hashed=hashed)
    members = configured(good, lambda config: config["tokenizer"].update(model_path=value))
    assert_equal_to_fixture(pack(target, members))
    if "hashed" not in reference:
        legacy = {(base if name == hashed else name): content for name, content in members.items()}
        assert_equal_to_fixture(pack(target, legacy))


def test_a_model_wrapper_around_the_configuration_is_taken_off(good: Members, target: Path) -> None:
    config = yaml.safe_load(good["model_config.yaml"])
    wrapped = yaml.safe_dump({"target": config.pop("target"), "model": config, "trainer": {"devices": 8}})
    assert_equal_to_fixture(pack(target, {**good, "model_config.yaml": wrapped.encode()}))


def test_references_inside_an_old_configuration_are_resolved(good: Members, target: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["preprocessor"]["sample_rate"] = "${model.sample_rate}"
        config["encoder"]["feat_in"] = "${preprocessor.features}"

    assert_equal_to_fixture(pack(target, configured(good, change)))


def test_keys_an_archive_lacks_take_nemos_defaults(good: Members, target: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        for key in ("pad_to", "dither", "window_size"):
            config["preprocessor"].pop(key, None)
        for key in ("xscaling", "use_bias", "conv_kernel_size", "n_heads", "dropout_emb"):
            config["encoder"].pop(key, None)

    found = nemo.read(pack(target, configured(good, change))).config
    assert (found.preprocessor.pad_to, found.preprocessor.window_size) == (16, 0.02)
    assert (found.encoder.xscaling, found.encoder.use_bias, found.encoder.conv_kernel_size) == (
        True,
        True,
        31,
    )
    assert (found.encoder.n_heads, found.encoder.dropout_emb) == (4, 0.1)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_second_model_is_left_out_with_a_note(good: Members, target: Path, mode: str) -> None:
    extra = {
        "timestamps_asr_model_weights.ckpt": b"not even weights",
        "timestamps_asr_model_config.yaml": b"target: x\n",
    }
    assert_equal_to_fixture(pack(target, {**extra, **good}, mode))
    (note,) = nemo.read(target).notes
    assert "timestamps_asr_model_weights.ckpt" in note


def test_weights_stay_in_the_file_until_they_are_used(good: Members, target: Path) -> None:
    pack(target, good)
    tensor = nemo.read(target).tensors["encoder.layers.0.norm_out.weight"]
    where = target.read_bytes().index(tensor.numpy().tobytes())
    with target.open("r+b") as file:
        file.seek(where)
        file.write(b"\0" * 4)
    assert tensor[0] == 0  # the very page of the file: nothing was copied
    tensor[1] = 5
    assert (
        target.read_bytes()[where + 4 : where + 8] != tensor[1].numpy().tobytes()
    )  # and writing stays private


def test_a_gzip_archive_leaves_nothing_on_the_disk(
    good: Members, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    nemo.read(pack(target, good, "w:gz"))
    assert list((tmp_path / "scratch").iterdir()) == []


# Hostile archives.


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(good: Members, target: Path, kind: bytes) -> None:
    pack(target, good)
    with tarfile.open(target, "a") as tar:
        info = tarfile.TarInfo("./tokenizer.model")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(CheckpointError, match="is a link, a device"):
        load(target)


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/cron.d/evil", "a/../../evil", "..\\evil"])
def test_names_that_leave_the_archive_are_refused(good: Members, target: Path, name: str) -> None:
    pack(target, {**good, name: b"x"}, prefix="")
    with pytest.raises(CheckpointError, match="does not stay inside"):
        load(target)
    assert not (target.parent.parent / "evil.txt").exists()


def test_a_name_that_comes_twice_is_refused(good: Members, target: Path) -> None:
    pack(target, good)
    with tarfile.open(target, "a") as tar:
        info = tarfile.TarInfo("model_config.yaml")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(CheckpointError, match=r"holds model_config\.yaml twice"):
        load(target)


def test_a_sparse_file_is_refused(good: Members, target: Path) -> None:
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("model_weights.ckpt")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(10**15)}
        tar.addfile(info)
    with pytest.raises(CheckpointError, match="sparse"):
        load(target)


def test_a_member_that_claims_more_than_the_file_has_is_refused(good: Members, target: Path) -> None:
    with tarfile.open(target, "w") as tar:
        info = tarfile.TarInfo("model_config.yaml")
        info.size = 10**13
        tar.fileobj.write(info.tobuf())  # type: ignore[union-attr]
    with pytest.raises(CheckpointError, match=r"truncated: model_config\.yaml ends \d+ bytes after the file"):
        load(target)


def test_an_extension_header_cannot_fill_the_memory(target: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 10**12
    target.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(CheckpointError, match="tar extension header of 1000000000000 bytes"):
        load(target)


def test_a_million_entries_are_not_walked(good: Members, target: Path) -> None:
    block = tarfile.TarInfo("x").tobuf()
    names = (tarfile.TarInfo(f"{i}").tobuf() for i in range(archive._MAX_MEMBERS + 5))
    target.write_bytes(b"".join(names) + block)
    with pytest.raises(CheckpointError, match="more than 10000 entries"):
        load(target)


def test_a_gzip_bomb_stops_early(good: Members, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_GZIP_FREE", 2**20)
    info = tarfile.TarInfo("model_weights.ckpt")
    info.size = 2**33
    with gzip.open(target, "wb", compresslevel=1) as file:
        file.write(info.tobuf())
        for _ in range(64):
            file.write(bytes(2**20))
    before = shutil.disk_usage(target.parent).used
    with pytest.raises(CheckpointError, match="looks like a gzip bomb"):
        load(target)
    assert shutil.disk_usage(target.parent).used - before < 64 * 2**20


def test_an_enormous_tokenizer_is_not_read(
    good: Members, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_FILE", 600)
    with pytest.raises(CheckpointError, match="too many for such a file"):
        load(pack(target, good))


@pytest.mark.parametrize(
    "line",
    [
        "evil: !!python/object/apply:os.system ['touch {marker}']\n",
        "evil: !!python/name:os.system\n",
        "evil: !include /etc/passwd\n",
    ],
)
def test_yaml_tags_are_refused(good: Members, target: Path, tmp_path: Path, line: str) -> None:
    marker = tmp_path / "executed"
    config = good["model_config.yaml"] + line.replace("{marker}", str(marker)).encode()
    with pytest.raises(CheckpointError, match="YAML tag"):
        load(pack(target, {**good, "model_config.yaml": config}))
    assert not marker.exists()


def test_yaml_aliases_cannot_unfold_without_end(good: Members, target: Path) -> None:
    bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    with pytest.raises(CheckpointError, match="aliases unfold"):
        load(pack(target, {**good, "model_config.yaml": bomb.encode()}))
    with pytest.raises(CheckpointError, match="contains itself"):
        load(pack(target, {**good, "model_config.yaml": b"a: &a [*a]\n"}))


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.marker),))


def test_weights_cannot_run_code(good: Members, target: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    members = weights_of(good, lambda state: {**state, "x": Evil(marker)})
    with pytest.raises(CheckpointError, match="holds more than tensors and was not loaded"):
        load(pack(target, members))
    assert not marker.exists()


@pytest.mark.parametrize("state", [[torch.zeros(1)], {"a": {"b": torch.zeros(1)}}, {"a": "text"}, {}])
def test_weights_must_be_a_flat_mapping_of_tensors(good: Members, target: Path, state: Any) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with pytest.raises(CheckpointError, match=r"not a mapping|not a plain tensor"):
        load(pack(target, {**good, "model_weights.ckpt": buffer.getvalue()}))


def test_a_compressed_weights_file_is_refused(good: Members, target: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", b"\0" * 2**20)
    with pytest.raises(CheckpointError, match="compressed zip"):
        load(pack(target, {**good, "model_weights.ckpt": buffer.getvalue()}))


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["encoder"].update(_target_="os.system"),
        lambda config: config["preprocessor"].update(_target_="builtins.exec"),
        lambda config: config["decoder"].update(_target_="subprocess.Popen"),
        lambda config: config["spec_augment"].update(_target_="os.system"),
    ],
)
def test_no_target_in_the_configuration_is_imported(
    good: Members, target: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(ConfigError, match=r"_target_ is (system|exec|Popen), which is not supported"):
        load(pack(target, configured(good, change)))


def test_the_class_path_is_never_imported(good: Members, target: Path) -> None:
    members = configured(good, lambda config: config.update(target="antigravity.this.EncDecCTCModelBPE"))
    assert_equal_to_fixture(pack(target, members))
    members = configured(good, lambda config: config.update(target="os.system"))
    with pytest.raises(CheckpointError, match="NeMo class 'system' is not known"):
        load(pack(target, members))


def test_a_configuration_of_a_million_layers_is_refused(good: Members, target: Path) -> None:
    members = configured(good, lambda config: config["encoder"].update(n_layers=10**8))
    with pytest.raises(CheckpointError, match="larger model than the file has weights for"):
        load(pack(target, members))


# Broken archives and what is not supported.


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_truncated_archive_is_reported(good: Members, target: Path, share: float, mode: str) -> None:
    content = pack(target, good, mode).read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"truncated|damaged"):
        load(target)


@pytest.mark.parametrize("content", [b"", b"hello, this is not an archive at all", os.urandom(4096)])
def test_a_file_that_is_no_archive_is_reported(target: Path, content: bytes) -> None:
    target.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is not a \.nemo archive"):
        load(target)


@pytest.mark.parametrize("name", ["model_config.yaml", "model_weights.ckpt"])
def test_an_incomplete_archive_is_reported(good: Members, target: Path, name: str) -> None:
    rest = {key: value for key, value in good.items() if key != name}
    with pytest.raises(CheckpointError, match=f"holds no {name}"):
        load(pack(target, rest))


def test_a_missing_tokenizer_file_is_named(good: Members, target: Path) -> None:
    rest = {key: value for key, value in good.items() if not key.endswith("tokenizer.model")}
    with pytest.raises(CheckpointError, match=r"lacks the file [0-9a-f]+_tokenizer\.model"):
        load(pack(target, rest))


def test_damaged_weights_are_reported(good: Members, target: Path) -> None:
    weights = good["model_weights.ckpt"]
    with pytest.raises(CheckpointError, match="weights file is damaged or truncated"):
        load(pack(target, {**good, "model_weights.ckpt": weights[: len(weights) // 2]}))


def test_a_missing_tensor_is_named(good: Members, target: Path) -> None:
    def change(state: dict[str, Any]) -> None:
        del state["encoder.layers.1.norm_out.weight"]

    with pytest.raises(CheckpointError, match=r"missing encoder\.layers\.1\.norm_out\.weight"):
        load(pack(target, weights_of(good, change)))


def test_a_tensor_of_an_adapter_is_not_silently_dropped(good: Members, target: Path) -> None:
    members = weights_of(good, lambda state: {**state, "encoder.layers.0.adapter.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"not part of this model: encoder\.layers\.0\.adapter\.weight"):
        load(pack(target, members))


def test_a_mislabelled_configuration_is_named_by_its_shapes(good: Members, target: Path) -> None:
    members = configured(good, lambda config: config["encoder"].update(d_model=8))
    with pytest.raises((CheckpointError, ConfigError), match=r"wrong shape|feat_in"):
        load(pack(target, members))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("EncDecSpeakerLabelModel", "a speaker or language recogniser"),
    ],
)
def test_a_family_that_comes_later_is_called_by_its_name(
    good: Members, target: Path, name: str, said: str
) -> None:
    members = configured(good, lambda config: config.update(target=f"nemo.collections.asr.models.{name}"))
    with pytest.raises(CheckpointError, match=said):
        load(pack(target, members))


@pytest.mark.parametrize(
    ("section", "option", "value", "said"),
    [
        ("encoder", "subsampling", "stacking", "encoder.subsampling is 'stacking'"),
        ("encoder", "self_attention_model", "abs_pos", "encoder.self_attention_model is 'abs_pos'"),
        ("encoder", "reduction", "pooling", "encoder.reduction='pooling' is not supported"),
        ("encoder", "feat_out", 640, "encoder.feat_out=640 is not supported"),
        ("encoder", "conv_context_style", "dcc", "encoder.conv_context_style='dcc'"),
        ("encoder", "xscalling", True, "encoder.xscalling is not an option .* did you mean xscaling"),
        ("preprocessor", "frame_splicing", 3, "preprocessor.frame_splicing=3"),
        ("preprocessor", "log", False, "preprocessor.log=False"),
        ("preprocessor", "pad_to", "max", "preprocessor.pad_to is 'max'"),
        (
            "preprocessor",
            "normalize",
            {"fixed_mean": [0], "fixed_std": [1]},
            "preprocessor.normalize with fixed",
        ),
        ("spec_augment", "rect_masks", 5, "spec_augment.rect_masks=5"),
        ("decoder", "num_layers", 2, "decoder.num_layers is not an option"),
        ("tokenizer", "type", "tiktoken", "tokenizer.type is 'tiktoken'"),
    ],
)
def test_an_unsupported_option_is_named(
    good: Members, target: Path, section: str, option: str, value: Any, said: str
) -> None:
    members = configured(good, lambda config: config[section].update({option: value}))
    with pytest.raises(ConfigError, match=said):
        load(pack(target, members))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c["decoder"].update(_target_="a.StatelessTransducerDecoder"),
            "StatelessTransducerDecoder",
        ),
        (lambda c: c["decoder"].update(blank_as_pad=False), "decoder.blank_as_pad=False"),
        (lambda c: c["decoder"]["prednet"].update(rnn_hidden_size=640), "rnn_hidden_size=640"),
        (lambda c: c["joint"].update(masking_prob=0.5), "joint.masking_prob=0.5"),
        (lambda c: c["joint"]["jointnet"].update(activation="gelu"), "joint.jointnet.activation is 'gelu'"),
        (lambda c: c["loss"].update(loss_name="multiblank_rnnt"), "multi-blank"),
        (lambda c: c["joint"].update(num_extra_outputs=7), "lists no 7 durations"),
    ],
)
def test_an_unsupported_transducer_is_named(
    target: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    members = configured(members_of(FIXTURES / "tdt_bpe.nemo"), change)
    with pytest.raises(ConfigError, match=said):
        load(pack(target, members))


def test_a_full_disk_while_writing_leaves_the_old_archive(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(FIXTURES / "ctc_bpe.nemo", device="cpu")
    before = model.save_nemo(target).read_bytes()

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(nemo, "save_weights", full)
    with pytest.raises(CheckpointError, match="No space left on device; what was there before is unchanged"):
        model.save_nemo(target)
    assert target.read_bytes() == before
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_inside_torch_save_is_reported(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(FIXTURES / "ctc_bpe.nemo", device="cpu")
    real = nemo.save_weights

    class Full:
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def flush(self) -> None: ...

    monkeypatch.setattr(nemo, "save_weights", lambda tensors, file: real(tensors, Full()))
    with pytest.raises(CheckpointError, match="what was there before is unchanged"):
        model.save_nemo(target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value"), [("features", 10**9), ("n_fft", 2**34), ("sample_rate", 10**12)]
)
def test_a_front_end_that_would_fill_the_memory_is_refused(
    good: Members, target: Path, option: str, value: int
) -> None:
    members = configured(good, lambda config: config["preprocessor"].update({option: value}))
    with pytest.raises(ConfigError, match="is outside 1"):
        load(pack(target, members))


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_never_escapes_as_another_error(good: Members, target: Path, seed: int) -> None:
    generator = random.Random(seed)
    content = bytearray(pack(target, good).read_bytes())
    for _ in range(8):
        content[generator.randrange(len(content))] = generator.randrange(256)
    # The headers and the pickle are where damage does most; they make up a small part of the bytes.
    start = content.index(b"data.pkl")
    content[generator.randrange(start, start + 8000)] = generator.randrange(256)
    target.write_bytes(content)
    with contextlib.suppress(CheckpointError, ConfigError):
        load(target, device="cpu")
