"""Prompt formats by name: how the turns of a conversation are written down for a language model.

Each turn is rendered and tokenised on its own, so that the ids are those of NeMo 3.0.0's formatters of the same
names. `{message}` and `{system}` are filled in; `{bos}` at a turn's beginning and `{eos}` at its end are the
tokenizer's own ids, never text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aronnax.core.config import nearest
from aronnax.core.errors import OptionError

Turn = tuple[str, str]
"""(role, text), where the role is system, user or assistant."""

CHAT_TEMPLATE = "chat_template"
"""The format that is the tokenizer's own Jinja template."""


@dataclass(frozen=True)
class Piece:
    """A part of a prompt that is tokenised on its own."""

    text: str
    learned: bool = False
    """Whether it is an answer the model learns."""


@dataclass(frozen=True)
class ChatFormat:
    """How turns are written.

    >>> [piece.text for piece in CHAT_FORMATS["qwen"].pieces([("user", "Hi")])]
    ['<|im_start|>user\\nHi<|im_end|>\\n', '<|im_start|>assistant\\n']
    """

    name: str
    user: str
    assistant: str
    system: str | None = None
    """None where the format has no system turn."""
    system_and_user: str | None = None
    """One turn for a system message and the user message after it, where they are written together."""
    begin: str = ""
    """Written before everything."""
    prefix: str = ""
    """What the model's answer begins with, written after the last user turn."""
    end: tuple[str, ...] = ()
    """Tokens that end an answer, beside the tokenizer's end of sequence."""
    close: str = ""
    """Written after the last answer."""
    learn_all: bool = True
    """Whether every answer of a conversation is learned, or only the last."""
    think: Callable[[list[Turn], bool, random.Random | None], tuple[list[Turn], str]] | None = None
    """Puts thinking marks into the turns; gives the turns and what follows the prefix."""

    def pieces(
        self, turns: Sequence[Turn], *, thinking: bool = True, rng: random.Random | None = None
    ) -> list[Piece]:
        """The pieces of a conversation, in order; the prefix comes last if the last turn is not an answer.

        Raises OptionError for a role the format does not have or turns that do not alternate.
        """
        turns = list(turns)
        check_turns(turns, self.name, has_system=self.system is not None or self.system_and_user is not None)
        opening = ""
        if self.think is not None:
            turns, opening = self.think(turns, thinking, rng)
        found = [Piece(self.begin)] if self.begin else []
        last = len(turns) - 1
        place = 0
        while place <= last:
            role, text = turns[place]
            learned = role == "assistant" and (self.learn_all or place == last)
            if role == "system" and self.system_and_user is not None:
                place += 1
                said = _fill(self.system_and_user, system=text, message=turns[place][1])
            else:
                said = _fill(self._template(role), message=text)
            found.append(Piece(said, learned))
            place += 1
        if turns[-1][0] != "assistant":
            if self.prefix:
                found.append(Piece(self.prefix + opening))
        elif self.close:
            found.append(Piece(self.close, learned=True))
        return found

    def _template(self, role: str) -> str:
        return {"system": self.system, "user": self.user, "assistant": self.assistant}[role] or ""


def chat_format(name: str) -> ChatFormat:
    """The format called `name`; OptionError lists those there are."""
    if name not in CHAT_FORMATS:
        known = [*CHAT_FORMATS, CHAT_TEMPLATE]
        raise OptionError(
            f"prompt format {name!r} is not known; {nearest(str(name), known)} (there are {', '.join(known)})"
        )
    return CHAT_FORMATS[name]


def check_turns(turns: Sequence[Turn], name: str, *, has_system: bool) -> None:
    """OptionError unless turns are: perhaps a system turn, then user and assistant by turns, the user first."""
    if not turns:
        raise OptionError("the conversation is empty; it needs at least one user message")
    expected = "user"
    for place, (role, _) in enumerate(turns, start=1):
        if role == "system":
            if place > 1:
                raise OptionError(f"turn {place} is the system's; a system message may only come first")
            if not has_system:
                raise OptionError(
                    f"the {name} prompt format has no system message; put turn 1 into the first user message"
                )
        elif role != expected:
            raise OptionError(
                f"turn {place} is the {role}'s where the {expected}'s must come; they take turns"
            )
        else:
            expected = "assistant" if role == "user" else "user"
    if turns[-1][0] == "system":
        raise OptionError("the conversation has only a system message; it needs a user message")


def _fill(template: str, **values: str) -> str:
    return re.sub(r"\{(message|system)\}", lambda found: values[found[1]], template)


_NO_THOUGHT = "<think>\n\n</think>\n\n"


def _qwen3(turns: list[Turn], thinking: bool, rng: random.Random | None) -> tuple[list[Turn], str]:
    """Qwen3's thinking marks: none in earlier answers, a block in the last one, a switch in a question."""
    turns = [
        (role, text.split("</think>")[1].strip() if role == "assistant" and "</think>" in text else text)
        for role, text in turns[:-1]
    ] + turns[-1:]
    opening = "" if thinking else _NO_THOUGHT
    if turns[-1][0] == "assistant":
        turns = _qwen3_answer(turns, rng)
    if turns[0] == ("system", turns[0][1]) and not turns[0][1].strip():
        turns = turns[1:]
    return turns, opening


