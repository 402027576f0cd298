"""What a training step takes on a CPU, as a formula fitted to measured steps.

A CPU gives no warning before memory is gone, so the finder measures a few small steps and computes the large ones:
bytes = a + B (b + c T + d T^2 + e U + f T U), with B recordings of T seconds and U tokens. The factors are found by
least squares and are never negative, so more recordings or longer ones never seem to take less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aronnax.collections.common.training.batch_sizes import Bucket, DoesNotFit, impossible, show_memory
from aronnax.collections.common.training.steps import FullSteps, peak_bytes

_ENOUGH = 2**29
"""The largest of the fitted steps take about this many bytes beyond what rests between steps."""
_ROWS = 256
"""And have no more recordings than this."""

Measure = Callable[[Bucket, int], int]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """The most bytes that were live at once in a step of `size` recordings."""

    bucket: Bucket
    size: int
    bytes: int


@dataclass(frozen=True)
class MemoryModel:
    """Predicts the peak of a step; fitted by `fit`."""

    factors: tuple[float, ...]
    """a to f of the module's formula, in bytes."""
    shortest: float = 0.0
    """Recordings of fewer seconds count as this long."""

    @classmethod
    def fit(cls, points: Sequence[Measured], shortest: float = 0.0) -> MemoryModel:
        """The factors with the least relative errors; of large steps, which matter more, less error is forgiven."""
        terms = np.array([_terms(point.bucket, point.size, shortest) for point in points])
        peaks = np.array([float(point.bytes) for point in points])
        weights = (peaks / peaks.max()) ** 0.25 / peaks
        return cls(tuple(nonnegative_least_squares(terms * weights[:, None], peaks * weights)), shortest)

    def predict(self, bucket: Bucket, size: int) -> float:
        """Bytes at the peak of a step."""
        return float(np.dot(self.factors, _terms(bucket, size, self.shortest)))

    def errors(self, points: Sequence[Measured]) -> list[float]:
        """Prediction over measurement, minus 1."""
        return [self.predict(point.bucket, point.size) / point.bytes - 1 for point in points]


def _terms(bucket: Bucket, size: int, shortest: float) -> tuple[float, ...]:
    t, u = max(bucket.seconds, shortest), bucket.tokens
    return (1.0, *(size * term for term in (1.0, t, t * t, u, t * u)))


def nonnegative_least_squares(a: np.ndarray, b: np.ndarray) -> list[float]:
    """The x >= 0 [N] with the least |a x - b| for a [M, N] and b [M] (Lawson and Hanson 1974, chapter 23).

    >>> nonnegative_least_squares(np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([2.0, 1.0]))
    [1.5, 0.0]
    """
    scale = np.linalg.norm(a, axis=0)
    scale[scale == 0] = 1.0
    a = a / scale
    x = np.zeros(a.shape[1])
    free = np.zeros(a.shape[1], dtype=bool)
    for _ in range(3 * a.shape[1]):
        slope = a.T @ (b - a @ x)
        slope[free] = 0.0
        if slope.max() <= 1e-10 * np.linalg.norm(b):
            break
        free[int(slope.argmax())] = True
        x = _within(a, b, x, free)
    return [round(float(value), 12) for value in x / scale]


