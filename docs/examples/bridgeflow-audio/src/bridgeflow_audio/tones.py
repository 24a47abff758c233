"""The data set `tones`: short synthetic sounds with captions, computed from (seed, split, index)."""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from bridgeflow.data.rows import DataSettings, Rows, Split
from bridgeflow.modality import Progress
from numpy.typing import NDArray
from pydantic import Field

PITCHES = {"low": 220.0, "middle": 520.0, "high": 1200.0}
"""Middle of each named pitch, in Hz."""
LEVELS = {"quiet": 0.12, "loud": 0.5}
"""Amplitude of each named level."""
LENGTHS = {"short": 0.35, "long": 0.65}
"""Share of its slot that a sound fills."""
SWEEPS = (("low", "middle"), ("low", "high"), ("middle", "high"))
DURATION = 0.992
"""Seconds of a row."""
FADE = 0.008
"""Seconds that a sound takes to rise and to fall."""


@dataclass(frozen=True)
class Sound:
    """What a caption says: `sounds` times from one frequency to another, a level, a length, silence after."""

    start: str
    end: str
    sounds: int
    level: str
    length: str
    silence: bool

    @property
    def caption(self) -> str:
        """The sound in words, such as 'two short loud high beeps then silence'."""
        how = f"{self.length} {self.level}"
        if self.start != self.end:
            rising = PITCHES[self.end] > PITCHES[self.start]
            words = f"a {how} {'rising' if rising else 'falling'} sweep from {self.start} to {self.end}"
        elif self.sounds == 1:
            words = f"a {how} {self.start} tone"
        else:
            words = f"{'two' if self.sounds == 2 else 'three'} {how} {self.start} beeps"
        return f"{words} then silence" if self.silence else words


def _all_sounds() -> tuple[Sound, ...]:
    steady = [(pitch, pitch, count) for pitch in PITCHES for count in (1, 2, 3)]
    sweeps = [(*ends, 1) for pair in SWEEPS for ends in (pair, pair[::-1])]
    return tuple(
        Sound(start, end, count, level, length, silence)
        for (start, end, count), level, length, silence in itertools.product(
            steady + sweeps, LEVELS, LENGTHS, (False, True)
        )
    )


SOUNDS = _all_sounds()
"""Everything that the data set has a caption for."""
WAYS = 2 * len(LEVELS) * len(LENGTHS)
"""Captions of one pitch and number, or of one sweep: they differ in level, length and silence."""
HELD_OUT = frozenset(SOUNDS[WAYS * kind + 3 * kind % WAYS].caption for kind in range(len(SOUNDS) // WAYS))
"""Captions kept out of training: one of each kind, another way each time, so that every word is trained on."""


def render(sound: Sound, rate: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], float, float]:
    """(waveform (samples,), frequency in Hz at its start, at its end).

    Frequencies stray by up to 4 per cent from their name, levels by a tenth, starts by 10 ms.
    """
    count = round(DURATION * rate)
    stray = rng.uniform(0.96, 1.04)
    first, last = PITCHES[sound.start] * stray, PITCHES[sound.end] * stray
    amplitude = LEVELS[sound.level] * rng.uniform(0.9, 1.1)
    begin = rng.uniform(0.02, 0.04)
    slot = (0.6 if sound.silence else 1.0) * (DURATION - 0.04) / sound.sounds
    length = LENGTHS[sound.length] * slot
    waveform = np.zeros(count)
    for number in range(sound.sounds):
        time = np.arange(count) / rate - begin - number * slot
        share = np.clip(time / length, 0, 1)
        # The integral of a frequency that moves equally in octaves.
        octaves = np.log(last / first)
        cycles = first * length * (share if octaves == 0 else np.expm1(octaves * share) / octaves)
        envelope = np.clip(np.minimum(time, length - time) / FADE, 0, 1)
        waveform += amplitude * envelope * np.sin(2 * np.pi * cycles + rng.uniform(0, 2 * np.pi))
    return waveform.astype(np.float32), float(first), float(last)


class ToneRows:
    """Rows of one split.

    A row holds `audio`, a mapping of `array` (samples,) in [-1, 1] and `sampling_rate` in Hz; `text`, its caption;
    and what figures are taken from: `start_frequency` and `end_frequency` in Hz and the number of `sounds`.
    """

    columns: tuple[str, ...] = ("audio", "text", "start_frequency", "end_frequency", "sounds")

    def __init__(self, count: int, rate: int, seed: int, split: Split) -> None:
        self.count = count
        self.rate = rate
        self.place = (seed, 0 if split == "train" else 1)
        self.sounds = tuple(sound for sound in SOUNDS if (sound.caption in HELD_OUT) == (split == "held_out"))
        self.description = f"{count:,} tones of {len(self.sounds)} captions"
        self.fingerprint = f"tones-{split}-{count}-{rate}-{seed}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = operator.index(index)
        if not -self.count <= index < self.count:
            raise IndexError(f"row {index} of {self.count}")
        rng = np.random.default_rng((*self.place, index % self.count))
        sound = self.sounds[int(rng.integers(len(self.sounds)))]
        return row_of(sound, self.rate, rng)


def row_of(sound: Sound, rate: int, rng: np.random.Generator) -> dict[str, Any]:
    """A row of the data set for a sound."""
    waveform, first, last = render(sound, rate, rng)
    return {
        "audio": {"array": waveform, "sampling_rate": rate},
        "text": sound.caption,
        "start_frequency": first,
        "end_frequency": last,
        "sounds": sound.sounds,
    }


class Tones(DataSettings):
    """Tones, beeps and sweeps of about a second with their captions, computed when they are read.

    Row i of a seed and split is always the same, and no caption of one split occurs in the other.
    """

    summary: ClassVar[str] = "tones, beeps and sweeps with captions (synthetic, endless)"
    at_hand: ClassVar[bool] = True

    size: int = Field(default=16384, ge=1)
    """Training rows."""
    held_out: int = Field(default=512, ge=1)
    """Held-out rows, of captions that no training row has."""
    rate: int = Field(default=8000, ge=4000, le=192_000)
    """Samples a second."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Which rows: row i of a seed is always the same."""

    def open(self, split: Split, progress: Progress | None = None) -> Rows:
        """The rows of a split; nothing is fetched or stored."""
        return ToneRows(self.size if split == "train" else self.held_out, self.rate, self.seed, split)
