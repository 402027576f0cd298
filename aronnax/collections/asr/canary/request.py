"""What a call to `transcribe` asks of a Canary model, recording by recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aronnax.collections.asr.canary.decoding import generation_options
from aronnax.collections.asr.canary.guards import stop_at_loop
from aronnax.collections.asr.canary.settling import with_times, without_made_up
from aronnax.collections.common.text.prompts.formats import TASKS, TRANSCRIBE, TRANSLATE
from aronnax.core.errors import ManifestError, OptionError

if TYPE_CHECKING:
    import numpy as np

    from aronnax.collections.asr.canary.model import CanaryModel
    from aronnax.collections.asr.encoder import EncoderOutput
    from aronnax.collections.asr.hypothesis import Hypothesis
    from aronnax.collections.asr.inputs import Source
    from aronnax.collections.common.nn.generation import GenerationOptions

DEFAULT_LANGUAGE = "en"
"""Taken to be spoken where neither the caller, the manifest nor the checkpoint says."""


@dataclass(frozen=True)
class Asked:
    """Ids of a recording's prompt, and the language that will be written."""

    prompt: list[int]
    language: str
    translated: bool = False
    """Whether another language is written than the one spoken."""


@dataclass(frozen=True)
class CanaryRequest:
    """Slots given by the caller, and how text is searched."""

    model: CanaryModel
    slots: Mapping[str, Any]
    generation: GenerationOptions
    guard: bool = True
    """Whether loops are cut off and text over silence is dropped."""
    aligned: bool = True
    """Whether words get the aligner's times, where the checkpoint has one."""

    @classmethod
    def checked(
        cls,
        model: CanaryModel,
        slots: Mapping[str, Any],
        *,
        timestamps: bool | None = None,
        beam: int | None = None,
        length_penalty: float | None = None,
        guard: bool = True,
    ) -> CanaryRequest:
        """The request of a call; OptionError names what the model cannot be asked, before any recording is read."""
        given = {name: value for name, value in slots.items() if value is not None}
        model.prompt.check_known({name: value for name, value in given.items() if name != "task"})
        if (
            timestamps
            and "timestamp" in model.prompt.slots
            and model.aligner is None
            and model.text.frame_ids
        ):
            given.setdefault("timestamp", True)
        options = generation_options(model.config, beam=beam, length_penalty=length_penalty)
        request = cls(model, given, options, guard, timestamps is not False)
        # Values are checked now; what a manifest may still add is filled in for the moment.
        source, target, task = given.get("source_lang"), given.get("target_lang"), given.get("task")
        if source is None:
            first = model.text.languages[0]
            source = first if target is None or task is None else _to_go_with(model, target, task)
        target = target or _to_go_with(model, source, task)
        model.encode_prompt(request._settled({**given, "source_lang": source, "target_lang": target}))
        return request

    def ask(self, source: Source) -> Asked:
        """The prompt for one recording: the caller's slots, then its manifest line's, then the checkpoint's.

        Raises OptionError for slots that cannot be, or ManifestError that names the line if there is one.
        """
        try:
            return self._ask(source)
        except OptionError as error:
            if source.place is None:
                raise
            raise ManifestError(f"{source.place} ({Path(source.name or '').name}): {error}") from None

    def _ask(self, source: Source) -> Asked:
        slots = self._languages(self._line(source), source.language)
        settled = self._settled(slots)
        heard, written = _code(settled["source_lang"]), _code(settled["target_lang"])
        return Asked(self.model.encode_prompt(settled).prompt, written, heard != written)

    def keywords(self, asked: Sequence[Asked]) -> dict[str, Any]:
        """Keywords of `CanaryModel.decode`."""
        guards = (stop_at_loop,) if self.guard else ()
        return {"prompts": [one.prompt for one in asked], "generation": self.generation, "guards": guards}

    def settled(
        self,
        hypotheses: list[Hypothesis],
        asked: Sequence[Asked],
        encoded: EncoderOutput,
        signals: Sequence[np.ndarray],
    ) -> list[Hypothesis]:
        """The hypotheses without what nobody said in the signals [S], every token with its time."""
        if self.guard:
            hypotheses = without_made_up(self.model, hypotheses, signals)
        alignable = [self.aligned and not one.translated for one in asked]
        prompts = [one.prompt for one in asked]
        return with_times(self.model, hypotheses, prompts, encoded, signals, alignable)

    def _line(self, source: Source) -> dict[str, Any]:
        """The caller's slots over those a manifest's line gives."""
        prompt = self.model.prompt
        names = {**{name: name for name in (*prompt.slots, "task")}, "taskname": "task", **prompt.aliases}
        said = {
            names[key]: value for key, value in source.fields.items() if key in names and value is not None
        }
        return {**said, **{names[key]: value for key, value in self.slots.items()}}

    def _languages(self, slots: dict[str, Any], line_language: str | None) -> dict[str, Any]:
        """Both languages filled in; OptionError if a translation is asked for and nothing says into what."""
        defaults, known = self.model.config.prompt_defaults, self.model.text.languages
        heard = slots.get("source_lang") or line_language
        written = slots.get("target_lang")
        if written is None and _task(slots) == TRANSLATE:
            raise OptionError(f"a translation needs target_lang: one of {', '.join(known)}")
        if heard is None:
            heard = defaults.get("source_lang") or (
                DEFAULT_LANGUAGE if DEFAULT_LANGUAGE in known else known[0]
            )
            written = written or (None if _task(slots) else defaults.get("target_lang"))
        return {**slots, "source_lang": heard, "target_lang": written or heard}

    def _settled(self, slots: dict[str, Any]) -> dict[str, Any]:
        """The slots of the prompt; `task` is checked against the languages, and kept where it is a slot."""
        task = _task(slots)
        same = _code(slots["source_lang"]) == _code(slots["target_lang"])
        if task == TRANSCRIBE and not same:
            raise OptionError(
                f"task='transcribe' writes the language that is spoken, but source_lang is"
                f" {_code(slots['source_lang'])!r} and target_lang {_code(slots['target_lang'])!r}: use 'translate'"
            )
        if task == TRANSLATE and same:
            raise OptionError(
                f"task='translate' needs a target_lang other than source_lang {_code(slots['source_lang'])!r}"
            )
        return slots if "task" in self.model.prompt.slots else {k: v for k, v in slots.items() if k != "task"}


def _task(slots: Mapping[str, Any]) -> str | None:
    """The token of the task, None where none is given."""
    task = slots.get("task")
    if task is None:
        return None
    if task not in TASKS:
        raise OptionError(f"task={task!r} is not known: use one of {', '.join(TASKS)}")
    return TASKS[task]


def _to_go_with(model: CanaryModel, language: Any, task: Any) -> Any:
    """A language that goes with another and the task, to check the rest of a request with."""
    if task is None or _task({"task": task}) == TRANSCRIBE:
        return language
    return next((code for code in model.text.languages if code != _code(language)), language)


def _code(language: Any) -> str:
    return str(language).removeprefix("<|").removesuffix("|>")
