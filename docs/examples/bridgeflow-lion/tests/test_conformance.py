"""What bridgeflow takes for granted of the optimiser."""

from bridgeflow.testing import PartConformance


class TestLion(PartConformance):
    kind, part = "optimizer", "lion"
