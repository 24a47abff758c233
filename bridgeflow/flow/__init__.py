"""The mathematics of the flow: path, time, coupling, guidance, solvers, losses. No network, no data."""

from bridgeflow.flow.coupling import PairedCoupling, draw_null_rows
from bridgeflow.flow.guidance import GuidanceSettings, IndicatorGuidance, NoGuidance
from bridgeflow.flow.path import Path
from bridgeflow.flow.schedule import TimeSchedule
from bridgeflow.flow.solver import SolverSettings

__all__ = [
    "GuidanceSettings",
    "IndicatorGuidance",
    "NoGuidance",
    "PairedCoupling",
    "Path",
    "SolverSettings",
    "TimeSchedule",
    "draw_null_rows",
]
