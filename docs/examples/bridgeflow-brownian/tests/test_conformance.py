"""What bridgeflow takes for granted of the path and the solver."""

from bridgeflow.testing import PartConformance


class TestBrownianPath(PartConformance):
    kind, part = "path", "brownian"


class TestEulerMaruyama(PartConformance):
    kind, part = "solver", "euler_maruyama"
