"""Whether a conversation leaves room for an answer, and which turn is too much."""

from __future__ import annotations

from collections.abc import Sequence

from aronnax.collections.llm.chat.messages import Message
from aronnax.collections.llm.chat.tokenizer import ChatTokenizer
from aronnax.core.errors import OptionError


def check_room(tokenizer: ChatTokenizer, messages: Sequence[Message], tokens: int, context: int) -> None:
    """OptionError if a conversation of so many tokens leaves no room in the context.

    The sentence says how many tokens are too many, from which turn on, and what to do.
    """
    if tokens < context:
        return
    for turn, message in enumerate(messages, start=1):
        until = messages[:turn]
        if message.role == "user" and len(tokenizer.render(until).ids) >= context:
            break
    over = tokens - context + 1
    raise OptionError(
        f"the conversation has {tokens} tokens, {over} more than the language model's context of {context} with "
        f"room for an answer; it is too long from turn {turn} ({message.role}) on: shorten that turn, or leave out "
        "earlier ones"
    )
