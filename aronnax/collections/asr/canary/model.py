"""FastConformer with a Transformer decoder that a prompt tells what to write (Puvvada et al. 2024, arXiv:2406.19674).

Shapes: B batch, S samples, T encoder frames, D width of the decoder, U tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from aronnax.collections.asr.canary.config import CanaryConfig
from aronnax.collections.asr.canary.decoder import TokenClassifier, TransformerDecoder
from aronnax.collections.asr.canary.decoding import decode_prompted, generation_options
from aronnax.collections.asr.canary.stepping import Stepper
from aronnax.collections.asr.ctc.model import CTCModel
from aronnax.collections.asr.encoder import EncoderOutput
from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.results import Transcript
from aronnax.collections.common.text import Tokenizer, tokenizer_from_assets
from aronnax.collections.common.text.prompts import CanaryTokenizer, Prompted, prompt_format
from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.asr.encoder import Attention, Enter
    from aronnax.collections.asr.transcribing import Result
    from aronnax.collections.common.nn.generation import GenerationOptions, Guard

ALIGNER = "aligner"
"""Folder of the aligner's files beside the model's own, and its name among the weights."""


class CanaryModel(SpeechRecognizer):
    """Transcribes and translates: the prompt names the languages and the form of the text.

    State names are NeMo's. `aligner` is the CTC model that some checkpoints carry to find word times; it is not
    trained with the model.
    """

    model_type: ClassVar[str] = "canary"
    Config: ClassVar[type] = CanaryConfig
    # Trained with label smoothing, which leaves every token something: an entropy then tells nothing.
    own_confidence: ClassVar[str] = "max_prob"
    tokenizer: CanaryTokenizer | None

    def __init__(
        self,
        config: CanaryConfig,
        tokenizer: Tokenizer | None = None,
        aligner_tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__(config, None)
        self.tokenizer = None if tokenizer is None else CanaryTokenizer(tokenizer)
        self.prompt = prompt_format(config.prompt_format)
        heard, said = config.encoder.d_model, config.decoder.hidden_size
        self.encoder_decoder_proj = nn.Identity() if heard == said else nn.Linear(heard, said)
        self.transf_decoder = TransformerDecoder(config.decoder, config.outputs)
        self.log_softmax = TokenClassifier(said, config.outputs)
        self.log_softmax.tie(self.transf_decoder.token_embedding)
        self.stepper = Stepper(self.transf_decoder, self.log_softmax)
        self.aligner = None if config.aligner is None else CTCModel(config.aligner, aligner_tokenizer)
        if self.aligner is not None:
            self.aligner.requires_grad_(False)

    @classmethod
    def build(cls, config: Any, assets: Mapping[str, bytes]) -> CanaryModel:
        """The model of `config` with the tokenizers held by `assets`."""
        inner = {name.removeprefix(f"{ALIGNER}/"): data for name, data in assets.items() if _of_aligner(name)}
        return cls(
            config,
            tokenizer_from_assets(assets) if assets else None,
            tokenizer_from_assets(inner) if inner else None,
        )

    def renewed(self, config: Any, tokenizer: Tokenizer | None) -> CanaryModel:
        """The same with fresh weights; the aligner keeps its own tokenizer."""
        return CanaryModel(config, tokenizer, None if self.aligner is None else self.aligner.tokenizer)

    def assets(self) -> dict[str, bytes]:
        """The tokenizer's files, and the aligner's under `aligner/`."""
        inner = {} if self.aligner is None else self.aligner.assets()
        return {**super().assets(), **{f"{ALIGNER}/{name}": data for name, data in inner.items()}}

    @property
    def heads(self) -> tuple[str, ...]:
        """`("aed",)`."""
        return ("aed",)

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the prompt's slots."""
        return tuple(self.prompt.slots)

    @property
    def longest_seconds(self) -> float | None:
        """Longer recordings are heard in pieces."""
        return float(self.config.longest_seconds)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that a prompt may name."""
        return self.text.languages

    @property
    def text(self) -> CanaryTokenizer:
        """The tokenizer; OptionError if the model has none."""
        if self.tokenizer is None:
            raise OptionError("the model has no tokenizer, so it can neither be prompted nor write text")
        return self.tokenizer

    def encode(
        self,
        signal: Tensor,
        lengths: Tensor,
        attention: Attention | None = None,
        *,
        enter: Enter | None = None,
    ) -> EncoderOutput:
        """Signal [B, S] with lengths [B] in samples -> encoder states [B, T, D] as the decoder takes them."""
        output = super().encode(signal, lengths, attention, enter=enter)
        return output._replace(states=self.encoder_decoder_proj(output.states))

    def forward_tokens(
        self, states: Tensor, state_lengths: Tensor, tokens: Tensor, token_lengths: Tensor | None = None
    ) -> Tensor:
        """Teacher forcing: states [B, T, D] and tokens [B, U] -> log-probabilities [B, U, V] of each next token.

        V is `config.outputs`. Rows of `tokens` are padded on the right with any ids; what stands there changes
        nothing before it, so that `token_lengths` are not looked at.
        """
        hidden = self.transf_decoder(tokens, states, state_lengths)
        log_probs: Tensor = self.log_softmax(hidden)
        return log_probs

    def encode_prompt(self, slots: Mapping[str, Any], text: str | None = None) -> Prompted:
        """Ids of a prompt, and of its answer where `text` is given; the model's own defaults fill open slots."""
        return self.prompt.encode(self.text, slots, text, defaults=self.config.prompt_defaults)

    def decode(
        self,
        states: Tensor,
        lengths: Tensor,
        *,
        head: str | None = None,
        confidence: str | None = "tsallis",
        carry: Any = None,
        prompts: Sequence[Sequence[int]] | None = None,
        generation: GenerationOptions | None = None,
        guards: Sequence[Guard] = (),
    ) -> tuple[list[Hypothesis], None]:
        """Encoder states [B, T, D] with lengths [B] -> the best hypothesis a row; nothing is carried on.

        prompts: ids that each row's decoder starts with, from `encode_prompt`; they may differ in length.
        None takes the model's defaults. generation: beam, length penalty, sampling. guards: what may end an answer.
        Hypotheses hold the answer alone, special tokens among it, but neither its end nor times. Raises
        OptionError for a prompt that leaves no room.
        """
        self.choose_head(head)
        if carry is not None:
            raise OptionError("an encoder-decoder does not go on from an earlier call")
        if prompts is None:
            prompts = [self.encode_prompt({}).prompt] * len(states)
        chosen = generation or generation_options(self.config)
        found = decode_prompted(self, states, lengths, prompts, chosen, confidence, guards)
        return [best for best, *_ in found], None

    def transcribe(
        self,
        x: Any,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        task: str | None = None,
        pnc: bool | str | None = None,
        itn: bool | str | None = None,
        timestamps: bool | None = None,
        slots: Mapping[str, Any] | None = None,
        beam: int | None = None,
        length_penalty: float | None = None,
        guard: bool = True,
        batch_size: int = 8,
        head: str | None = None,
        confidence: str | None = "auto",
        chunk: str | float = "auto",
        vad: str | None = None,
        sample_rate: int | None = None,
        language: str | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Transcript | list[Transcript]:
        """The transcript, or the translation, of one recording, or a list of them; inputs as in other recognisers.

        source_lang: language spoken; English where nothing says otherwise. `language` is another name for it.
        target_lang: language written; that of the speech by default.
        task: "transcribe" or "translate"; follows from the languages, and is refused if they contradict it.
        pnc: punctuation and upper case. itn: numbers as digits.
        timestamps: None finds when words were said in what the model looked at, or with its aligner; True makes
            it write the times itself where it has learned to; False leaves words and segments out.
        slots: values of any other slot of the prompt, such as {"decodercontext": "earlier text"}.
        beam, length_penalty: width of the beam and exponent of its length normalisation ((5 + length) / 6).
        guard: cut off text that repeats itself, and drop text where nobody speaks; False gives all that is written.
        The others are those of `SpeechRecognizer.transcribe`; `chunk` is how much is heard at once, "full" for all.
        Longer recordings are cut in silences where there are any, and with overlap where there are none.

        What is not given here is taken from a manifest's line (`source_lang`, `target_lang`, `taskname`, `pnc`,
        ...), then from the checkpoint. A transcript's `language` is the one written.

        Raises OptionError for a slot, language or task that the model does not know, listing those it knows.
        """
        from aronnax.collections.asr.transcribing import collect

        results = self.transcribe_iter(
            x,
            source_lang=source_lang,
            target_lang=target_lang,
            task=task,
            pnc=pnc,
            itn=itn,
            timestamps=timestamps,
            slots=slots,
            beam=beam,
            length_penalty=length_penalty,
            guard=guard,
            batch_size=batch_size,
            head=head,
            confidence=confidence,
            chunk=chunk,
            vad=vad,
            sample_rate=sample_rate,
            language=language,
            progress=progress,
        )
        return collect(x, results)

    def transcribe_iter(
        self,
        x: Any,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        task: str | None = None,
        pnc: bool | str | None = None,
        itn: bool | str | None = None,
        timestamps: bool | None = None,
        slots: Mapping[str, Any] | None = None,
        beam: int | None = None,
        length_penalty: float | None = None,
        guard: bool = True,
        batch_size: int = 8,
        head: str | None = None,
        confidence: str | None = "auto",
        chunk: str | float = "auto",
        vad: str | None = None,
        sample_rate: int | None = None,
        language: str | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Generator[Result, None, None]:
        """Results as they finish, each with the index and name of its recording; options as in `transcribe`."""
        from aronnax.collections.asr.canary.request import CanaryRequest
        from aronnax.collections.asr.transcribing import Options, transcribe_each

        asked = {"target_lang": target_lang, "task": task, "pnc": pnc, "itn": itn}
        request = CanaryRequest.checked(
            self,
            {"source_lang": source_lang or language, **asked, **(slots or {})},
            timestamps=timestamps,
            beam=beam,
            length_penalty=length_penalty,
            guard=guard,
        )
        options = Options.checked(
            self,
            request=request,
            batch_size=batch_size,
            head=head,
            timestamps=timestamps is not False,
            confidence=confidence,
            chunk=chunk,
            vad=vad,
            sample_rate=sample_rate,
            language=None,
            progress=progress,
        )
        return transcribe_each(self, x, options)


def _of_aligner(name: str) -> bool:
    return name.startswith(f"{ALIGNER}/")
