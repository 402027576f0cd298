"""Slots of a prompt, and the format that puts their tokens in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from aronnax.core.config import nearest
from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.common.text.prompts.tokenizer import CanaryTokenizer

_TRUE = frozenset({"true", "yes", "1", "on"})
_FALSE = frozenset({"false", "no", "0", "off"})


@dataclass(frozen=True)
class Prompted:
    """Ids of one example: what the decoder is given, and what it has to say, `<|endoftext|>` at its end.

    `prompt + answer` is NeMo's `input_ids`; `answer` is empty when no text was given.
    """

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Slot:
    """One place of a prompt.

    kind: `language` takes a code such as `en`; `switch` takes yes or no in any usual spelling, Python's bool
        among them; `choice` takes one of `values`; `text` takes any text.
    values: accepted spelling -> the token written.
    default: the token or text where nothing is given; None where something must be.
    """

    name: str
    kind: Literal["language", "switch", "choice", "text"]
    values: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None

    def render(self, value: Any) -> str:
        """The token of a value; a language's is `<|code|>`. OptionError lists what is known."""
        if self.kind == "text":
            if not isinstance(value, str):
                raise OptionError(f"{self.name}={value!r} must be text")
            return value
        if self.kind == "switch":
            return self._switch(value)
        if not isinstance(value, str) or not value:
            raise OptionError(f"{self.name}={value!r} must be {self._known()}")
        if self.kind == "language":
            return value if value.startswith("<|") else f"<|{value}|>"
        token = self.values.get(value)
        if token is None:
            raise OptionError(f"{self.name}={value!r} is not known: use {self._known()}")
        return token

    def _switch(self, value: Any) -> str:
        said = str(value).strip().lower() if isinstance(value, (bool, int, str)) else ""
        if said in _TRUE or said in (self.name, f"<|{self.name}|>"):
            return f"<|{self.name}|>"
        if said in _FALSE or said in (f"no{self.name}", f"<|no{self.name}|>"):
            return f"<|no{self.name}|>"
        raise OptionError(f"{self.name}={value!r} is not known: use {self._known()}")

    def _known(self) -> str:
        if self.kind == "switch":
            return f"True or False (also yes, no, 1, 0, {self.name}, no{self.name})"
        if self.kind == "language":
            return "the code of a language, such as 'en'"
        return "one of " + ", ".join(self.values)


@dataclass(frozen=True)
class PromptFormat:
    """A prompt's slots and template; `encode` gives the ids.

    template: literal tokens, and slots as `{name}`. aliases: other names of slots, as manifests spell them.
    derive: fills slots that follow from others.
    """

    name: str
    slots: Mapping[str, Slot]
    template: tuple[str, ...]
    partial: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    derive: Callable[[dict[str, str]], dict[str, str]] = dict

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and sent to other processes by name, so that models that hold a format can be, too."""
        from aronnax.collections.common.text.prompts.formats import prompt_format

        return prompt_format, (self.name,)

    def resolve(self, slots: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, str]:
        """Every slot's token (or text): given, else from `defaults`, else the format's own.

        A value of None counts as not given. Raises OptionError for a slot or value that is not known, or for a
        slot that has no default and was not given.
        """
        given = {self._name_of(key): value for key, value in slots.items() if value is not None}
        fallback = {self._name_of(key): value for key, value in (defaults or {}).items() if value is not None}
        rendered: dict[str, str] = {}
        for name, slot in self.slots.items():
            value = given.get(name, fallback.get(name, slot.default))
            if value is not None:
                rendered[name] = slot.render(value)
        rendered = self.derive(rendered)
        missing = [name for name in self.slots if name not in rendered]
        if missing:
            needed = " and ".join(f"{name} ({self.slots[name]._known()})" for name in missing)
            raise OptionError(f"the {self.name} prompt needs {needed}")
        return rendered

    def encode(
        self,
        tokenizer: CanaryTokenizer,
        slots: Mapping[str, Any],
        text: str | None = None,
        *,
        defaults: Mapping[str, Any] | None = None,
        prefix: str = "",
    ) -> Prompted:
        """Ids of the prompt, and of the answer `text` where there is one (an empty text is just the end).

        `prefix` is text the model is made to begin with; it counts as prompt. Raises OptionError for a slot or
        value that is not known, or a language the tokenizer has not.
        """
        values = self.resolve(slots, defaults)
        for name, slot in self.slots.items():
            if slot.kind == "language":
                values[name] = tokenizer.language_token(values[name], name, writes=name == "target_lang")
        target = values.get("target_lang", "").removeprefix("<|").removesuffix("|>")
        prompt = tokenizer.encode_prompt(self._pieces(self.template, values), target)
        if prefix:
            prompt += tokenizer.encode(prefix, target)
        answer = [] if text is None else tokenizer.encode_answer(text, target)
        return Prompted(prompt, answer)

    def encode_partial(self, tokenizer: CanaryTokenizer, context: str = "", language: str = "") -> list[int]:
        """Ids of the prompt's beginning, after which the model itself says emotion and source language.

        `context` is earlier text in `language`. OptionError for a format that has no such beginning.
        """
        if not self.partial:
            raise OptionError(f"the {self.name} prompt has no partial form")
        return tokenizer.encode_prompt(self._pieces(self.partial, {"decodercontext": context}), language)

    def check_known(self, names: Mapping[str, Any]) -> None:
        """OptionError for a name that is no slot of this prompt, listing those it has."""
        for name in names:
            self._name_of(name)

    def _name_of(self, key: str) -> str:
        name = self.aliases.get(key, key)
        if name not in self.slots:
            raise OptionError(
                f"{key!r} is not a slot of the {self.name} prompt, which has {', '.join(self.slots)}; "
                f"{nearest(key, [*self.slots, *self.aliases])}"
            )
        return name

    def _pieces(self, template: tuple[str, ...], values: Mapping[str, str]) -> list[tuple[str, bool]]:
        """(text, is it free text) in order, empty ones left out."""
        found = []
        for part in template:
            name = part[1:-1] if part.startswith("{") else None
            text = part if name is None else values[name]
            if text:
                found.append((text, name is not None and self.slots[name].kind == "text"))
        return found
