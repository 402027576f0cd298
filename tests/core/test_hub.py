"""Names of models: paths, bundled models, the hub's cache, and the hub itself (never reached in these tests)."""

from __future__ import annotations

import builtins
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from aronnax.core import hub
from aronnax.core.errors import HubError

NAME = "nvidia/tiny-model"


class Hub:
    """Stands for the hub: answers `model_info`, and writes files where a download would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, int] = {}
        self.licence: str | None = "cc-by-4.0"
        self.said: list[str] = []
        self.error: Exception | None = None

    def model_info(self, name: str, revision: str | None, files_metadata: bool) -> Any:
        assert files_metadata
        if self.error is not None:
            raise self.error
        siblings = [SimpleNamespace(rfilename=file, size=size) for file, size in self.files.items()]
        return SimpleNamespace(siblings=siblings, card_data={"license": self.licence}, sha="a" * 40)

    def download(self, name: str, file: str, revision: str) -> str:
        self.said.append(f"file {file}")
        return str(self.folder / file)

    def snapshot(self, name: str, revision: str, allow_patterns: list[str]) -> str:
        self.said.append(f"files {sorted(allow_patterns)}")
        return str(self.folder)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def online(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot)
    return fake


def put_in_cache(cache: Path, files: list[str], name: str = NAME) -> Path:
    """A repository as huggingface_hub keeps it: blobs, and a snapshot of links to them."""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("b" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("b" * 40)
    (folder / "blobs").mkdir()
    for index, file in enumerate(files):
        (folder / "blobs" / str(index)).write_text(file)
        (snapshot / file).symlink_to(folder / "blobs" / str(index))
    return snapshot


def test_an_existing_path_wins_over_everything(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "nvidia").mkdir()
    (tmp_path / NAME).write_text("mine")
    assert hub.resolve(NAME) == Path(NAME)


def test_a_bundled_name_is_its_folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "config.yaml").touch()
    monkeypatch.setattr(hub, "_BUNDLED", tmp_path)
    monkeypatch.chdir(tmp_path / "toy")
    assert hub.resolve("toy") == tmp_path / "toy"
    with pytest.raises(HubError, match=r"'toi' is not a file.*did you mean toy\?"):
        hub.resolve("toi")


@pytest.mark.parametrize(
    "name", ["./missing", "/no/such/file", "missing.nemo", "org/missing.nemo", "~/nothing"]
)
def test_a_missing_path_is_not_taken_for_a_hub_id(name: str, cache: Path) -> None:
    with pytest.raises(HubError, match="there is no file or folder"):
        hub.resolve(name)


def test_a_cached_archive_needs_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = put_in_cache(cache, ["config.json", "model.safetensors", "tiny-model.nemo"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.resolve(NAME) == snapshot / "tiny-model.nemo"


@pytest.mark.parametrize("config", ["config.yaml", "config.json"])
def test_a_cached_folder_needs_no_network(config: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = put_in_cache(cache, [config, "model.safetensors"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.resolve(NAME) == snapshot


def test_a_half_downloaded_folder_is_not_enough(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_cache(cache, ["config.json"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="not in the local cache"):
        hub.resolve(NAME)


def test_offline_one_sentence_names_the_bundled_models(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "config.yaml").touch()
    monkeypatch.setattr(hub, "_BUNDLED", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError) as caught:
        hub.resolve(NAME)
    message = str(caught.value)
    assert "HF_HUB_OFFLINE is set" in message
    assert message.endswith("bundled models need no network: digits")
    assert "\n" not in message


def test_size_and_licence_are_said_before_the_download(online: Hub) -> None:
    online.files = {"tiny-model.nemo": 2_509_332_480, "README.md": 10}
    assert hub.resolve(NAME, notify=online.said.append) == online.folder / "tiny-model.nemo"
    assert online.said == ["downloading nvidia/tiny-model: 2.5 GB, licence cc-by-4.0", "file tiny-model.nemo"]


def test_without_a_callback_it_is_logged(online: Hub, caplog: pytest.LogCaptureFixture) -> None:
    online.files, online.licence = {"tiny-model.nemo": 12_345_678}, None
    with caplog.at_level(logging.INFO, "aronnax"):
        hub.resolve(NAME)
    assert "12.3 MB, licence not stated" in caplog.text


def test_the_archive_is_preferred_and_nothing_else_is_fetched(online: Hub) -> None:
    online.files = {"config.json": 1, "model.safetensors": 9, "other.nemo": 5, "tiny-model.nemo": 7}
    hub.resolve(NAME, notify=lambda text: None)
    assert online.said == ["file tiny-model.nemo"]


def test_a_folder_is_fetched_without_code_or_other_weights(online: Hub) -> None:
    online.files = {
        "config.yaml": 1,
        "model.safetensors": 9,
        "optimizer.safetensors": 9,
        "tokenizer.model": 2,
        "evil.py": 1,
        "pytorch_model.bin": 9,
    }
    assert hub.resolve(NAME, notify=lambda text: None) == online.folder
    assert online.said == ["files ['config.yaml', 'model.safetensors', 'tokenizer.model']"]


def test_a_transformers_folder_is_fetched_with_its_shards(online: Hub) -> None:
    online.files = {
        "config.json": 1,
        "model-00001-of-00002.safetensors": 9,
        "model-00002-of-00002.safetensors": 9,
        "model.safetensors.index.json": 1,
        "tokenizer.json": 2,
        "model.py": 1,
    }
    hub.resolve(NAME, notify=lambda text: None)
    assert "model.py" not in online.said[0]
    assert "model-00002-of-00002.safetensors" in online.said[0]


def test_a_repository_without_a_checkpoint_is_refused(online: Hub) -> None:
    online.files = {"README.md": 1}
    with pytest.raises(HubError, match=r"no \.nemo or safetensors checkpoint"):
        hub.resolve(NAME)
    online.files = {"a.nemo": 1, "b.nemo": 1}
    with pytest.raises(HubError, match=r"several \.nemo files \(a\.nemo, b\.nemo\)"):
        hub.resolve(NAME)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectionError(111, "Connection refused"), r"could not be fetched .*\(Connection refused\)"),
        (OSError(28, "No space left on device"), r"\(No space left on device\)"),
        (RuntimeError("name resolution failed\nstack"), r"\(RuntimeError: name resolution failed\)"),
    ],
)
def test_an_unreachable_hub_is_one_sentence(online: Hub, error: Exception, sentence: str) -> None:
    online.error = error
    with pytest.raises(HubError, match=sentence):
        hub.resolve(NAME)


def test_local_models_do_not_import_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        assert not name.startswith("huggingface_hub")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert hub.resolve(str(tmp_path)) == tmp_path


def test_a_folder_that_is_no_checkpoint_does_not_hide_a_bundled_model(tmp_path, monkeypatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert (hub.resolve("digits") / "model.safetensors").is_file()
    (tmp_path / "digits" / "config.yaml").write_text("model_type: ctc")
    assert hub.resolve("digits") == Path("digits")
