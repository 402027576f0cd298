"""Checkpoint folders: what is saved comes back, and whatever is wrong is said by name."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aronnax.core import registry
from aronnax.core.errors import CheckpointError, ConfigError, OptionError
from aronnax.core.loading import load
from aronnax.core.model import Model


@dataclass(frozen=True)
class ToyConfig:
    width: int = 4
    layers: int = 2


class Toy(Model):
    """Holds every kind of tensor a checkpoint meets: tied, computed, non-persistent, counters."""

    model_type = "toy"
    Config = ToyConfig

    def __init__(self, config: ToyConfig, words: bytes = b"") -> None:
        super().__init__(config)
        self.words = words
        self.layers = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.layers))
        self.layers[-1].weight = self.layers[0].weight
        self.norm = nn.BatchNorm1d(config.width)
        self.front = nn.Module()
        self.front.register_buffer("window", torch.hann_window(config.width))
        self.register_buffer("table", torch.arange(config.width).float() / 3, persistent=False)

    @classmethod
    def build(cls, config: ToyConfig, assets: dict[str, bytes]) -> Toy:  # type: ignore[override]
        return cls(config, assets.get("lang/words.txt", b""))

    def assets(self) -> dict[str, bytes]:
        return {"lang/words.txt": self.words}

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) + self.table + self.front.window


class Other(Model):
    model_type = "other"
    Config = ToyConfig


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._MODELS, "toy", (__name__, "Toy"))
    monkeypatch.setitem(registry._MODELS, "other", (__name__, "Other"))
    real = registry.import_module
    here = type("Here", (), {"Toy": Toy, "Other": Other})
    monkeypatch.setattr(registry, "import_module", lambda name: here if name == __name__ else real(name))


@pytest.fixture
def toy() -> Toy:
    torch.manual_seed(0)
    model = Toy(ToyConfig(), b"a b c").eval()
    nn.init.normal_(model.norm.running_mean)
    return model


@pytest.fixture
def saved(toy: Toy, tmp_path: Path) -> Path:
    return toy.save_pretrained(tmp_path / "toy")


def rewrite(folder: Path, **changes: Tensor | None) -> None:
    """Change tensors of a saved folder: a value replaces, None removes; `__` stands for a dot."""
    tensors = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, folder / "model.safetensors")


def test_a_saved_model_comes_back_equal(toy: Toy, saved: Path) -> None:
    again = load(saved, device="cpu")
    x = torch.randn(3, 4)
    assert torch.equal(again(x), toy(x))
    assert again.words == b"a b c"
    assert again.source == str(saved)
    assert not again.training
    assert sorted(path.name for path in saved.iterdir()) == [
        "README.md",
        "config.yaml",
        "lang",
        "model.safetensors",
    ]


def test_every_file_follows_the_umask(toy: Toy, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        toy.save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}
    assert "model.safetensors" in {path.name for path in files}


def test_tied_weights_stay_tied(saved: Path) -> None:
    again = load(saved, device="cpu")
    assert again.layers[0].weight is again.layers[1].weight


def test_half_precision_storage_is_loaded_as_float32_unless_asked(toy: Toy, tmp_path: Path) -> None:
    folder = toy.save_pretrained(tmp_path / "half", dtype=torch.float16)
    stored = load_file(folder / "model.safetensors")
    assert stored["norm.weight"].dtype == torch.float16
    assert stored["front.window"].dtype == torch.float32  # a constant, not a weight
    assert load(folder, device="cpu").dtype == torch.float32
    low = load(folder, device="cpu", dtype=torch.bfloat16)
    assert low.dtype == torch.bfloat16
    assert low.norm.running_mean.dtype == torch.bfloat16
    assert low.front.window.dtype == torch.float32


def test_counters_and_computed_constants_may_be_missing(toy: Toy, saved: Path) -> None:
    rewrite(saved, norm__num_batches_tracked=None, front__window=None)
    x = torch.randn(3, 4)
    assert torch.equal(load(saved, device="cpu")(x), toy(x))


def test_a_missing_tensor_is_named(saved: Path) -> None:
    rewrite(saved, layers__1__bias=None)
    with pytest.raises(CheckpointError, match=r"missing layers\.1\.bias"):
        load(saved)


def test_missing_running_statistics_are_an_error(saved: Path) -> None:
    rewrite(saved, norm__running_var=None)
    with pytest.raises(CheckpointError, match=r"missing norm\.running_var"):
        load(saved)


def test_an_unexpected_tensor_is_named(saved: Path) -> None:
    rewrite(saved, head__weight=torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"not part of this model: head\.weight"):
        load(saved)


def test_a_wrong_shape_is_named_with_both_shapes(saved: Path) -> None:
    rewrite(saved, layers__0__bias=torch.zeros(5))
    with pytest.raises(CheckpointError, match=r"layers\.0\.bias is 5 in the file and 4 in the model"):
        load(saved)


def test_truncated_weights_are_reported(saved: Path) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or truncated"):
        load(saved)


def test_a_missing_asset_is_reported(saved: Path) -> None:
    (saved / "lang" / "words.txt").unlink()
    with pytest.raises(CheckpointError, match=r"lacks lang/words\.txt"):
        load(saved)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "..\\b", "C:/x"])
def test_an_asset_cannot_lie_outside_the_folder(saved: Path, name: str) -> None:
    header = yaml.safe_load((saved / "config.yaml").read_text())
    (saved / "config.yaml").write_text(yaml.safe_dump({**header, "assets": [name]}))
    with pytest.raises(CheckpointError, match="does not stay inside"):
        load(saved)


def test_another_family_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds a toy model \(Toy\), not a Other"):
        Other.from_pretrained(saved)
    assert isinstance(Toy.from_pretrained(saved, device="cpu"), Toy)


def test_an_unknown_family_is_refused(saved: Path) -> None:
    text = (saved / "config.yaml").read_text()
    (saved / "config.yaml").write_text(text.replace("model_type: toy", "model_type: hybird"))
    with pytest.raises(CheckpointError, match=r"'hybird' is not known; did you mean hybrid\?"):
        load(saved)


def test_a_misspelt_key_gets_the_nearest_name(saved: Path) -> None:
    text = (saved / "config.yaml").read_text()
    (saved / "config.yaml").write_text(text.replace("width:", "widht:"))
    with pytest.raises(ConfigError, match=r"config\.widht is not a known option; did you mean width\?"):
        load(saved)


def test_a_configuration_larger_than_the_weights_is_refused_before_it_is_built(saved: Path) -> None:
    text = (saved / "config.yaml").read_text()
    (saved / "config.yaml").write_text(text.replace("width: 4", "width: 1000000"))
    with pytest.raises(CheckpointError, match="larger model than the file has weights for"):
        load(saved)
    (saved / "config.yaml").write_text(text.replace("layers: 2", "layers: 100000000"))
    with pytest.raises(CheckpointError, match="larger model than the file has weights for"):
        load(saved)


def test_a_tag_in_the_configuration_is_refused(saved: Path) -> None:
    with (saved / "config.yaml").open("a") as file:
        file.write("evil: !!python/object/apply:os.system [true]\n")
    with pytest.raises(CheckpointError, match="YAML tag"):
        load(saved)


def test_what_is_no_model_is_told_with_what_may_be_given(tmp_path: Path) -> None:
    may_be_given = r"bundled name, a folder \(of aronnax, NeMo or transformers\), a \.nemo file, or a hub id"
    with pytest.raises(CheckpointError, match=r"holds no config\.yaml .*config\.json.*" + may_be_given):
        load(tmp_path)
    (tmp_path / "a.wav").write_bytes(b"RIFF" + bytes(2000))
    with pytest.raises(CheckpointError, match=r"a\.wav is not a model: .*" + may_be_given):
        load(tmp_path / "a.wav")


def test_int8_is_checked_before_anything_is_loaded(saved: Path) -> None:
    with pytest.raises(OptionError, match="'int4' is not known"):
        load(saved, weights="int4")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"device": "gpu"}, "device='gpu' is not known: use cpu, cuda"),
        ({"device": "cuda:99"}, r"device='cuda:99' cannot be used here \(.+\); device='cpu' always can"),
        ({"dtype": "bfloat16"}, "dtype='bfloat16' is not a type of torch; pass dtype=torch.bfloat16"),
    ],
)
def test_a_device_that_is_not_there_or_a_name_for_a_type_is_said(saved: Path, asked: dict, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        load(saved, **asked)


@pytest.mark.parametrize("step", ["save_file", "write_synced", "sync_file"])
def test_a_full_disk_leaves_the_old_checkpoint(
    toy: Toy, saved: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    where = "safetensors.torch.save_file" if step == "save_file" else f"aronnax.core.checkpoint.{step}"
    monkeypatch.setattr(where, full)
    with torch.no_grad():
        toy.norm.weight.fill_(7)
    with pytest.raises(CheckpointError, match=r"No space left on device; what was there before is unchanged"):
        toy.save_pretrained(saved)
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before


def test_a_save_cut_off_while_moving_its_files_is_finished_by_the_reader(
    toy: Toy, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, moved = os.replace, []

    def killed(source: Path, target: Path) -> None:
        moved.append(target)
        if len(moved) == 3:  # the commit, one file, then nothing more
            raise KeyboardInterrupt
        real(source, target)

    with torch.no_grad():
        toy.norm.weight.fill_(7)
    toy.words = b"new"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            toy.save_pretrained(saved)
    again = load(saved, device="cpu")
    assert again.norm.weight.eq(7).all()
    assert again.words == b"new"
    toy.save_pretrained(saved)
    assert sorted(path.name for path in saved.iterdir()) == [
        "README.md",
        "config.yaml",
        "lang",
        "model.safetensors",
    ]


def test_other_files_in_the_folder_are_left_alone(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    toy.save_pretrained(tmp_path)
    toy.save_pretrained(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_model_can_be_saved_over_the_folder_it_was_loaded_from(toy: Toy, saved: Path) -> None:
    x = torch.randn(3, 4)
    model = load(saved, device="cpu")
    model.save_pretrained(saved)
    assert torch.equal(model(x), toy(x))
    assert torch.equal(load(saved, device="cpu")(x), toy(x))


def test_the_card_is_written(toy: Toy, tmp_path: Path) -> None:
    toy.save_pretrained(tmp_path / "toy", card="# mine\n")
    assert (tmp_path / "toy" / "README.md").read_text() == "# mine\n"


def test_threads_may_load_at_once(toy: Toy, saved: Path) -> None:
    x = torch.randn(3, 4)
    results: list[Tensor] = []
    threads = [
        threading.Thread(target=lambda: results.append(load(saved, device="cpu")(x))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(torch.equal(result, toy(x)) for result in results)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
