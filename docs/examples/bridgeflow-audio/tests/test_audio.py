"""Files, spectra, tones and figures of bridgeflow-audio."""

from __future__ import annotations

import re
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from bridgeflow.errors import BridgeflowError
from pydantic import ValidationError

from bridgeflow_audio.mel import hertz_to_mel, mel_to_hertz
from bridgeflow_audio.metrics import agreement, dominant_frequency, heard_pitches, sounding
from bridgeflow_audio.modality import Audio, AudioOptions
from bridgeflow_audio.tones import HELD_OUT, SOUNDS, ToneRows, Tones
from bridgeflow_audio.wav import resample

torch.set_num_threads(1)


def tone(frequency: float, rate: int = 8000, seconds: float = 0.5, amplitude: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def save(path: Path, waveform: np.ndarray, rate: int, width: int, channels: int = 1) -> Path:
    """A PCM file in which every channel holds the waveform, written without the code under test."""
    whole = np.round(waveform.astype(np.float64) * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    if width == 1:
        whole += 128
    data = b"".join(int(value).to_bytes(width, "little", signed=width > 1) * channels for value in whole)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return path


# -- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "error"), [(1, 8e-3), (2, 4e-5), (3, 2e-7), (4, 1e-7)])
@pytest.mark.parametrize("channels", [1, 2])
def test_pcm_of_every_width_is_read(tmp_path: Path, width: int, error: float, channels: int) -> None:
    path = save(tmp_path / "a.wav", tone(440), 8000, width, channels)
    for value in (path, str(path), path.read_bytes(), {"bytes": path.read_bytes(), "path": None}):
        read = Audio().read(value)
        assert read.dtype == np.float32
        assert read.shape == (4000,)
        assert np.abs(read - tone(440)).max() < error


def test_channels_are_averaged(tmp_path: Path) -> None:
    both = np.stack([tone(440), -0.5 * tone(440)], axis=1)
    assert np.abs(Audio().read(both) - 0.25 * tone(440)).max() < 1e-6


@pytest.mark.parametrize("rate", [4000, 11_025, 22_050, 44_100, 48_000])
def test_other_rates_keep_the_sound(rate: int) -> None:
    read = Audio().read({"array": tone(440, rate), "sampling_rate": rate})
    assert len(read) == 4000
    inner = slice(200, -200)
    assert np.abs(read[inner] - tone(440)[inner]).max() < 5e-3


def test_resampling_lets_nothing_fold_back() -> None:
    # 5000 Hz would come out as 3000 Hz at a rate of 8000.
    assert np.abs(resample(tone(5000, 44_100), 44_100, 8000)[400:-400]).max() < 0.01


def test_a_written_file_opens_again(tmp_path: Path) -> None:
    audio = Audio()
    (path,) = audio.write(1.5 * tone(700, amplitude=1.0), tmp_path / "new" / "folder" / "a.wav")
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
    read = audio.read(path)
    assert np.abs(read - np.clip(1.5 * tone(700, amplitude=1.0), -1, 1)).max() < 1e-4


def broken_files(folder: Path) -> dict[str, Path]:
    whole = save(folder / "whole.wav", tone(440), 8000, 2).read_bytes()
    made = {
        "missing.wav": None,
        "song.mp3": b"ID3\x03" + bytes(200),
        "empty.wav": b"",
        "cut.wav": whole[:2000],
        "floats.wav": whole[:20] + struct.pack("<H", 3) + whole[22:],
        "silent.wav": save(folder / "none.wav", tone(440)[:0], 8000, 2).read_bytes(),
        "chunk.wav": whole[:16] + struct.pack("<I", 2**31) + whole[20:],
        "header.wav": whole[:30],
        "short.wav": whole[:16] + struct.pack("<I", 9) + whole[20:],
        "fast.wav": whole[:24] + struct.pack("<I", 2**31 + 11) + whole[28:],
        "slow.wav": whole[:24] + struct.pack("<I", 1) + whole[28:],
    }
    for name, data in made.items():
        if data is not None:
            (folder / name).write_bytes(data)
    return {name: folder / name for name in made}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.wav", "No such file"),
        ("song.mp3", "pcm_s16le"),
        ("empty.wav", "pcm_s16le"),
        ("cut.wav", "978 of 4,000"),
        ("floats.wav", "unknown format: 3"),
        ("silent.wav", "no samples"),
        ("chunk.wav", "pcm_s16le"),
        ("header.wav", "pcm_s16le"),
        ("short.wav", "pcm_s16le"),
        ("fast.wav", "has 2,147,483,659 samples a second, where 1,000 to 192,000 were expected"),
        ("slow.wav", "has 1 samples a second"),
    ],
)
def test_files_that_cannot_be_read_are_named_in_a_sentence(tmp_path: Path, name: str, words: str) -> None:
    path = broken_files(tmp_path)[name]
    with pytest.raises(BridgeflowError) as caught:
        Audio().read(path)
    message = str(caught.value)
    assert str(path) in message
    assert words in message
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "not int"),
        (np.zeros(0, np.float32), "at least one sample"),
        (np.zeros((2, 2, 2), np.float32), "(2, 2, 2)"),
        (np.full(9, np.nan, np.float32), "nan"),
        (np.full(9, 32767.0, np.float32), "divide it by"),
        ({"sound": 1}, "name the column"),
        ({"array": np.zeros(9, np.float32), "sampling_rate": -5}, "has -5 samples a second"),
        ({"array": [[0.0], [0.0, 1.0]], "sampling_rate": 8000}, "no numbers"),
        ({"array": [0.0], "sampling_rate": float("inf")}, "no numbers"),
        ({"bytes": "RIFF"}, "name the column"),
    ],
    ids=["int", "empty", "rank", "nan", "scale", "mapping", "rate", "ragged", "infinite", "bytes"],
)
def test_values_that_are_no_sound_are_refused(value: object, words: str) -> None:
    with pytest.raises(BridgeflowError, match=re.escape(words)):
        Audio().read(value)


