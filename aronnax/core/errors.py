"""Every error aronnax raises on purpose: one clear sentence that says what was wrong and what to do."""

from __future__ import annotations


class AronnaxError(Exception):
    """Base of all errors raised on purpose; the command line prints its message as one sentence."""


class ConfigError(AronnaxError, ValueError):
    """A configuration key or value is unknown, missing or of the wrong type."""


class OptionError(AronnaxError, ValueError):
    """A per-call option has a value the model cannot honour."""


class CheckpointError(AronnaxError):
    """A checkpoint is damaged, hostile, of another family, or does not fit its configuration."""


class HubError(AronnaxError):
    """A model name could not be resolved to a local folder or file."""


class AudioError(AronnaxError, ValueError):
    """A recording is missing, unreadable, empty, or given without what is needed to read it."""


class ManifestError(AronnaxError, ValueError):
    """A manifest line is malformed; the message names the file and the line."""


class MissingExtraError(AronnaxError, ImportError):
    """An optional dependency is needed; the message names the pip extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: pip install 'aronnax[{extra}]'")
