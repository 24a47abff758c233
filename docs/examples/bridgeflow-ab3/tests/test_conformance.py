"""What bridgeflow takes for granted of the solver."""

from bridgeflow.testing import PartConformance


class TestAB3(PartConformance):
    kind, part = "solver", "ab3"