# -- spectra ---------------------------------------------------------------------------------------------------


def test_the_mel_scale_has_a_thousand_at_a_kilohertz() -> None:
    assert abs(float(hertz_to_mel(np.array(1000.0))) - 1000) < 0.1
    frequencies = np.array([0.0, 90.0, 800.0, 4000.0])
    assert np.abs(mel_to_hertz(hertz_to_mel(frequencies)) - frequencies).max() < 1e-6


def test_a_louder_tone_stands_as_many_decibels_higher() -> None:
    audio = Audio()
    spread, level = audio.options.spread, audio.options.level
    latent = audio.encode(audio.collate([tone(1000, seconds=1, amplitude=0.5), tone(1000, seconds=1)[:0]])).mean
    loud = audio.encode(audio.collate([tone(1000, seconds=1, amplitude=0.05)])).mean
    difference = (latent[0, 0, :, 10].max() - loud[0, 0, :, 10].max()) * spread
    assert abs(float(difference) - 20) < 0.05
    # A band holds a tone's main lobe, whose bins add up to 10 log10(1.5) dB above the highest of them.
    assert -6.1 < float(latent[0, 0, :, 10].max()) * spread + level < -3.5
    assert torch.allclose(latent[1] * spread + level, torch.tensor(audio.options.floor), atol=1e-3)


@pytest.mark.parametrize("frequency", [220.0, 523.0, 1200.0, 3000.0])
def test_a_decoded_tone_has_its_frequency(frequency: float) -> None:
    audio = Audio()
    (back,) = audio.decode(audio.encode(audio.collate([tone(frequency, seconds=1)])).mean)
    assert back.shape == (audio.samples,)
    assert abs(dominant_frequency(back, 8000) / frequency - 1) < 0.04
    assert 0.5 < float(np.square(back).mean() / np.square(tone(frequency)).mean()) < 1.6


def test_a_sound_does_not_depend_on_those_beside_it() -> None:
    audio = Audio()
    latent = audio.encode(audio.collate([tone(300), tone(900)])).mean
    assert np.abs(audio.decode(latent)[1] - audio.decode(latent[1:])[0]).max() < 1e-3


@pytest.mark.parametrize(("options", "words"), [({"hop": 400}, "2 hop, 800"), ({"mels": 400}, "narrower")])
def test_options_that_do_not_go_together_say_why(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AudioOptions(**options)


def test_a_preview_shows_where_the_sound_is() -> None:
    preview = np.asarray(Audio().preview(tone(1000, seconds=0.4)).convert("L")).astype(int)
    assert preview.shape == (256, 256)
    spectrogram = preview[64:]
    assert spectrogram[:, :90].max() > 150 > 60 > spectrogram[:, 130:].max()
    row = spectrogram[:, 50].argmax()
    # 1000 mel of the 2146 up to 4000 Hz, counted from below.
    assert abs((1 - row / 192) - 1000 / 2146) < 0.04


# -- tones and figures -----------------------------------------------------------------------------------------


def test_rows_are_computed_from_seed_split_and_index() -> None:
    first, again, other = (Tones(seed=seed).open("train")[7] for seed in (3, 3, 4))
    assert first["text"] == again["text"]
    assert np.array_equal(first["audio"]["array"], again["audio"]["array"])
    assert not np.array_equal(first["audio"]["array"], other["audio"]["array"])


def test_no_held_out_caption_is_trained_on_but_every_word_is() -> None:
    train = {row["text"] for row in map(Tones().open("train").__getitem__, range(3000))}
    held_out = {row["text"] for row in map(Tones().open("held_out").__getitem__, range(500))}
    assert held_out == HELD_OUT
    assert len(train) == len(SOUNDS) - len(HELD_OUT) == 105
    assert not train & held_out
    assert {word for text in held_out for word in text.split()} <= {word for text in train for word in text.split()}


def test_what_a_caption_tells_is_heard_in_every_row() -> None:
    rows = [
        row for split in ("train", "held_out") for row in map(ToneRows(200, 8000, 1, split).__getitem__, range(200))
    ]
    sounds = [Audio().read(row["audio"]) for row in rows]
    assert agreement(sounds, rows, 8000) == {"pitch_agreement": 1.0, "count_agreement": 1.0}
    moved = agreement(sounds[1:] + sounds[:1], rows, 8000)
    assert moved["pitch_agreement"] < 0.4
    assert moved["count_agreement"] < 0.65


def test_pauses_divide_sounds() -> None:
    pause = np.zeros(800, np.float32)
    waveform = np.concatenate([tone(220, seconds=0.1), pause, tone(1200, seconds=0.1), pause])
    (first, second) = sounding(waveform, 8000)
    assert np.abs(np.array([*first, *second]) - [0, 800, 1600, 2400]).max() <= 128
    assert heard_pitches(waveform, 8000) == ("low", "high")
    assert heard_pitches(pause, 8000) is None
    assert dominant_frequency(pause, 8000) == 0
