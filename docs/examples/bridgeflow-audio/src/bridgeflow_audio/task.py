"""The task `text_to_audio`: a sound from words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from bridgeflow.data.choices import read_drawn
from bridgeflow.modality import Item
from bridgeflow.task import ModalityUse, Task
from torch import Tensor

from bridgeflow_audio.metrics import agreement
from bridgeflow_audio.modality import Audio
from bridgeflow_audio.tones import SOUNDS, row_of


class TextToAudio(Task):
    """A caption becomes a sound."""

    summary = "a sound from words"
    source = ModalityUse("text", {"codec": {"name": "encoder", "max_length": 16}})
    target = ModalityUse("audio")
    columns: ClassVar[Mapping[str, str]] = {
        "audio": "a sound: a WAV file, or what the datasets library makes of one",
        "text": "a caption, or a list of captions of which one is drawn each time",
    }
    better: ClassVar[Mapping[str, Literal["higher", "lower"]]] = {
        "mel_error_db": "lower",
        "pitch_agreement": "higher",
        "count_agreement": "higher",
    }
    default_recipe = "text_to_audio/tones"
    to_modality: Audio

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        """(caption, waveform)."""
        caption = read_drawn(row["text"], self.from_modality.read, rng, "captions")
        return caption, self.to_modality.read(row["audio"])

    @classmethod
    def example(cls, rng: np.random.Generator) -> dict[str, Any]:
        """A row as the data set `tones` has it."""
        return row_of(SOUNDS[int(rng.integers(len(SOUNDS)))], 8000, rng)

    def metrics(
        self,
        results: Sequence[Item],
        truths: Sequence[Item],
        sources: Sequence[Item],
        rows: Sequence[Mapping[str, Any]],
    ) -> dict[str, float]:
        """mel_error_db, the root mean square difference of the log-mel spectra in dB; and on rows of `tones` the
        shares of results in which pitch and number of sounds are those of the caption, see `agreement`."""
        difference = self._log_mel(results) - self._log_mel(truths)
        error = float(difference.square().mean().sqrt()) * self.to_modality.options.spread
        return {"mel_error_db": error, **agreement(results, rows, self.to_modality.options.rate)}

    def baseline(
        self, truths: Sequence[Item], sources: Sequence[Item], examples: Iterable[Item]
    ) -> tuple[str, list[Item]] | None:
        """The mean log-mel spectrum of training sounds, made a sound, whatever the caption."""
        total, count = torch.zeros(1, *self.to_modality.latent.shape), 0
        for example in examples:
            total += self._log_mel([example])
            count += 1
        if count == 0:
            return None
        return "mean log-mel", self.to_modality.decode(total / count) * len(truths)

    def _log_mel(self, sounds: Sequence[Item]) -> Tensor:
        return self.to_modality.encode(self.to_modality.collate(sounds)).mean.cpu()
