"""The checks that bridgeflow has for every modality and task."""

from __future__ import annotations

from bridgeflow.testing import ModalityConformance, TaskConformance


class TestAudio(ModalityConformance):
    """Sounds."""

    modality = "audio"


class TestTextToAudio(TaskConformance):
    """Sounds from words."""

    task = "text_to_audio"
