"""The plot of padding shares that `aronnax bins --plot` writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aronnax.core.errors import MissingExtraError

if TYPE_CHECKING:
    from aronnax.collections.common.data.limits import Waste


def draw_waste(before: Waste, after: Waste, path: Path) -> None:
    """Bars of the padding shares of two ways to make batches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for offset, name, one in ((-0.2, "before", before), (0.2, "after", after)):
        shares = [100 * one.seconds, 100 * one.tokens]
        bars = axes.bar([0 + offset, 1 + offset], shares, 0.38, label=f"{name} ({one.batches} batches)")
        axes.bar_label(bars, fmt="%.1f")
    axes.set_xticks([0, 1], ["seconds", "tokens"])
    axes.set_ylabel("padding, % of a batch")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def need_matplotlib() -> None:
    """MissingExtraError before the work is done, where the plot could not be drawn after it."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "train", "--plot") from error
