"""`ChatTokenizer`: a Hugging Face tokenizer's files, and conversations written down with a prompt format.

The ids are those of the `tokenizer.json`; nothing is normalised or added that the file does not ask for.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aronnax.collections.llm.chat.messages import Audio, Message, messages_from
from aronnax.collections.llm.chat.templates import CHAT_TEMPLATE, Piece, Turn, chat_format, check_turns
from aronnax.core.errors import CheckpointError, MissingExtraError, OptionError

AUDIO = -1
"""Stands in ids where a recording goes."""
AUDIO_TOKEN = "<|audioplaceholder|>"
"""How NeMo's speech language models write that place."""
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
FILES = (
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""What `from_assets` looks at, all but the first optional."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as ids of the language model."""

    ids: list[int]
    """Token ids; `AUDIO` (-1) where a recording goes."""
    learned: list[bool]
    """For each id, whether it belongs to an answer that is learned; all False without an answer."""
    audios: list[Audio] = field(default_factory=list)
    """The recordings in the order of their places."""


class ChatTokenizer:
    """Text to ids and back, and conversations to ids."""

    def __init__(
        self,
        assets: Mapping[str, bytes],
        *,
        prompt_format: str = CHAT_TEMPLATE,
        audio_token: str = AUDIO_TOKEN,
    ) -> None:
        """Read a tokenizer's files.

        Args:
            assets: file name -> content, `tokenizer.json` among them.
            prompt_format: a named format, or `chat_template` for the tokenizer's own.
            audio_token: how a recording's place is written; added to the tokenizer where it lacks it.

        Raises:
            CheckpointError: a file is missing or damaged.
            OptionError: the format is not known.
        """
        self._assets = {name: assets[name] for name in FILES if name in assets}
        if prompt_format != CHAT_TEMPLATE:
            chat_format(prompt_format)
        self.prompt_format = prompt_format
        self.audio_token = audio_token
        self._tokenizer = _read_tokenizer(self._assets)
        self._settings = _read_json(self._assets, TOKENIZER_CONFIG)
        self._generation = _read_json(self._assets, "generation_config.json")
        self._specials = _special_names(self._settings, _read_json(self._assets, "special_tokens_map.json"))
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self._audio_id = self._place_for_audio()
        self.bos_id = self._id_of("bos_token")
        self.eos_id = self._id_of("eos_token")
        self.pad_id = self._pad()
        self.end_ids = self._ends()

    @classmethod
    def from_assets(
        cls,
        assets: Mapping[str, bytes],
        *,
        prompt_format: str = CHAT_TEMPLATE,
        audio_token: str = AUDIO_TOKEN,
    ) -> ChatTokenizer:
        """The tokenizer of files stored beside a model; see `ChatTokenizer`."""
        return cls(assets, prompt_format=prompt_format, audio_token=audio_token)

    def assets(self) -> dict[str, bytes]:
        """The files from which `from_assets` makes an equal tokenizer, unchanged."""
        return dict(self._assets)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._assets, self.prompt_format, self.audio_token)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer brings a template of its own."""
        return self._template() is not None

    def encode(self, text: str) -> list[int]:
        """Ids of a text; nothing is put at its ends. Special tokens that stand in the text count as such."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of ids; places of recordings are left out."""
        kept = [int(token) for token in ids if 0 <= int(token) < max(self.vocab_size, self._audio_id + 1)]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=skip_special)
        return text

    def id_of(self, token: str) -> int | None:
        """The id of a piece as the vocabulary spells it, or None."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def token_of(self, token: int) -> str:
        """A piece as the vocabulary spells it."""
        return str(self._tokenizer.id_to_token(int(token)))

    def render(
        self,
        messages: Any,
        *,
        answer: bool = False,
        prompt_format: str | None = None,
        thinking: bool = True,
        rng: random.Random | None = None,
    ) -> Rendered:
        """Ids of a conversation.

        Args:
            messages: what `messages_from` takes.
            answer: the last message is the assistant's and is learned; else the model is to answer the last one.
            prompt_format: another format than the tokenizer's.
            thinking: formats with thoughts leave the model room to think; False closes the thought at once.
            rng: draws where Qwen3's training format puts its switches; without it they stand after the last question.

        Raises:
            OptionError: roles are broken, or the tokenizer lacks a chat template.
        """
        conversation = _joined(messages_from(messages))
        self._check(conversation, answer)
        turns = [(message.role, message.text(self.audio_token)) for message in conversation]
        name = prompt_format or self.prompt_format
        if name == CHAT_TEMPLATE:
            ids, learned = self._by_template(turns, answer, thinking)
        else:
            ids, learned = self._by_pieces(chat_format(name).pieces(turns, thinking=thinking, rng=rng))
        if not answer:
            learned = [False] * len(ids)
        ids = [AUDIO if token == self._audio_id else token for token in ids]
        audios = [audio for message in conversation for audio in message.audios]
        if ids.count(AUDIO) != len(audios):
            raise OptionError(
                f"the prompt has {ids.count(AUDIO)} places for {len(audios)} recordings; "
                f"the {name} prompt format does not keep {self.audio_token}"
            )
        return Rendered(ids, learned, audios)

    def _check(self, conversation: Sequence[Message], answer: bool) -> None:
        ends = conversation[-1].role == "assistant"
        if answer and not ends:
            raise OptionError("the last message must be the assistant's: it is the answer to be learned")
        if not answer and ends:
            raise OptionError("the last message is the assistant's; the model answers a user message")
        for place, message in enumerate(conversation, start=1):
            if any(isinstance(part, str) and self.audio_token in part for part in message.content):
                raise OptionError(
                    f"turn {place} holds the text {self.audio_token}; put the recording there as Audio(...)"
                )

    # ---- named formats

    def _by_pieces(self, pieces: Sequence[Piece]) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        learned: list[bool] = []
        for piece in pieces:
            made = self._encode_piece(piece.text)
            ids += made
            learned += [piece.learned] * len(made)
        return ids, learned

    def _encode_piece(self, text: str) -> list[int]:
        begins, ends = text.startswith("{bos}"), text.endswith("{eos}")
        ids = self.encode(text.removeprefix("{bos}").removesuffix("{eos}"))
        if begins:
            ids = [self._need("bos_token", self.bos_id), *ids]
        return [*ids, self._need("eos_token", self.eos_id)] if ends else ids

    def _need(self, name: str, value: int | None) -> int:
        if value is None:
            raise OptionError(
                f"the {self.prompt_format} prompt format needs the tokenizer's {name}; it has none"
            )
        return value

    # ---- the tokenizer's own template

    def _by_template(
        self, turns: Sequence[Turn], answer: bool, thinking: bool
    ) -> tuple[list[int], list[bool]]:
        """Learned are the characters that an answer adds to the prompt before it."""
        check_turns(turns, CHAT_TEMPLATE, has_system=True)
        full = self._write(turns, not answer, thinking)
        spans = self._answers(turns, full, thinking) if answer else []
        encoding = self._tokenizer.encode(full, add_special_tokens=False)
        learned = [any(first <= start < last for first, last in spans) for start, _ in encoding.offsets]
        return list(encoding.ids), learned

    def _answers(self, turns: Sequence[Turn], full: str, thinking: bool) -> list[tuple[int, int]]:
        spans = []
        last = len(turns) - 1
        for place, (role, _) in enumerate(turns):
            if role != "assistant":
                continue
            before = self._write(turns[:place], True, thinking)
            after = full if place == last else self._write(turns[: place + 1], False, thinking)
            if full.startswith(before) and full.startswith(after):
                spans.append((len(before), len(after)))
            elif place == last:
                # The template writes an answer otherwise than the prompt for it: what both share is the prompt.
                spans.append((len(_shared(before, full)), len(full)))
        return spans

    def _write(self, turns: Sequence[Turn], ask: bool, thinking: bool) -> str:
        template = self._template()
        if template is None:
            raise OptionError(
                "the tokenizer has no chat template; name a prompt format instead, such as qwen, llama3 or plain"
            )
        try:
            from transformers.utils.chat_template_utils import render_jinja_template
        except ImportError:
            raise MissingExtraError("transformers", "llm", "a chat template") from None
        import jinja2

        chat = [{"role": role, "content": text} for role, text in turns]
        names: dict[str, Any] = {key: value for key, value in self._specials.items() if value}
        try:
            rendered: Any = render_jinja_template(
                [chat],
                chat_template=template,
                add_generation_prompt=ask,
                enable_thinking=thinking,
                **names,
            )
        except jinja2.TemplateError as error:
            raise OptionError(f"the chat template refuses this conversation: {error}") from None
        return str(rendered[0][0])

    def _template(self) -> str | None:
        if "chat_template.jinja" in self._assets:
            return self._assets["chat_template.jinja"].decode("utf-8", "replace")
        found = self._settings.get("chat_template")
        if isinstance(found, list):  # several by name
            named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
            found = named.get("default")
        return found if isinstance(found, str) else None

    # ---- special tokens

    def _place_for_audio(self) -> int:
        known = self.id_of(self.audio_token)
        if known is None:
            from tokenizers import AddedToken

            self._tokenizer.add_special_tokens([AddedToken(self.audio_token, normalized=False, special=True)])
            known = self.id_of(self.audio_token)
        assert known is not None
        return known

    def _id_of(self, name: str) -> int | None:
        token = self._specials.get(name)
        return None if token is None else self.id_of(token)

    def _pad(self) -> int:
        for known in (self._id_of("pad_token"), self.eos_id, self._id_of("unk_token")):
            if known is not None:
                return known
        return 0

    def _ends(self) -> tuple[int, ...]:
        """Every id that ends an answer: end of sequence, what generation_config.json adds, the format's own."""
        stated = self._generation.get("eos_token_id", [])
        found = [self.eos_id, *(stated if isinstance(stated, list) else [stated])]
        if self.prompt_format != CHAT_TEMPLATE:
            found += [self.id_of(token) for token in chat_format(self.prompt_format).end]
        elif self.has_chat_template:
            found.append(self._end_of_template())
        return tuple(dict.fromkeys(token for token in found if isinstance(token, int)))

    def _end_of_template(self) -> int | None:
        """The first special token after an answer, as the template writes it."""
        try:
            rest = self._write([("user", "x"), ("assistant", "answer")], False, True).rpartition("answer")[2]
        except (OptionError, MissingExtraError):
            return None
        added = self._tokenizer.get_added_tokens_decoder()
        return next((token for token in self.encode(rest) if token in added), None)


