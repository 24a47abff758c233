"""How near a sound is to the one that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bridgeflow_audio.tones import PITCHES
from bridgeflow_audio.wav import Waveform

QUIET = 0.25
"""Share of a sound's greatest envelope above which it is heard."""
BLINK = 0.02
"""Seconds below which a sound or a pause is not heard."""
_STEP = 0.008
"""Seconds from a value of the envelope to the next."""


def dominant_frequency(waveform: Waveform, rate: int) -> float:
    """Hz of the strongest partial of a waveform (n,); 0 of silence."""
    size = 1 << max(13, len(waveform).bit_length() + 1)
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), size))
    return float(spectrum.argmax() * rate / size) if spectrum.any() else 0.0


def envelope(waveform: Waveform, rate: int) -> NDArray[np.float64]:
    """Root mean square of a waveform over about 16 ms, every 8 ms."""
    step = max(1, round(_STEP * rate))
    blocks = np.square(np.pad(waveform.astype(np.float64), (0, -len(waveform) % step))).reshape(-1, step).mean(1)
    around = np.convolve(blocks, np.ones(2) / 2, mode="same")
    return np.sqrt(around)


def sounding(waveform: Waveform, rate: int) -> list[tuple[int, int]]:
    """(start, end) in samples of every stretch of sound that silence divides; none of a silent waveform."""
    level = envelope(waveform, rate)
    step = max(1, round(_STEP * rate))
    heard = level > max(QUIET * level.max(), 1e-3)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], heard, [False]]).astype(int)))
    stretches: list[tuple[int, int]] = []
    blink = BLINK / _STEP
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if stretches and start - stretches[-1][1] < blink:
            stretches[-1] = (stretches[-1][0], int(end))
        else:
            stretches.append((int(start), int(end)))
    return [(start * step, min(end * step, len(waveform))) for start, end in stretches if end - start >= blink]


def pitch_of(frequency: float) -> str:
    """The name of the pitch that is nearest in octaves."""
    return min(PITCHES, key=lambda name: abs(np.log(max(frequency, 1.0) / PITCHES[name])))


def heard_pitches(waveform: Waveform, rate: int) -> tuple[str, str] | None:
    """Names of the pitches at the start and at the end of what sounds; None of silence."""
    stretches = sounding(waveform, rate)
    if not stretches:
        return None
    start, end = stretches[0][0], stretches[-1][1]
    quarter = max((end - start) // 4, rate // 50)
    ends = waveform[start : start + quarter], waveform[max(start, end - quarter) : end]
    first, last = (pitch_of(dominant_frequency(part, rate)) for part in ends)
    return first, last


def agreement(results: Sequence[Waveform], rows: Sequence[Mapping[str, Any]], rate: int) -> dict[str, float]:
    """Shares of results in which what rows of `tones` tell is heard; empty for rows that tell nothing.

    pitch_agreement: the pitch named at the start and that at the end (for a steady sound the same).
    count_agreement: the number of sounds.
    """
    pitches: list[bool] = []
    counts: list[bool] = []
    for result, row in zip(results, rows, strict=True):
        if not {"start_frequency", "end_frequency", "sounds"} <= row.keys():
            continue
        told = pitch_of(row["start_frequency"]), pitch_of(row["end_frequency"])
        pitches.append(heard_pitches(result, rate) == told)
        counts.append(len(sounding(result, rate)) == row["sounds"])
    if not pitches:
        return {}
    return {"pitch_agreement": float(np.mean(pitches)), "count_agreement": float(np.mean(counts))}
