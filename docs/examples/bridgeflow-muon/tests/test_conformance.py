"""What bridgeflow takes for granted of the optimiser."""

from bridgeflow.testing import PartConformance


class TestMuon(PartConformance):
    kind, part = "optimizer", "muon"
