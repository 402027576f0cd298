"""The list of words that may occur, written into a question: in training and when words are boosted later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aronnax.collections.llm.chat.messages import Message
from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class KeywordPrompt:
    """How a list of words is written before a question; the defaults are SALM's.

    >>> KeywordPrompt().write(["Aronnax", "Nautilus"])
    "Following words may occur in audio: ['Aronnax' 'Nautilus'] "
    >>> KeywordPrompt("Key words: {keywords}.", ", ", quoted=False).write(["Aronnax", "Nautilus"])
    'Key words: Aronnax, Nautilus.'
    """

    form: str = "Following words may occur in audio: [{keywords}] "
    """What stands before the question, the list in place of `{keywords}`."""
    separator: str = " "
    """Between two words."""
    quoted: bool = True
    """Whether each word stands in quotation marks."""

    def __post_init__(self) -> None:
        if self.form.count("{keywords}") != 1:
            raise ConfigError(f"the form of the list of words is {self.form!r}; it needs {{keywords}} once")

    def write(self, keywords: Sequence[str]) -> str:
        """The list as text, to stand before a question; nothing for no words."""
        if not keywords:
            return ""
        words = [repr(word) if self.quoted else word for word in keywords]
        return self.form.replace("{keywords}", self.separator.join(words))

    def before(self, messages: Sequence[Message], keywords: Sequence[str]) -> tuple[Message, ...]:
        """The conversation with the list before what its user says first; unchanged for no words."""
        first = next((place for place, message in enumerate(messages) if message.role == "user"), None)
        if first is None or not keywords:
            return tuple(messages)
        asked = Message("user", (self.write(keywords), *messages[first].content))
        return (*messages[:first], asked, *messages[first + 1 :])
