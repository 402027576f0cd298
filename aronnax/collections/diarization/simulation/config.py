"""What simulated sessions are like."""

from __future__ import annotations

from dataclasses import dataclass

from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class SimulationConfig:
    """How many speak, for how long, how much at once, and where; times in seconds, levels in dB."""

    seconds: float = 90.0
    """Length of a session."""
    speakers: tuple[int, ...] = (1, 2, 3, 4)
    """Numbers of speakers that sessions have."""
    speaker_weights: tuple[float, ...] = ()
    """How often each of those numbers comes, relative to one another; empty for equally often."""
    silence: float = 0.15
    """Mean share of a session in which nobody speaks."""
    overlap: float = 0.12
    """Mean share of the speech in which two or more speak, at most 0.4; sessions of one speaker have none."""
    spread: float = 0.5
    """How much these shares differ from session to session: the standard deviation, relative to the mean."""
    turn_seconds: float = 3.0
    """Mean length of a turn; shorter where a speaker's recording has no more to give."""
    turn_sigma: float = 0.6
    """Standard deviation of the logarithm of a turn's length."""
    shortest_turn: float = 0.3
    """No turn is shorter, except where a recording is."""
    turn_change: float = 0.85
    """Probability that somebody else speaks next."""
    whole_utterances: bool = False
    """Whether turns are whole recordings with their texts, as multi-speaker recognition needs, or parts of them."""
    gain_db: tuple[float, float] = (-6.0, 6.0)
    """Range each speaker's gain in a session is drawn from."""
    speeds: tuple[float, ...] = (1.0,)
    """Speeds, pitch with them, of which one is drawn for each speaker of a session: more voices from few people."""
    rooms: str | None = None
    """Manifest of room impulse responses (NeMo's or Lhotse's); in a room every speaker has a response of its own."""
    room_probability: float = 0.5
    """Share of sessions held in a room, where `rooms` is given."""

    def __post_init__(self) -> None:
        if not self.speakers or min(self.speakers) < 1:
            raise ConfigError(f"speakers={self.speakers} must hold at least one number, all above 0")
        if self.speaker_weights and len(self.speaker_weights) != len(self.speakers):
            raise ConfigError(
                f"speaker_weights has {len(self.speaker_weights)} values and speakers {len(self.speakers)}: "
                "give one for each, or none"
            )
        if any(weight < 0 for weight in self.speaker_weights) or (
            self.speaker_weights and sum(self.speaker_weights) == 0
        ):
            raise ConfigError(f"speaker_weights={self.speaker_weights} must not be negative, nor all 0")
        for name, most in (("silence", 0.9), ("overlap", 0.4)):
            if not 0.0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name}={getattr(self, name)} must lie between 0 and {most}")
        for name in ("turn_change", "room_probability", "spread"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}={getattr(self, name)} must lie between 0 and 1")
        for name in ("seconds", "turn_seconds", "shortest_turn"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be above 0")
        if self.gain_db[0] > self.gain_db[1]:
            raise ConfigError(f"gain_db={self.gain_db} is empty; give the lower bound first")
        if not self.speeds or min(self.speeds) <= 0:
            raise ConfigError(f"speeds={self.speeds} must hold at least one factor, all above 0")
