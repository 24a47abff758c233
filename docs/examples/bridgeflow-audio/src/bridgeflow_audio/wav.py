"""WAV files and other rates: 8, 16, 24 and 32-bit PCM to samples in [-1, 1] and back."""

from __future__ import annotations

import io
import math
import struct
import wave
from pathlib import Path

import numpy as np
from bridgeflow.errors import BridgeflowError
from numpy.typing import NDArray

Waveform = NDArray[np.float32]

LOWEST_RATE, HIGHEST_RATE = 1000, 192_000
"""Samples a second that a sound may have."""
CONVERT = "save it as 16-bit PCM WAV, with ffmpeg -i IN -c:a pcm_s16le OUT.wav for example"


def read_wav(source: Path | bytes, name: str) -> tuple[NDArray[np.float32], int]:
    """(samples (n, channels) in [-1, 1], rate in Hz) of a WAV file, or of the bytes of one.

    Raises BridgeflowError, calling the file `name`, where it cannot be opened, is no PCM WAV file, is cut short or
    holds no samples.
    """
    try:
        with wave.open(str(source) if isinstance(source, Path) else io.BytesIO(source), "rb") as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            count = file.getnframes()
            data = file.readframes(count)
    except OSError as error:
        raise BridgeflowError(f"{name} cannot be read: {error.strerror or error}.") from error
    except (wave.Error, EOFError, RuntimeError, ValueError, struct.error) as error:
        # The reader of chunks meets sizes that do not fit one another with one or another of these.
        cause = str(error) or "it ends too soon"
        raise BridgeflowError(f"{name} is not a PCM WAV file ({cause}): {CONVERT}.") from error
    if width not in (1, 2, 3, 4):
        raise BridgeflowError(f"{name} has samples of {8 * width} bits, which no sound has: {CONVERT}.")
    check_rate(rate, name)
    if len(data) < count * channels * width:
        held = len(data) // (channels * width)
        raise BridgeflowError(f"{name} is cut short: it holds {held:,} of {count:,} samples; copy it anew.")
    if count == 0:
        raise BridgeflowError(f"{name} holds no samples: give a file with sound in it.")
    return samples(data, width).reshape(-1, channels), rate


def check_rate(rate: float, name: str) -> None:
    """Raises BridgeflowError for a rate, in Hz, that no sound has: bringing it to another could take any memory."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise BridgeflowError(
            f"{name} has {rate:,} samples a second, where {LOWEST_RATE:,} to {HIGHEST_RATE:,} were expected: {CONVERT}."
        )


def samples(data: bytes, width: int) -> NDArray[np.float32]:
    """float32 in [-1, 1) of little-endian PCM with `width` bytes a sample; 8-bit is unsigned, as WAV has it."""
    if width == 1:
        whole = np.frombuffer(data, np.uint8).astype(np.int64) - 128
    elif width == 3:
        parts = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int64)
        whole = parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16
        whole -= (whole >> 23) << 24
    else:
        whole = np.frombuffer(data, np.dtype(f"<i{width}")).astype(np.int64)
    return (whole / 2 ** (8 * width - 1)).astype(np.float32)


def write_wav(waveform: Waveform, rate: int, path: Path) -> None:
    """Writes a mono file of 16 bits; what is beyond [-1, 1] is cut to it.

    Raises BridgeflowError where the ending is not .wav or the file cannot be written.
    """
    if path.suffix.lower() != ".wav":
        raise BridgeflowError(f"sound cannot be written to {str(path)!r}: give a file name that ends in .wav.")
    whole = np.round(np.clip(waveform, -1, 1) * (2**15 - 1)).astype("<i2")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(whole.tobytes())
    except OSError as error:
        raise BridgeflowError(
            f"{str(path)!r} cannot be written ({error.strerror or error}): choose another place."
        ) from error


def resample(waveform: Waveform, old: int, new: int) -> Waveform:
    """The waveform (n,) at `old` Hz as round(n new / old) samples at `new` Hz, without what lies above either's half.

    By the discrete Fourier transform over whole periods of both rates, with silence around the sound, so that its
    ends do not meet.
    """
    if old == new:
        return waveform
    common = math.gcd(old, new)
    period, step = old // common, new // common
    periods = -(-(len(waveform) + old // 50) // period)
    spectrum = np.fft.rfft(waveform.astype(np.float64), periods * period)
    count = periods * step
    # The bin at half the lower rate has no phase of its own: it is left out with those above.
    spectrum[(min(count, periods * period) + 1) // 2 :] = 0
    wanted = count // 2 + 1
    spectrum = np.pad(spectrum[:wanted], (0, max(0, wanted - len(spectrum))))
    longer = np.fft.irfft(spectrum, count) * (step / period)
    return longer[: max(1, round(len(waveform) * new / old))].astype(np.float32)
