from __future__ import annotations

from typing import Any

import pytest

from aronnax.collections.diarization.sortformer.config import Profile, SortformerConfig
from aronnax.collections.diarization.sortformer.nemo import config_from_nemo, config_to_nemo
from aronnax.core.errors import ConfigError


def test_every_field_survives_the_way_to_nemo_and_back() -> None:
    config = SortformerConfig(
        max_speakers=6,
        profile=Profile(chunk=6, right=7, fifo=188, update=144, cache=300, left=2),
        asynchronous=True,
        limited_rate=0.3,
        sort_weight=0.8,
        pil_weight=0.2,
    )
    assert config_from_nemo(config_to_nemo(config, {})) == config


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("transformer_encoder", "pre_ln", True, "transformer_encoder.pre_ln=True"),
        ("transformer_encoder", "mask_future", True, "mask_future=True"),
        ("transformer_encoder", "adapter", 1, "transformer_encoder.adapter"),
        ("sortformer_modules", "use_memory_pe", True, "sortformer_modules.use_memory_pe"),
        ("sortformer_modules", "num_spks", 9, r"outside 1\.\.8"),
        ("sortformer_modules", "spkcache_len", 8, "too short for 4 speakers"),
        ("sortformer_modules", "chunk_len", 0, "profile.chunk=0"),
        ("encoder", "self_attention_model", "abs_pos", "self_attention_model"),
        (None, "eps", 0.5, "eps=0.5"),
        (None, "max_num_of_spks", 3, "max_num_of_spks=3"),
    ],
)
def test_what_is_not_supported_is_an_error_that_names_it(
    section: str | None, key: str, value: Any, said: str
) -> None:
    nemo = config_to_nemo(SortformerConfig(), {})
    if key == "num_spks":
        nemo["max_num_of_spks"] = value
    (nemo if section is None else nemo[section])[key] = value
    with pytest.raises(ConfigError, match=said):
        config_from_nemo(nemo)
