"""LoRA adapters: nothing at step 0, only themselves in training, gone when dropped, and refused by another base."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("peft")

import aronnax
from aronnax.collections.llm.backbone import Backbone
from aronnax.collections.llm.lora import (
    LoRA,
    activate,
    adapter_names,
    adapter_tensors,
    attach,
    drop,
    load_adapter,
    merge,
    save_adapter,
)
from aronnax.collections.llm.loss import answer_cross_entropy
from aronnax.collections.llm.model import LanguageModel
from aronnax.core.errors import CheckpointError, ConfigError, OptionError
from tests.llm.small import language_model

IDS = torch.tensor([[5, 60, 7, 200, 33], [9, 9, 120, 4, 301]])
QUERIES = LoRA(rank=2, alpha=6, target_modules=("q_proj", "v_proj"), layers=(1,))


def backbone(seed: int = 0) -> Backbone:
    return language_model(seed).llm


def hidden(llm: Backbone, **options: Any) -> Tensor:
    with torch.no_grad():
        return llm(llm.embed(IDS), **options)


def disturb(llm: Backbone, name: str = "default", seed: int = 1) -> None:
    draws = torch.Generator().manual_seed(seed)
    for tensor in adapter_tensors(llm, name).values():
        torch.nn.init.normal_(tensor, std=0.3, generator=draws)


def step(llm: Backbone) -> None:
    """One update of whatever learns."""
    optimizer = torch.optim.AdamW(
        [one for one in llm.parameters() if one.requires_grad], lr=0.1, weight_decay=0.0
    )
    loss, _ = answer_cross_entropy(llm(llm.embed(IDS)), IDS.roll(-1, 1), llm.logits)
    loss.backward()
    optimizer.step()


def test_a_fresh_adapter_changes_nothing_bit_by_bit() -> None:
    llm = backbone()
    before = hidden(llm)
    attach(llm, LoRA(rank=3))
    assert torch.equal(hidden(llm), before)


def test_a_step_changes_the_adapter_and_nothing_else() -> None:
    llm = backbone()
    attach(llm, QUERIES)
    before = {name: tensor.clone() for name, tensor in llm.state_dict().items()}
    step(llm)
    changed = {name for name, tensor in llm.state_dict().items() if not torch.equal(tensor, before[name])}
    # A has no gradient while B is zero.
    assert changed == {name for name in before if ".lora_B." in name}
    step(llm)
    changed = {name for name, tensor in llm.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".lora_" in name}
    assert all("layers.1." in name and name.count("_proj.") for name in changed)


def test_switching_off_for_a_call_restores_the_base_exactly() -> None:
    llm = backbone()
    before = hidden(llm)
    attach(llm, LoRA(rank=3))
    disturb(llm)
    assert not torch.allclose(hidden(llm), before, atol=1e-2)
    assert torch.equal(hidden(llm, adapter=False), before)
    assert not torch.equal(hidden(llm), before)


def test_one_call_without_leaves_the_others_alone() -> None:
    llm = backbone()
    attach(llm, LoRA(rank=3))
    disturb(llm)
    wanted = {False: hidden(llm, adapter=False), None: hidden(llm)}
    wrong: list[int] = []

    def ask(adapter: bool | None) -> None:
        wrong.extend(1 for _ in range(20) if not torch.equal(hidden(llm, adapter=adapter), wanted[adapter]))

    threads = [threading.Thread(target=ask, args=(one,)) for one in (False, None, False, None)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_decoding_honours_the_adapter_and_its_absence() -> None:
    model = language_model()
    plain: Any = model.generate("Hi", max_new_tokens=8)
    attach(model.llm, LoRA(rank=4))
    disturb(model.llm)
    adapted: Any = model.generate("Hi", max_new_tokens=8)
    without: Any = model.generate("Hi", max_new_tokens=8, adapter=False)
    assert without.tokens == plain.tokens
    assert without.log_probs == plain.log_probs
    ids = torch.tensor([model.text.render("Hi").ids])
    first = model.llm.logits(model.llm(model.llm.embed(ids)))[0, -1].argmax()
    assert adapted.tokens[0] == int(first)
    assert adapted.log_probs != plain.log_probs


def test_several_adapters_are_chosen_by_name() -> None:
    llm = backbone()
    attach(llm, LoRA(rank=3), "german")
    disturb(llm, "german")
    german = hidden(llm)
    attach(llm, QUERIES, "french")
    disturb(llm, "french", seed=2)
    french = hidden(llm)
    assert adapter_names(llm) == ["french", "german"]
    assert torch.equal(hidden(llm, adapter="german"), german)
    assert not torch.equal(french, german)
    activate(llm, "german")
    assert torch.equal(hidden(llm), german)
    assert torch.equal(hidden(llm, adapter="french"), french)


def test_only_the_adapter_attached_last_learns() -> None:
    llm = backbone()
    attach(llm, LoRA(rank=3), "german")
    attach(llm, QUERIES, "french")
    learning = {name for name, parameter in llm.named_parameters() if parameter.requires_grad}
    assert learning == {name for name in llm.state_dict() if ".french." in name}


def test_merging_keeps_the_outputs_and_the_plain_names() -> None:
    llm = backbone()
    names = set(llm.state_dict())
    attach(llm, LoRA(rank=3))
    disturb(llm)
    adapted = hidden(llm)
    merge(llm)
    assert set(llm.state_dict()) == names
    torch.testing.assert_close(hidden(llm), adapted, atol=1e-4, rtol=1e-4)


def test_dropping_gives_the_base_back_bit_by_bit() -> None:
    llm = backbone()
    before, names = hidden(llm), set(llm.state_dict())
    for name in ("german", "french"):
        attach(llm, LoRA(rank=3), name)
        disturb(llm, name)
    drop(llm, "german")
    assert adapter_names(llm) == ["french"]
    drop(llm)
    assert set(llm.state_dict()) == names
    assert torch.equal(hidden(llm), before)


def test_a_saved_adapter_is_small_and_comes_back(tmp_path: Path) -> None:
    llm = backbone()
    attach(llm, QUERIES)
    disturb(llm)
    save_adapter(llm, tmp_path, base="tiny")
    other = backbone()
    saved = load_adapter(other, tmp_path, "french")
    assert (saved.base, saved.lora) == ("tiny", QUERIES)
    assert torch.equal(hidden(other), hidden(llm))
    assert not any(parameter.requires_grad for parameter in other.parameters())
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 4096


def test_peft_reads_our_folder_and_we_read_pefts(tmp_path: Path) -> None:
    import peft

    llm = backbone()
    attach(llm, QUERIES)
    disturb(llm)
    save_adapter(llm, tmp_path / "ours")
    wrapped: Any = peft.PeftModel.from_pretrained(backbone().causal, tmp_path / "ours")  # type: ignore[arg-type]
    torch.testing.assert_close(wrapped(IDS).logits, llm.logits(hidden(llm)))
    wrapped.save_pretrained(tmp_path / "theirs")
    other = backbone()
    load_adapter(other, tmp_path / "theirs")
    assert torch.equal(hidden(other), hidden(llm))


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    llm = backbone()
    attach(llm, QUERIES)
    save_adapter(llm, tmp_path, base="tiny")
    other = backbone(seed=1)
    before = hidden(other)
    with pytest.raises(CheckpointError, match="was made for tiny, and this language model is not that one"):
        load_adapter(other, tmp_path)
    assert torch.equal(hidden(other), before)
    assert adapter_names(other) == []


def test_a_base_rounded_to_bfloat16_is_still_the_base(tmp_path: Path) -> None:
    llm = backbone()
    attach(llm, QUERIES)
    save_adapter(llm, tmp_path)
    load_adapter(backbone().to(torch.bfloat16), tmp_path)


def test_an_adapter_of_other_shapes_is_refused_even_without_samples(tmp_path: Path) -> None:
    llm = backbone()
    attach(llm, QUERIES)
    save_adapter(llm, tmp_path)
    (tmp_path / "adapter.yaml").unlink()
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "r": 5}))
    other = backbone()
    with pytest.raises(CheckpointError, match=r"q_proj\.lora_A\.weight is 2x32 in the file and 5x32 here"):
        load_adapter(other, tmp_path)
    assert adapter_names(other) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"target_modules": "q_.*"}, "the pattern 'q_"),
    ],
)
def test_other_kinds_of_adapters_are_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    llm = backbone()
    attach(llm, QUERIES)
    save_adapter(llm, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=said):
        load_adapter(backbone(), tmp_path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    llm = backbone()
    with pytest.raises(ConfigError, match="has no query_net to change"):
        attach(llm, LoRA(target_modules=("query_net",)))
    with pytest.raises(OptionError, match="no adapter 'french': it has none"):
        drop(llm, "french")
    with pytest.raises(CheckpointError, match=r"no adapter_config.json"):
        load_adapter(llm, tmp_path)
    attach(llm, QUERIES)
    with pytest.raises(OptionError, match="has an adapter 'default' already"):
        attach(llm, QUERIES)


def test_a_model_with_lora_stores_what_differs_from_the_base_it_refers_to(tmp_path: Path) -> None:
    base = language_model()
    base.save_pretrained(tmp_path / "base")
    model = language_model(lora=QUERIES, references={"llm.": str(tmp_path / "base")})
    disturb(model.llm)
    model.save_pretrained(tmp_path / "adapted")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("base", "adapted")]
    assert sizes[1] < sizes[0] / 10
    again: Any = aronnax.load(tmp_path / "adapted", device="cpu")
    assert isinstance(again, LanguageModel)
    assert torch.equal(hidden(again.llm), hidden(model.llm))
    assert torch.equal(hidden(again.llm, adapter=False), hidden(base.llm))
