"""Waveforms to log-mel spectrograms and back.

Back is two steps: non-negative least squares from mel bands to frequencies, then phases by the method of Griffin and
Lim. Spectra are scaled so that a sine of amplitude 1 has a peak of 1, which is 0 dB.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MOMENTUM = 0.99
"""Of the phases' iteration (Perraudin, Balazs and Soendergaard 2013, who find 0.99 good)."""
UPDATES = 100
"""Multiplicative updates from mel bands to frequencies."""
TINY = 1e-12
"""Keeps quotients of powers finite; far below any floor in use."""


def hertz_to_mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mel of a frequency in Hz: 2595 log10(1 + f / 700) (O'Shaughnessy 1987, after the scale of Stevens, Volkmann and
    Newman 1937)."""
    return 2595 * np.log10(1 + hertz / 700)


def mel_to_hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `hertz_to_mel`."""
    return 700 * (10 ** (mel / 2595) - 1)


@cache
def filterbank(rate: int, window: int, mels: int) -> NDArray[np.float64]:
    """Weights (mels, window // 2 + 1): triangles of peak 1, equally spaced in mel from 0 Hz to rate / 2."""
    edges = mel_to_hertz(np.linspace(0, hertz_to_mel(np.array(rate / 2)), mels + 2))
    frequencies = np.arange(window // 2 + 1) * rate / window
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))


class MelCodec(nn.Module):
    """Waveforms (B, samples) to decibels (B, mels, frames) and back, samples = (frames - 1) * hop."""

    hann: Tensor
    weights: Tensor

    def __init__(self, rate: int, window: int, hop: int, mels: int, frames: int, floor: float, iterations: int) -> None:
        """floor: in dB, what silence becomes. iterations: of Griffin and Lim."""
        super().__init__()
        self.window = window
        self.hop = hop
        self.samples = (frames - 1) * hop
        self.floor = 10 ** (floor / 10)
        self.iterations = iterations
        weights = filterbank(rate, window, mels)
        self.register_buffer("hann", torch.hann_window(window), persistent=False)
        self.register_buffer("weights", torch.from_numpy(weights).float(), persistent=False)

    @property
    def _scale(self) -> float:
        """What a sine of amplitude 1 has at its peak, without scaling."""
        return self.window / 4

    def forward(self, waveform: Tensor) -> Tensor:
        """dB (B, mels, frames) of waveforms (B, samples): 10 log10(mel power + floor)."""
        with torch.autocast(waveform.device.type, enabled=False):
            power = self._stft(waveform.float()).abs().square()
            return 10 * torch.log10(self.weights.float() @ power + self.floor)

    def inverse(self, decibels: Tensor) -> Tensor:
        """Waveforms (B, samples) of dB (B, mels, frames)."""
        with torch.autocast(decibels.device.type, enabled=False):
            # Nothing is louder than a sine of full scale by more than the few dB of a sum over a band.
            loud = 10 ** (decibels.float().clamp(max=20.0) / 10)
            power = self._frequencies((loud - self.floor).clamp(min=0))
            return self._phases(power.sqrt())

    def _stft(self, waveform: Tensor) -> Tensor:
        """(B, samples) to complex (B, window // 2 + 1, frames)."""
        hann = self.hann.float()
        spectrum = torch.stft(waveform, self.window, self.hop, window=hann, pad_mode="constant", return_complex=True)
        return spectrum / self._scale

    def _istft(self, spectrum: Tensor) -> Tensor:
        hann = self.hann.float()
        return torch.istft(spectrum * self._scale, self.window, self.hop, window=hann, length=self.samples)

    def _frequencies(self, mel: Tensor) -> Tensor:
        """The power (B, window // 2 + 1, frames) >= 0 whose mel bands are nearest (B, mels, frames).

        Nearest by the Kullback-Leibler divergence, through the multiplicative updates of Lee and Seung (2001,
        equation 5): it keeps quiet bands, which least squares would leave to chance.
        """
        weights = self.weights.float()
        total = weights.sum(0)[:, None] + TINY
        power = (weights.mT @ mel) / total
        for _ in range(UPDATES):
            power = power * (weights.mT @ (mel / (weights @ power + TINY))) / total
        return power

    def _phases(self, magnitude: Tensor) -> Tensor:
        """The waveform whose spectrum has nearly that magnitude (Griffin and Lim 1984, with momentum)."""
        spectrum = torch.polar(magnitude, self._start(magnitude))
        previous = torch.zeros_like(spectrum)
        for _ in range(self.iterations):
            consistent = self._stft(self._istft(spectrum))
            ahead = consistent + MOMENTUM * (consistent - previous)
            spectrum = magnitude * ahead / ahead.abs().clamp(min=TINY)
            previous = consistent
        return self._istft(spectrum)

    def _start(self, magnitude: Tensor) -> Tensor:
        """Phases (B, window // 2 + 1, frames) of a sine that follows the strongest frequency of every spectrum.

        From phases at random a steady tone would come out in pieces, since neighbouring spectra cancel each other.
        """
        bins = magnitude.shape[1]
        power = magnitude.square()
        peak = power.argmax(1, keepdim=True).clamp(1, bins - 2)
        below, at, above = (power.gather(1, peak + step).squeeze(1) + TINY for step in (-1, 0, 1))
        cycles = (peak.squeeze(1) + (above - below) / (below + at + above)) * self.hop / self.window
        advance = nn.functional.pad((cycles[:, 1:] + cycles[:, :-1]) / 2, (1, 0)).cumsum(1)
        # The centre of the window is where a spectrum's phases agree: half a turn from one bin to the next.
        half_turns = torch.arange(bins, device=magnitude.device)[None, :, None] / 2
        return 2 * np.pi * ((advance[:, None] + half_turns) % 1)
