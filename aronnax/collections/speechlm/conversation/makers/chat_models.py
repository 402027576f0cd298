"""Language models that write for the makers: one in this process, or one behind an OpenAI-compatible address."""

from __future__ import annotations

import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from aronnax.core.errors import AronnaxError, OptionError

logger = logging.getLogger(__name__)

_BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""What a server answers that may do better later."""
_LONGEST_PAUSE = 60.0


class Chat(Protocol):
    """Replies to several prompts, each a conversation of its own."""

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        """One reply for each prompt, in order."""
        ...


class LocalChat:
    """A model of aronnax or a Hugging Face language model: anything whose `generate` takes conversations."""

    def __init__(self, model: Any, *, max_new_tokens: int = 512, batch_size: int = 8) -> None:
        """A model with `generate`, such as `aronnax.load` gives; OptionError for another."""
        if not hasattr(model, "generate"):
            raise OptionError(f"{type(model).__name__} does not write text: it has no `generate`")
        self.model, self.max_new_tokens, self.batch_size = model, max_new_tokens, batch_size

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        """The likeliest reply to each."""
        conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
        replies = self.model.generate(
            conversations, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size
        )
        return [reply.text for reply in replies]


@dataclass(frozen=True)
class EndpointChat:
    """A model behind an address that speaks OpenAI's protocol for chats: a service, vLLM, llama.cpp, ollama, ...

    Several prompts are sent at once. A request that fails for a reason that may pass is sent again, after a pause
    that grows, or that the server names.
    """

    url: str
    """Up to and with the version, such as `http://localhost:8000/v1`."""
    model: str
    """What the server calls it."""
    key: str | None = field(default=None, repr=False)
    """Sent as bearer token."""
    max_new_tokens: int = 512
    temperature: float = 0.0
    timeout: float = 120.0
    """Seconds that a request may take."""
    retries: int = 5
    """How often a failed request is sent again."""
    parallel: int = 8
    """Requests under way at once."""
    pause: Callable[[float], None] = time.sleep
    """Waits so many seconds."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise OptionError(f"{self.url!r} is no address of a server; it begins with http:// or https://")

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        """One reply for each prompt, in order.

        Raises:
            AronnaxError: the server refuses, or does not answer after all retries.
        """
        with ThreadPoolExecutor(max(1, min(self.parallel, len(prompts)))) as pool:
            return list(pool.map(self._reply, prompts))

    def _reply(self, prompt: str) -> str:
        wait = 1.0
        for attempt in range(self.retries + 1):
            try:
                return self._ask(prompt)
            except _TryAgain as failed:
                if attempt == self.retries:
                    raise AronnaxError(
                        f"{self.url} did not answer in {attempt + 1} attempts: {failed}; what is done is kept, run "
                        "the same command again to go on"
                    ) from None
                seconds = min(_LONGEST_PAUSE, failed.after or wait)
                logger.info("%s: %s; asking again in %.0f s", self.url, failed, seconds)
            self.pause(seconds)
            wait *= 2
        raise AssertionError("the loop returns or raises")

    def _ask(self, prompt: str) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
        }
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        if self.key is not None:
            # Never handed on to where a server may redirect.
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                content = json.loads(response.read())["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise _TryAgain(f"{type(reason).__name__}: {reason}") from None
        except (ValueError, LookupError, TypeError):
            raise _TryAgain("its answer is not that of a chat") from None
        return content if isinstance(content, str) else ""

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        said = " ".join(error.read(2000).decode(errors="replace").split())[:200]
        if error.code in _BUSY:
            after = error.headers.get("Retry-After", "")
            return _TryAgain(f"status {error.code} {said}", float(after) if after.isdigit() else None)
        return AronnaxError(f"{self.url} refuses (status {error.code}): {said or error.reason}")


class _TryAgain(Exception):
    """A request failed for a reason that may pass."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after
