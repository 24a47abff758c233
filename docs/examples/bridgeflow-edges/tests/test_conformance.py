"""The checks of `bridgeflow plugins check`, one test each."""

from __future__ import annotations

from bridgeflow.testing import ModalityConformance, TaskConformance


class TestEdges(ModalityConformance):
    """The modality edges."""

    modality = "edges"


class TestEdgesToImage(TaskConformance):
    """The task edges_to_image."""

    task = "edges_to_image"
