"""The checks of the parts of the method: paths, couplings, objectives, guidance, solvers, source encoders, optimisers.

Each is tried on small tensors, alone, for what the bridge takes for granted of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pydantic import ValidationError

from bridgeflow import registry
from bridgeflow.errors import BridgeflowError
from bridgeflow.registry import Plugin
from bridgeflow.settings import Settings
from bridgeflow.testing import declarations, flow_parts, learned_parts
from bridgeflow.testing.outcome import Check, Fault, Outcome, Table, described, examine, remembered


class PartSubject:
    """A plugin of a part of the method, by its kind and registered name or by its settings class, and its options."""

    def __init__(self, kind: str, part: str | type[Settings], options: Mapping[str, Any] | None = None) -> None:
        self.kind, self.part, self.options = kind, part, dict(options or {})
        self.reported: dict[str, str] = {}

    @property
    def waived(self) -> Mapping[str, str]:
        """A part has no waivers."""
        return {}

    @remembered
    def loaded(self) -> tuple[type[Settings], Plugin | None]:
        """The settings class and the plugin that it is registered as, if any."""
        base = registry.base_of(self.kind)
        assert base is not None
        if isinstance(self.part, str):
            plugin = registry.find(self.kind, self.part)
            try:
                return registry.load_plugin(plugin), plugin
            except BridgeflowError as error:
                raise Fault(str(error)) from error
        if not issubclass(self.part, base):
            raise Fault(f"`{self.part.__name__}` is no {base.__name__}: inherit from {base.__module__}.")
        return self.part, registry.plugin_of(self.part)

    @remembered
    def settings(self) -> Settings:
        """Its settings, with the options given."""
        own, plugin = self.loaded
        field = own.model_fields.get("name")
        name = None if field is None else field.default
        if not isinstance(name, str) or not name:
            raise Fault('`name` has no default: write it as `name: Literal["..."] = "..."`.')
        if plugin is not None and name != plugin.name:
            raise Fault(
                f"`name` is {name!r} and the entry point {plugin.name!r}, which recipes choose it by: use one name."
            )
        try:
            return own.model_validate(self.options)
        except ValidationError as error:
            raise Fault(f"its settings cannot be made ({described(error)}): give every key a default.") from error

    def build(self, *arguments: Any) -> Any:
        """What the settings build. Raises Fault where that fails."""
        settings: Any = self.settings
        try:
            return settings.build(*arguments)
        except (Exception, SystemExit) as error:
            raise Fault(f"`build` failed ({described(error)}): fix `build`.") from error


def _contract(subject: PartSubject) -> str | None:
    text = (subject.loaded[0].__doc__ or "").strip()
    if not text or text == (Settings.__doc__ or "").strip():
        raise Fault("its settings say nothing of themselves: give the class a docstring, which `plugins info` shows.")
    return None


def _listing(subject: PartSubject) -> str | None:
    return declarations.check_listing(subject.loaded[1])


def _import(subject: PartSubject) -> str | None:
    return declarations.check_import(subject.loaded[1])


def _options(subject: PartSubject) -> str | None:
    return declarations.check_options(subject.settings)


def _seeded(tried: Callable[[PartSubject], str | None]) -> Callable[[PartSubject], str | None]:
    """A check whose own draws are the same every time, and leave those of the caller as they are."""

    def seeded(subject: PartSubject) -> str | None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return tried(subject)

    return seeded


COMMON: Table[PartSubject] = (
    (Check("contract", "It loads, is of its kind, and says what it is."), _contract),
    (Check("listing", "Listing the plugins imports neither torch nor the plugin."), _listing),
    (Check("import", "Importing it is quick, prints nothing, and stays in the working folder."), _import),
    (Check("options", "Options have defaults, go through JSON and back, and refuse unknown keys."), _options),
)

TABLES: dict[str, Table[PartSubject]] = {
    "path": (
        (Check("ends", "It begins at the source and ends at the target."), flow_parts.check_ends),
        (Check("target", "`velocity_towards` and `target` undo one another."), flow_parts.check_inverse),
        (Check("velocity", "The velocity leads from the source to the target."), flow_parts.check_velocity),
    ),
    "coupling": (
        (Check("rows", "It puts the rows of targets and masks in one new order."), flow_parts.check_rows),
        (Check("gradients", "It leaves what it is given as it is."), flow_parts.check_untouched),
    ),
    "objective": (
        (Check("loss", "It gives a finite scalar, the same for the same draws."), flow_parts.check_loss),
        (Check("gradients", "Its gradients reach the network and the source."), flow_parts.check_loss_gradients),
    ),
    "guidance": (
        (Check("shape", "It gives a velocity for each row."), flow_parts.check_guided_shape),
        (Check("no guidance", "At scale 1 it follows the conditional velocity."), flow_parts.check_unguided),
    ),
    "solver": (
        (Check("straight lines", "It follows a constant velocity exactly, on every grid."), flow_parts.check_lines),
        (Check("order", "Twice the steps leave less than 0.6 of the error."), flow_parts.check_order),
        (Check("evaluations", "It evaluates as often as its settings say."), flow_parts.check_evaluations),
        (Check("open end", "It does not look at an open end."), flow_parts.check_open_end),
        (Check("observer", "The observer sees every time of the grid."), flow_parts.check_observer),
    ),
    "source_encoder": (
        (Check("shape", "z0 is finite, of the target's shape, for batches of any size."), learned_parts.check_shape),
        (Check("draws", "One generator gives one z0, and `sample=False` the mean."), learned_parts.check_draws),
        (Check("gradients", "A learned encoder's weights are reached."), learned_parts.check_encoder_gradients),
    ),
    "encoding_loss": (
        (Check("loss", "It gives a finite scalar, or is none."), learned_parts.check_encoding_loss),
        (Check("gradients", "Its gradients reach z0 and all that it learns."), learned_parts.check_encoding_gradients),
    ),
    "optimizer": (
        (Check("parameters", "Every parameter is in one of its groups, once."), learned_parts.check_groups),
        (Check("descent", "Thirty steps lower a loss."), learned_parts.check_descent),
        (Check("state", "Its state, put into a fresh one, goes on in the same way."), learned_parts.check_state),
    ),
}
"""What is tried of each kind, after what is common to all."""


def part_checks(kind: str) -> tuple[Check, ...]:
    """The checks of a kind, in the order in which they are tried."""
    return tuple(check for check, _ in (*COMMON, *TABLES[kind]))


def examine_part(subject: PartSubject) -> Iterator[Outcome]:
    """The outcomes, one by one as they come."""
    for check, tried in (*COMMON, *TABLES[subject.kind]):
        yield examine(check, _seeded(tried), subject)


def check_part(kind: str, part: str | type[Settings], options: Mapping[str, Any] | None = None) -> list[Outcome]:
    """What comes of every check of a part of the method.

    kind: 'path', 'coupling', 'objective', 'guidance', 'solver', 'source_encoder', 'encoding_loss' or 'optimizer'.
    part: a registered name, or a settings class. options: laid over the defaults. Raises UsageError for a name
    that is not installed.
    """
    if isinstance(part, str):
        registry.find(kind, part)
    return list(examine_part(PartSubject(kind, part, options)))
