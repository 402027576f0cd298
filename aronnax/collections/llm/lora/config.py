"""What a LoRA adapter is (arXiv 2106.09685): a small trained change beside the linear layers of a frozen model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aronnax.core.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from peft import LoraConfig

DEFAULT = "default"
"""The name of an adapter that was given none."""


@dataclass(frozen=True)
class LoRA:
    """A layer W x becomes W x + (alpha / rank) B A x, of which A and B learn; B is zero at first."""

    rank: int = 16
    """Rows of A and columns of B."""
    alpha: float = 32.0
    """Strength: the change is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout before A while training."""
    target_modules: tuple[str, ...] = ()
    """Ends of names of the linear layers that are changed, e.g. `q_proj`; empty for all of the decoder's."""
    layers: tuple[int, ...] = ()
    """Numbers of the decoder's layers that are changed; empty for all."""
    rslora: bool = False
    """Divide by the square root of the rank instead (arXiv 2312.03732)."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora.rank is {self.rank}; it must be at least 1")
        if self.alpha <= 0:
            raise ConfigError(f"lora.alpha is {self.alpha}; it must be over 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout is {self.dropout}; it must be 0 or more and below 1")

    def to_peft(self) -> LoraConfig:
        """The same for peft."""
        peft = require_peft()
        made: LoraConfig = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(self.target_modules) or "all-linear",
            layers_to_transform=list(self.layers) or None,
            use_rslora=self.rslora,
            task_type="CAUSAL_LM",
        )
        return made

    @classmethod
    def from_peft(cls, plain: dict[str, Any], where: str) -> LoRA:
        """From the content of an adapter_config.json; ConfigError for a kind of adapter that is not supported."""
        if plain.get("peft_type") != "LORA":
            raise ConfigError(f"{where}: peft_type is {plain.get('peft_type')!r}; only LORA is supported")
        for option in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "target_parameters"):
            if plain.get(option):
                raise ConfigError(f"{where}: {option} is {plain[option]!r}, which is not supported")
        if plain.get("bias", "none") != "none":
            raise ConfigError(f"{where}: bias is {plain['bias']!r}; only 'none' is supported")
        targets = plain.get("target_modules") or []
        if isinstance(targets, str) and targets != "all-linear":
            raise ConfigError(f"{where}: target_modules is the pattern {targets!r}; give a list of names")
        layers = plain.get("layers_to_transform")
        return cls(
            rank=int(plain.get("r", 8)),
            alpha=float(plain.get("lora_alpha", 8)),
            dropout=float(plain.get("lora_dropout", 0.0)),
            target_modules=() if isinstance(targets, str) else tuple(sorted(map(str, targets))),
            layers=tuple([layers] if isinstance(layers, int) else layers or ()),
            rslora=bool(plain.get("use_rslora", False)),
        )


def require_peft() -> Any:
    """peft; MissingExtraError if it is not installed."""
    try:
        import peft
    except ImportError:
        raise MissingExtraError("peft", "llm", "LoRA") from None
    return peft
