"""The data module of speech language models: conversations as they are, and made of recordings with transcripts.

Every length is in seconds on one scale: those of the recordings, and `token_equivalent_duration` for each token of
text. Filters, buckets and batches of the `data` section count with it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aronnax.collections.llm.chat.tokenizer import AUDIO, ChatTokenizer
from aronnax.collections.speechlm.conversation.batch import ConversationBatch, MakeConversationBatch
from aronnax.collections.speechlm.conversation.cuts import (
    conversation_cut,
    is_conversation,
    messages_of,
    with_messages,
)
from aronnax.collections.speechlm.conversation.in_context import InContext, InContextConfig
from aronnax.collections.speechlm.conversation.templates import TEMPLATES, Ask, TemplateConfig
from aronnax.core.errors import ConfigError

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from aronnax.collections.common.data.config import DataConfig
    from aronnax.collections.common.data.module import SpeechDataModule


@dataclass(frozen=True)
class ConversationConfig:
    """How recordings become conversations, and how long these count."""

    templates: tuple[TemplateConfig, ...] = TEMPLATES
    """What is asked about recordings with transcripts."""
    in_context: InContextConfig = field(default_factory=InContextConfig)
    """Lists of words before the questions of training."""
    token_equivalent_duration: float = 0.08
    """Seconds that a token of text counts: what a frame of speech lasts in the language model."""

    def __post_init__(self) -> None:
        if self.token_equivalent_duration <= 0:
            raise ConfigError(
                f"token_equivalent_duration is {self.token_equivalent_duration}; a token counts some seconds"
            )


def conversation_data(
    config: DataConfig,
    tokenizer: ChatTokenizer,
    conversation: ConversationConfig | None = None,
    *,
    train: Iterable[Cut] | Mapping[str, Iterable[Cut]] | None = None,
    validation: Mapping[str, Iterable[Cut]] | None = None,
) -> SpeechDataModule[ConversationBatch]:
    """The data module of speech language models.

    `train` and `validation` are cuts to use instead of the configuration's inputs: of conversations
    (`conversation_cut`), or of recordings that templates make conversations of.
    """
    from aronnax.collections.common.data.module import SpeechDataModule
    from aronnax.collections.speechlm.conversation.sources import Conversations

    conversation = conversation or ConversationConfig()
    return SpeechDataModule(
        config,
        MakeConversationBatch(tokenizer),
        train=train,
        validation=validation,
        examine=ExamineConversations(tokenizer, conversation.token_equivalent_duration),
        open_input={"conversations": Conversations},
        convert=ToConversations(conversation),
    )


class ToConversations:
    """Makes a conversation of each recording with a transcript, and writes lists of words into questions.

    What is drawn depends on the seed and the place in the stream alone. For validation nothing is drawn: the first
    question of the first template is asked, without a list.
    """

    def __init__(self, config: ConversationConfig) -> None:
        """Of the templates and lists of words that `config` has."""
        self.config, self.ask = config, Ask(config.templates)

    def __call__(self, cuts: Iterable[Cut], seed: int, training: bool) -> Iterator[Cut]:
        """Conversations one after the other; a cut without a transcript is passed on as it is."""
        rng = random.Random(f"{seed} questions") if training else None
        write = InContext(self.config.in_context, seed)
        for cut in cuts:
            made = cut if is_conversation(cut) else self._conversation(cut, rng)
            yield with_messages(made, write(messages_of(made))) if training and self._listed(made) else made

    def _conversation(self, cut: Cut, rng: random.Random | None) -> Cut:
        from aronnax.collections.common.data.filters import cut_language, cut_text

        if cut_text(cut) is None:
            return cut
        task, messages = self.ask(cut, rng)
        custom = {**(cut.custom or {}), "task": task}
        recording = cut.drop_supervisions()
        return conversation_cut(cut.id, messages, [recording], language=cut_language(cut), custom=custom)

    def _listed(self, cut: Cut) -> bool:
        from aronnax.collections.common.data.recordings import heard

        if not self.config.in_context.probability or not is_conversation(cut):
            return False
        return cut.custom.get("task") in self.config.in_context.tasks and bool(heard(cut))


class ExamineConversations:
    """Looks at conversations before their audio is read: counts their tokens, and with these their length."""

    def __init__(self, tokenizer: ChatTokenizer, token_seconds: float) -> None:
        """With a tokenizer whose every token counts `token_seconds` seconds."""
        self.tokenizer, self.token_seconds = tokenizer, token_seconds

    def __call__(self, cut: Cut) -> str | None:
        """Note a cut's tokens and its length in seconds on it; why it is left out, or None."""
        from aronnax.collections.common.data.filters import note_number
        from aronnax.collections.common.data.recordings import heard

        if not is_conversation(cut):
            return "without a transcript"
        ids = self.tokenizer.render(messages_of(cut), answer=True).ids
        tokens = len(ids) - ids.count(AUDIO)
        seconds = sum(part.duration for part in heard(cut)) + tokens * self.token_seconds
        # Sums of seconds must not pass an edge between buckets by the last bit of a number.
        cut.duration = round(seconds, 6)
        for supervision in cut.supervisions:
            supervision.duration = cut.duration
        note_number(cut, tokens)
        return None
