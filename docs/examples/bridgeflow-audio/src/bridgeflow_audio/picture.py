"""Sounds as pictures."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH = 256
WAVE_HEIGHT = 64
"""Pixels of the waveform; the spectrogram has three times as many."""
LOUDEST = 0.0
"""Level in dB at which the colours end."""

_COLOURS = np.array([[8, 6, 32], [84, 20, 110], [188, 55, 84], [249, 142, 9], [252, 255, 200]], np.float64)


def draw(waveform: NDArray[np.float32], decibels: NDArray[np.float32], floor: float) -> Image.Image:
    """Waveform (samples,) above the spectrogram of dB (mels, frames), from `floor` dark to 0 dB bright."""
    picture = np.full((WAVE_HEIGHT, WIDTH, 3), 255, np.uint8)
    edges = np.linspace(0, len(waveform), WIDTH + 1).astype(int)
    for column, (start, end) in enumerate(itertools.pairwise(edges)):
        piece = np.clip(waveform[start : max(end, start + 1)], -1, 1)
        top, bottom = ((1 - value) / 2 * (WAVE_HEIGHT - 1) for value in (piece.max(), piece.min()))
        picture[round(top) : round(bottom) + 1, column] = (60, 60, 140)
    place = np.clip((decibels[::-1] - floor) / (LOUDEST - floor), 0, 1) * (len(_COLOURS) - 1)
    colour = np.stack([np.interp(place, np.arange(len(_COLOURS)), _COLOURS[:, c]) for c in range(3)], axis=-1)
    below = Image.fromarray(colour.astype(np.uint8)).resize((WIDTH, 3 * WAVE_HEIGHT), Image.Resampling.NEAREST)
    sheet = Image.new("RGB", (WIDTH, 4 * WAVE_HEIGHT))
    sheet.paste(Image.fromarray(picture), (0, 0))
    sheet.paste(below, (0, WAVE_HEIGHT))
    return sheet
