"""Checkpoints that share weights: what is shared is stored once, and comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from aronnax.core import registry
from aronnax.core.errors import CheckpointError, HubError
from aronnax.core.loading import load, open_parts
from aronnax.core.model import Model
from aronnax.core.references import Reference


@dataclass(frozen=True)
class HostConfig:
    width: int = 4


class Host(Model):
    model_type = "host"
    Config = HostConfig

    def __init__(self, config: HostConfig) -> None:
        super().__init__(config)
        self.one = nn.Linear(config.width, config.width)
        self.two = nn.Linear(config.width, config.width)


@dataclass(frozen=True)
class GuestConfig:
    width: int = 4
    host: str = ""


class Guest(Model):
    model_type = "guest"
    Config = GuestConfig

    def __init__(self, config: GuestConfig) -> None:
        super().__init__(config)
        self.host = Host(HostConfig(config.width))
        self.ear = nn.Linear(config.width, config.width)

    @classmethod
    def references(cls, config: GuestConfig) -> Mapping[str, Reference]:
        return {"host.": Reference(config.host)} if config.host else {}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry.import_module
    here = type("Here", (), {"Host": Host, "Guest": Guest})
    for name in ("Host", "Guest"):
        monkeypatch.setitem(registry._MODELS, name.lower(), (__name__, name))
    monkeypatch.setattr(registry, "import_module", lambda name: here if name == __name__ else real(name))


@pytest.fixture
def host(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return Host(HostConfig()).save_pretrained(tmp_path / "host", dtype=torch.float16)


def guest_of(host: Path) -> Guest:
    guest = Guest(GuestConfig(host=str(host)))
    guest.host.load_state_dict(load(host, device="cpu").state_dict())
    return guest


def test_what_is_shared_is_not_stored_again_and_comes_back(host: Path, tmp_path: Path) -> None:
    guest = guest_of(host)
    folder = guest.save_pretrained(tmp_path / "guest")
    assert set(load_file(folder / "model.safetensors")) == {"ear.weight", "ear.bias"}
    again = load(folder, device="cpu")
    for name, tensor in guest.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert "host" in open_parts(folder).details["shares"]


def test_what_was_trained_on_is_stored(host: Path, tmp_path: Path) -> None:
    guest = guest_of(host)
    with torch.no_grad():
        guest.host.two.bias[1] += 1e-3
    folder = guest.save_pretrained(tmp_path / "guest")
    assert set(load_file(folder / "model.safetensors")) == {"ear.weight", "ear.bias", "host.two.bias"}
    assert torch.equal(load(folder, device="cpu").state_dict()["host.two.bias"], guest.host.two.bias)


def test_without_a_reference_everything_is_stored(host: Path, tmp_path: Path) -> None:
    guest = Guest(GuestConfig())
    folder = guest.save_pretrained(tmp_path / "guest")
    assert len(load_file(folder / "model.safetensors")) == 6


def test_a_reference_that_leads_nowhere_is_named(host: Path, tmp_path: Path) -> None:
    folder = guest_of(host).save_pretrained(tmp_path / "guest")
    host.rename(tmp_path / "moved")
    with pytest.raises(HubError, match="host"):
        load(folder, device="cpu")


def test_checkpoints_that_refer_to_one_another_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "guest"
    Guest(GuestConfig()).save_pretrained(folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("host: ''", f"host: {folder}"))
    with pytest.raises(CheckpointError, match="refers back"):
        load(folder, device="cpu")


def test_a_reference_of_another_shape_is_an_error_that_names_the_tensor(host: Path, tmp_path: Path) -> None:
    wide = Host(HostConfig(width=6)).save_pretrained(tmp_path / "wide")
    guest = guest_of(host)
    folder = guest.save_pretrained(tmp_path / "guest")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(str(host), str(wide)))
    with pytest.raises(CheckpointError, match=r"host\.one"):
        load(folder, device="cpu")