def _qwen3_answer(turns: list[Turn], rng: random.Random | None) -> list[Turn]:
    said = turns[-1][1]
    if "<think>" not in said and "</think>" not in said:
        return _switch([*turns[:-1], ("assistant", _NO_THOUGHT + said)], "/no_think", rng)
    if not said.startswith("<think>") or "</think>" not in said:
        raise OptionError(
            "the last answer must begin with <think> and close it with </think>, or have neither"
        )
    thought = said.split("<think>")[1].split("</think>")[0].strip()
    rest = said.split("</think>")[1].lstrip("\n")
    turns = [*turns[:-1], ("assistant", f"<think>\n{thought}\n</think>\n\n{rest}")]
    if not thought:
        return _switch(turns, "/no_think", rng)
    return _switch(turns, "/think", rng) if rng is not None and rng.random() < 0.5 else turns


def _switch(turns: list[Turn], mark: str, rng: random.Random | None) -> list[Turn]:
    """`mark` before or after one question or system message: the last one, or one drawn with `rng`."""
    places = [place for place, (role, _) in enumerate(turns) if role != "assistant"]
    place = places[-1] if rng is None else rng.choice(places)
    role, text = turns[place]
    text = f"{text} {mark}" if rng is None or rng.random() < 0.5 else f"{mark} {text}"
    return [*turns[:place], (role, text), *turns[place + 1 :]]


def _nano(turns: list[Turn], thinking: bool, rng: random.Random | None) -> tuple[list[Turn], str]:
    """Nemotron Nano v3: a system turn always, and an empty thought in every answer without one."""
    if turns[0][0] != "system":
        turns = [("system", ""), *turns]
    last = max(place for place, (role, _) in enumerate(turns) if role == "user")
    marked = [
        (role, _nano_answer(text, earlier=place < last) if role == "assistant" else text)
        for place, (role, text) in enumerate(turns)
    ]
    return marked, "<think>\n" if thinking else "<think></think>"


def _nano_answer(text: str, earlier: bool) -> str:
    opened, closed = "<think>" in text, "</think>" in text
    if earlier and opened and closed:
        return "<think></think>" + text.split("</think>", 1)[1].strip()
    if earlier:
        return (text if opened or closed else "<think></think>" + text).strip()
    text = text.strip()
    return text if opened else "<think></think>" + text


_START, _END = "<|im_start|>", "<|im_end|>"
_HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"


def _im(role: str) -> str:
    return f"{_START}{role}\n{{message}}{_END}\n"


def _llama3(role: str) -> str:
    return _HEADER.format(role) + "{message}<|eot_id|>"


_FORMATS = (
    ChatFormat("plain", user="{message}", assistant="{message}"),
    ChatFormat(
        "digits",
        user="<|user|>{message}<|end|>",
        assistant="<|assistant|>{message}<|end|>",
        prefix="<|assistant|>",
        end=("<|end|>",),
    ),
    ChatFormat(
        "qwen", user=_im("user"), assistant=_im("assistant"), prefix=f"{_START}assistant\n", end=(_END,)
    ),
    ChatFormat(
        "qwen3",
        system=_im("system"),
        user=_im("user"),
        assistant=_im("assistant"),
        prefix=f"{_START}assistant\n",
        end=(_END,),
        learn_all=False,
        think=_qwen3,
    ),
    ChatFormat(
        "nemotron-nano-v3",
        system=_im("system"),
        user=_im("user"),
        assistant=_im("assistant"),
        prefix=f"{_START}assistant\n",
        end=(_END,),
        learn_all=False,
        think=_nano,
    ),
    ChatFormat(
        "nemotron-h",
        system="<SPECIAL_10>System\n{message}",
        user="\n<SPECIAL_11>User\n{message}",
        assistant="\n<SPECIAL_11>Assistant\n{message}",
        prefix="\n<SPECIAL_11>Assistant\n",
        end=("<SPECIAL_11>",),
    ),
    ChatFormat(
        "llama2",
        system_and_user="{bos}[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{message} [/INST]",
        user="{bos}[INST] {message} [/INST]",
        assistant="{message} {eos}",
    ),
    ChatFormat(
        "llama3",
        begin="<|begin_of_text|>",
        system=_llama3("system"),
        user=_llama3("user"),
        assistant=_llama3("assistant"),
        prefix=_HEADER.format("assistant"),
        end=("<|eot_id|>",),
    ),
    ChatFormat(
        "gemma",
        begin="{bos}",
        user="<start_of_turn>user\n{message}<end_of_turn>\n<start_of_turn>model\n",
        assistant="{message}<end_of_turn>\n",
        end=("<end_of_turn>",),
        close="{eos}",
    ),
    ChatFormat(
        "mistral",
        begin="<s>",
        user="[INST] {message} [/INST] ",
        assistant="{message}</s>",
        end=("</s>",),
    ),
    ChatFormat("phi2_qa", user="Instruct: {message}\nOutput: ", assistant="{message}"),
    ChatFormat("phi2_chat", user="Human: {message}\nAI: ", assistant="{message}"),
    ChatFormat("phi2_code", user="{message}\n", assistant="{message}"),
)
CHAT_FORMATS: Mapping[str, ChatFormat] = {one.name: one for one in _FORMATS}
"""Every named format; `chat_template` is the tokenizer's own."""
