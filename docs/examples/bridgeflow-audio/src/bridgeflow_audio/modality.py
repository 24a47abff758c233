"""The modality `audio`: a second of sound as a log-mel spectrogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent, LatentSpec, Modality
from bridgeflow.settings import Settings
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from bridgeflow_audio.mel import MelCodec, filterbank
from bridgeflow_audio.picture import draw
from bridgeflow_audio.wav import HIGHEST_RATE, LOWEST_RATE, Waveform, check_rate, read_wav, resample, write_wav

MOST_PEAK = 2.0
"""Samples beyond it are no floating-point sound but integers that lost their scale."""


class AudioOptions(Settings):
    """Options of the audio modality."""

    rate: int = Field(default=8000, ge=LOWEST_RATE, le=HIGHEST_RATE)
    """Samples a second; files of other rates are brought to it."""
    frames: int = Field(default=32, ge=2)
    """Spectra of a latent. It lasts (frames - 1) hop / rate seconds, 0.992 by default: longer sounds are cut,
    shorter ones go on in silence."""
    mels: int = Field(default=40, ge=2)
    """Bands of a spectrum, equally spaced in mel from 0 Hz to half the rate."""
    window: int = Field(default=512, ge=16)
    """Samples that a spectrum is taken of."""
    hop: int = Field(default=256, ge=1)
    """Samples from a spectrum to the next; at most half the window."""
    floor: float = Field(default=-50.0, ge=-120, lt=0)
    """Level of silence, in dB below a sine of amplitude 1; what is quieter is not heard."""
    level: float = -49.0
    """Level in dB that becomes 0 in the latent; that and `spread` are measured on the data set `tones`."""
    spread: float = Field(default=6.0, gt=0)
    """Decibels that become 1 in the latent."""
    iterations: int = Field(default=32, ge=1)
    """Rounds of the search for phases when a latent becomes sound; more are slower and sound clearer."""

    @model_validator(mode="after")
    def _spectra_cover_the_sound(self) -> AudioOptions:
        if self.window % 2 or 2 * self.hop > self.window:
            raise ValueError(f"window must be even and at least 2 hop, {2 * self.hop}, but is {self.window}")
        empty = int((filterbank(self.rate, self.window, self.mels).sum(1) == 0).sum())
        if empty:
            raise ValueError(
                f"{empty} of {self.mels} mels are narrower than the {self.rate / self.window:.3g} Hz that a window of "
                f"{self.window} tells apart: take fewer mels or a longer window"
            )
        return self


class Audio(Modality):
    """Sounds. An item is a float32 waveform (samples,) in [-1, 1] at `rate`, of any length from 1 on.

    The latent is a grid (1, mels, frames) of decibels, less `level` and over `spread`. It decodes to waveforms of
    (frames - 1) hop samples; phases are not kept, so that these sound alike but are not equal sample by sample.
    """

    summary = "sounds: log-mel spectrograms and back; WAV files"
    Options = AudioOptions
    reads: ClassVar[tuple[str, ...]] = (".wav",)
    writes = ".wav"
    column = "audio"
    # The worst of single sounds, 3 dB; over the data set `tones` it is 0.13.
    round_trip = 0.5
    options: AudioOptions

    def __init__(self, options: AudioOptions | None = None) -> None:
        options = options or AudioOptions()
        super().__init__(options)
        self.codec = MelCodec(
            options.rate,
            options.window,
            options.hop,
            options.mels,
            options.frames,
            options.floor,
            options.iterations,
        )

    @property
    def latent(self) -> LatentSpec:
        """A grid (1, mels, frames): low frequencies first."""
        return LatentSpec((1, self.options.mels, self.options.frames), "grid")

    @property
    def samples(self) -> int:
        """Samples of a decoded waveform."""
        return self.codec.samples

    # -- items -----------------------------------------------------------------------------------------------

    def read(self, value: Any) -> Waveform:
        """The waveform of a WAV file (a path or its bytes), of an array, or of a row of the `datasets` library.

        An array is a waveform at `rate`: (samples,) or (samples, channels), floats in [-1, 1] or signed integers.
        A row is a mapping with `array` and `sampling_rate`, or with `bytes` or `path`. Channels are averaged.
        Raises BridgeflowError, naming the file, for anything else, for no samples and for values that are not finite.
        """
        if isinstance(value, Mapping):
            return self._read_mapping(value)
        if isinstance(value, str | Path):
            return self._mono(*read_wav(Path(value), f"the sound {str(value)!r}"), f"the sound {str(value)!r}")
        if isinstance(value, bytes):
            return self._mono(*read_wav(value, "the sound"), "the sound")
        if isinstance(value, np.ndarray):
            return self._mono(value, self.options.rate, "the waveform")
        raise BridgeflowError(
            f"expected a sound, not {type(value).__name__}: give the path of a WAV file, its bytes or an array."
        )

    def _read_mapping(self, value: Mapping[str, Any]) -> Waveform:
        name = f"the sound {str(value['path'])!r}" if value.get("path") else "the sound"
        if value.get("array") is not None and value.get("sampling_rate"):
            try:
                samples, rate = np.asarray(value["array"]), int(value["sampling_rate"])
            except (ValueError, TypeError, OverflowError) as error:
                raise BridgeflowError(f"{name} has no numbers as its array or sampling_rate ({error}).") from error
            check_rate(rate, name)
            return self._mono(samples, rate, name)
        if isinstance(value.get("bytes"), bytes):
            return self._mono(*read_wav(value["bytes"], name), name)
        if value.get("path"):
            return self.read(Path(value["path"]))
        raise BridgeflowError(
            f"a sound as a mapping has array and sampling_rate, or bytes, or path, but this one has "
            f"{', '.join(map(str, value)) or 'nothing'}: name the column that holds the sound."
        )

    def _mono(self, values: np.ndarray[Any, Any], rate: int, name: str) -> Waveform:
        """One channel at `rate` of samples (n,) or (n, channels)."""
        if values.dtype.kind == "i":
            values = values / -float(np.iinfo(values.dtype).min)
        if values.dtype.kind != "f" or values.ndim not in (1, 2) or values.size == 0:
            raise BridgeflowError(
                f"{name} has shape {values.shape} and type {values.dtype}: a waveform is (samples,) or (samples, "
                "channels), of floats in [-1, 1] or signed integers, with at least one sample."
            )
        waveform = values.astype(np.float32) if values.ndim == 1 else values.mean(1, dtype=np.float32)
        peak = float(np.abs(waveform).max())
        if not peak <= MOST_PEAK:
            raise BridgeflowError(
                f"{name} reaches {peak:.4g} where [-1, 1] was expected: divide it by its greatest possible value."
            )
        return resample(waveform, rate, self.options.rate)

    def write(self, item: Waveform, path: Path) -> list[Path]:
        """Writes a mono WAV file of 16 bits at `rate`; makes its folders. The path must end in .wav."""
        path = Path(path)
        write_wav(item, self.options.rate, path)
        return [path]

    def preview(self, item: Waveform) -> Image.Image:
        """Waveform above spectrogram, 256 x 256 pixels, low frequencies below."""
        with torch.no_grad():
            decibels = self.codec(self.collate([item])["waveform"].to(self.codec.hann.device))[0]
        return draw(self._fitted(item), decibels.cpu().numpy(), self.options.floor)

    # -- latents ---------------------------------------------------------------------------------------------

    def _fitted(self, item: Waveform) -> Waveform:
        """The item cut to `samples`, or followed by silence."""
        return np.pad(item[: self.samples], (0, max(0, self.samples - len(item))))

    def collate(self, items: Sequence[Waveform]) -> dict[str, Tensor]:
        """`waveform`: float32 (B, samples)."""
        return {"waveform": torch.from_numpy(np.stack([self._fitted(item) for item in items]).astype(np.float32))}

    @torch.no_grad()
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        """Latents (B, 1, mels, frames), float32."""
        decibels = self.codec(batch["waveform"].to(self.codec.hann.device))
        return Latent(((decibels - self.options.level) / self.options.spread).unsqueeze(1))

    @torch.no_grad()
    def decode(self, latent: Tensor) -> list[Waveform]:
        """Waveforms (samples,) of latents (B, 1, mels, frames).

        Raises BridgeflowError for latents of another shape.
        """
        shape = self.latent.shape
        if latent.shape[1:] != shape:
            raise BridgeflowError(
                f"audio decodes latents of shape (B, {', '.join(map(str, shape))}), not {tuple(latent.shape)}: train "
                "the network for these options."
            )
        decibels = latent.float().squeeze(1) * self.options.spread + self.options.level
        return list(self.codec.inverse(decibels.to(self.codec.hann.device)).cpu().numpy())

    # -- made-up items ---------------------------------------------------------------------------------------

    def _tone(self, frequency: float, amplitude: float, count: int) -> Waveform:
        phase = 2 * np.pi * frequency / self.options.rate * np.arange(count)
        return (amplitude * np.sin(phase)).astype(np.float32)

    def example(self, rng: np.random.Generator) -> Waveform:
        """Two harmonics that fade away, between half as long as a latent and a quarter longer."""
        count = int(rng.uniform(0.5, 1.25) * self.samples)
        frequency = float(np.exp(rng.uniform(np.log(0.03), np.log(0.15)))) * self.options.rate
        fading = np.exp(-rng.uniform(0.5, 3) * np.arange(count) / count)
        sound = self._tone(frequency, 0.4, count) + self._tone(2 * frequency, 0.15, count)
        return (fading * sound).astype(np.float32)

    def extremes(self) -> Mapping[str, Waveform]:
        """Silence, a square wave of full scale, a steady tone, an odd number of samples, one sample, too many."""
        steady = self._tone(0.055 * self.options.rate, 0.5, 3 * self.samples)
        return {
            "minimum": np.zeros(self.samples, np.float32),
            "maximum": np.where(self._tone(0.055 * self.options.rate, 1.0, self.samples) < 0, -1, 1).astype(np.float32),
            "constant": steady[: self.samples],
            "odd": steady[: self.samples // 2 | 1],
            "shortest": np.ones(1, np.float32),
            "too long": steady,
        }
