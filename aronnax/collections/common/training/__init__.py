"""What every training shares: the trainer section of a configuration, and the trainer it makes."""

from aronnax.collections.common.training.config import TrainerConfig

__all__ = ["TrainerConfig"]
