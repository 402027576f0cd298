"""Speech supervised in-context training: word lists in the prompts of training, for a model that heeds them.

Source: SALM, arXiv 2310.09424, section 2.3, and its code's data set for audio questions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from aronnax.collections.llm.chat.messages import Message
from aronnax.collections.speechlm.conversation.keyword_prompt import KeywordPrompt
from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class InContextConfig:
    """How often a question gets a list of words, and where the words come from."""

    probability: float = 0.0
    """Share of the conversations that get a list."""
    number: int = 10
    """Words in a list."""
    positive_share: float = 0.5
    """Share of them that the answer has; their number is rounded down. The others are of the answer before."""
    tasks: tuple[str, ...] = ("asr", "ast")
    """Whose conversations get lists; a list would give away the answer to a question of another kind."""
    prompt: KeywordPrompt = field(default_factory=KeywordPrompt)
    """How a list is written."""

    def __post_init__(self) -> None:
        for name in ("probability", "positive_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"in_context.{name} is {getattr(self, name)}; it lies between 0 and 1")
        if self.number < 1:
            raise ConfigError(f"in_context.number is {self.number}; a list has at least one word")
        if self.positive_share and not self.positives:
            raise ConfigError(
                f"in_context: {self.positive_share:g} of {self.number} words is less than one, so that no list would "
                "ever hold a word of its answer; raise number or positive_share"
            )

    @property
    def positives(self) -> int:
        """Words of a list that its answer has."""
        return int(self.number * self.positive_share)


class InContext:
    """Writes lists of words into questions, one conversation after the other.

    Positives are drawn, with replacement, from the words of the conversation's own answer, negatives from those of
    the conversation before; the first one has none before and gets no list.
    """

    def __init__(self, config: InContextConfig, seed: int | str) -> None:
        """What is drawn depends on the seed and the conversations before alone."""
        self.config = config
        self._rng = random.Random(f"{seed} in context")
        self._before: list[str] = []

    def keywords(self, answer: str) -> list[str]:
        """The list for the conversation with this answer, empty for those without one."""
        words, before = answer.split(), self._before
        self._before = words
        if self._rng.random() >= self.config.probability or not before or not words:
            return []
        listed = [self._rng.choice(words) for _ in range(self.config.positives)]
        listed += [self._rng.choice(before) for _ in range(self.config.number - len(listed))]
        self._rng.shuffle(listed)
        return listed

    def __call__(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The conversation, perhaps with a list before its first question."""
        return self.config.prompt.before(messages, self.keywords(messages[-1].text()))
