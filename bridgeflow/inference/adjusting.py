"""Settings of sampling with another solver or guidance, and checks of the numbers that people give."""

from __future__ import annotations

from numbers import Integral, Real

from bridgeflow import registry
from bridgeflow.errors import UsageError
from bridgeflow.flow.guidance import GuidanceSettings, IndicatorGuidanceSettings, NoGuidanceSettings
from bridgeflow.flow.solver import SolverSettings


def with_solver(present: SolverSettings, name: str | None, steps: int | None) -> SolverSettings:
    """The settings of a solver with other steps; of another solver, where `name` is not the present one's."""
    if name is not None and name != present.name:
        kind: type[SolverSettings] = registry.load("solver", name)
        return kind.model_validate({"steps": steps or present.steps})
    return present if steps is None else present.model_copy(update={"steps": steps})


def guided(present: GuidanceSettings, scale: float) -> GuidanceSettings:
    """The settings of a guidance at another scale: by the indicator where there was none, and none at a scale of 1."""
    if scale == 1:
        return NoGuidanceSettings(interval=present.interval)
    if isinstance(present, NoGuidanceSettings):
        return IndicatorGuidanceSettings(scale=scale, interval=present.interval)
    return present.model_copy(update={"scale": scale})


def check_whole(name: str, value: object) -> None:
    """Raises UsageError, whose sentence begins with the name, for what is no whole number."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UsageError(f"{name} should be a whole number, not {value!r}.")


def is_number(value: object) -> bool:
    """Whether it is a real number; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)
