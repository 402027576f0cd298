"""How a training ends before its time: by SIGTERM or Ctrl-C, its state saved and the user told where."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses of a run that Ctrl-C or SIGTERM ended."""


@contextmanager
def stoppable(trainer: Trainer, say: Callable[[str], None], resume: Path | None) -> Iterator[None]:
    """Within, SIGTERM and Ctrl-C end the training's step and have it saved, then raise SystemExit.

    `resume` is the checkpoint that the run goes on from, if there is one.

    Ctrl-C ends at once where no training is going on, where several processes train, which would have to agree on
    the step, and when it comes a second time.
    """
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    asked = False

    def interrupted(number: int, frame: Any) -> None:
        nonlocal asked
        again, asked = asked, True
        training = trainer.state.fn == "fit" and trainer.state.status == "running"
        if again or not training or trainer.world_size > 1:
            raise KeyboardInterrupt
        say("Ctrl-C: this step is finished and saved first; once more ends at once")
        trainer._signal_connector.received_sigterm = True

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, interrupted) if main else None
    try:
        yield
    except SIGTERMException:
        say(_where(trainer, "Ctrl-C" if asked else "SIGTERM", resume))
        raise SystemExit(INTERRUPTED if asked else TERMINATED) from None
    except SystemExit as error:
        # Lightning makes a status of 1 of every KeyboardInterrupt.
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        say(_where(trainer, "Ctrl-C", resume))
        raise SystemExit(INTERRUPTED) from None
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _where(trainer: Trainer, cause: str, resume: Path | None) -> str:
    """What a run that was ended has saved."""
    from aronnax.collections.common.training.checkpoints import Last

    last = next(callback for callback in trainer.callbacks if isinstance(callback, Last))  # type: ignore[attr-defined]
    if last.saved is None and resume is not None:
        return f"stopped by {cause} before the first step: the same command goes on from {resume}"
    if last.saved is None:
        return f"stopped by {cause} before anything was saved: the same command begins anew"
    if last.saved == trainer.global_step:
        return (
            f"stopped by {cause} after step {last.saved}, saved in {last.path}: the same command goes on at the next"
            " batch"
        )
    return (
        f"stopped by {cause}: the same command goes on after step {last.saved}, the last saved in {last.path}"
    )