def _within(a: np.ndarray, b: np.ndarray, x: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The best x over the free columns, which are bound again where it would be negative; changes `free`."""
    while True:
        best = np.zeros_like(x)
        best[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
        wrong = free & (best <= 0)
        if not wrong.any():
            return best
        steps = x[wrong] / np.maximum(x[wrong] - best[wrong], 1e-300)
        x = x + float(steps.min()) * (best - x)
        free &= x > 1e-12
        x[~free] = 0.0


class MeasuredModel:
    """The oracle of a CPU: says what fits into `budget` bytes by the formula, with its error as a margin.

    `check` measures answers of the search, and what it learns makes the formula better. Nothing is measured that
    would take more than `room` bytes.
    """

    def __init__(
        self, measure: Measure, buckets: Sequence[Bucket], budget: int, *, shortest: float = 0.0, room: int
    ) -> None:
        self.measure, self.buckets, self.budget = measure, sorted(buckets), budget
        self.shortest, self.room = shortest, min(room, budget)
        self.points: list[Measured] = []
        self.held_out: list[float] = []
        self.model = MemoryModel((0.0,) * 6)
        self.margin = 0.0

    @classmethod
    def of(cls, steps: FullSteps, buckets: Sequence[Bucket], budget: int, room: int) -> MeasuredModel:
        """The oracle for the steps of a task; the first step makes the optimizer's states."""
        smallest = min(buckets)
        steps.run(smallest, 1)
        rest = steps.at_rest()
        if rest > budget:
            takes = f"the model and its optimizer alone take {show_memory(rest)} of {show_memory(budget)}"
            raise DoesNotFit(impossible(smallest, takes))
        shortest = steps.task.shortest_seconds

        def measure(bucket: Bucket, size: int) -> int:
            return peak_bytes(steps, bucket, size)

        return cls(measure, buckets, budget, shortest=shortest, room=room)

    def learn(self, say: Say = lambda line: None) -> None:
        """Measures small steps of different shapes, fits the formula, and tries it on steps it has not seen."""
        for shape in _shapes(self.buckets):
            small = self._measure(shape, 2, say)
            one = self._measure(shape, 1, say)
            row = max(small.bytes - one.bytes, 1)
            size = min(int(min(_ENOUGH, (self.room - one.bytes) / 2) / row), _ROWS)
            self.points += [one, small]
            if size > 3:
                self.points.append(self._measure(shape, size, say))
        self._refit()
        for quantile, size in ((0.35, 5), (0.75, 3)):
            bucket = self.buckets[int(quantile * (len(self.buckets) - 1))]
            if self.model.predict(bucket, size) < self.room:
                unseen = self._measure(bucket, size, say)
                self.held_out += self.model.errors([unseen])
                self.points.append(unseen)
        self._refit()

    def check(self, bucket: Bucket, size: int, say: Say = lambda line: None) -> tuple[float, float] | None:
        """Measures a batch the search has found: its share of the budget, and the formula's error before it.

        None where it would not fit into what is free now. The formula is fitted anew with what was seen.
        """
        predicted = self.model.predict(bucket, size)
        if predicted > self.room:
            return None
        seen = self._measure(bucket, size, say)
        self.points.append(seen)
        self._refit()
        return seen.bytes / self.budget, predicted / seen.bytes - 1

    @property
    def error(self) -> float:
        """The largest relative error on a step the formula had not seen, else on those it was fitted to."""
        return max(map(abs, self.held_out or self.model.errors(self.points)))

    def fits(self, bucket: Bucket, size: int) -> bool:
        """Whether the formula, its margin added, stays within the budget."""
        return self._expected(bucket, size) <= self.budget

    def share(self, bucket: Bucket, size: int) -> float | None:
        """The share of the budget by the formula."""
        return self.model.predict(bucket, size) / self.budget

    def needs(self, bucket: Bucket) -> str:
        """What one recording takes and what there is."""
        takes = show_memory(self._expected(bucket, 1))
        return f"a step of one recording takes {takes} of {show_memory(self.budget)}"

    def _expected(self, bucket: Bucket, size: int) -> float:
        return self.model.predict(bucket, size) * (1 + self.margin)

    def _measure(self, bucket: Bucket, size: int, say: Say) -> Measured:
        say(f"measuring {size} x ({bucket})")
        return Measured(bucket, size, self.measure(bucket, size))

    def _refit(self) -> None:
        self.model = MemoryModel.fit(self.points, self.shortest)
        half = max(point.bytes for point in self.points) / 2
        large = [point for point in self.points if point.bytes >= half]
        self.margin = min(0.1, max(0.0, *(-error for error in self.model.errors(large)), 0.01))


def _shapes(buckets: Sequence[Bucket]) -> list[Bucket]:
    """The smallest, the middle and the largest bucket, and long recordings with few words."""
    middle = buckets[len(buckets) // 2]
    longest = max(bucket.seconds for bucket in buckets)
    most, fewest = (pick(bucket.tokens for bucket in buckets) for pick in (max, min))
    shapes = [
        buckets[0],
        middle,
        Bucket(longest, most),
        Bucket(longest, fewest),
        Bucket(middle.seconds, most),
    ]
    return list(dict.fromkeys(shapes))