def _rebuild(assets: dict[str, bytes], prompt_format: str, audio_token: str) -> ChatTokenizer:
    return ChatTokenizer(assets, prompt_format=prompt_format, audio_token=audio_token)


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Messages with neighbours of one role joined."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role:
            joined[-1] = Message(message.role, joined[-1].content + message.content)
        else:
            joined.append(message)
    return joined


def _shared(one: str, other: str) -> str:
    """The longest beginning of both."""
    length = 0
    for mine, theirs in zip(one, other):
        if mine != theirs:
            break
        length += 1
    return one[:length]


def _read_tokenizer(assets: Mapping[str, bytes]) -> Any:
    if TOKENIZER not in assets:
        raise CheckpointError(
            f"the language model has no {TOKENIZER}; save its fast tokenizer beside it "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(folder))"
        )
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtraError("tokenizers", "llm", "a language model's tokenizer") from None
    try:
        return Tokenizer.from_str(assets[TOKENIZER].decode("utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{TOKENIZER} is damaged: {error}") from None


def _read_json(assets: Mapping[str, bytes], name: str) -> dict[str, Any]:
    if name not in assets:
        return {}
    try:
        data = json.loads(assets[name])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{name} must hold a mapping")
    return data


def _special_names(*sources: Mapping[str, Any]) -> dict[str, str | None]:
    """bos_token, eos_token, ... as texts; the first source that has one wins."""
    found: dict[str, str | None] = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        for source in sources:
            value = source.get(name)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                found.setdefault(name, value)
    return found
