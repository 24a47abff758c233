"""The contract of a tracker: where the figures and pictures of a run go, besides the run's own folder.

A plugin offers the settings of its tracker under the entry point group `bridgeflow.trackers`; a recipe names it in
`training.trackers`. What a tracker does never ends a training: one that raises is named in a warning and left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bridgeflow.modality import API_VERSION
from bridgeflow.settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is given of a run before the first figure."""

    folder: Path
    """Folder of the run; a tracker may keep files of its own there, in a folder of its own name."""
    name: str
    """What people call the run: the name of its folder."""
    recipe: Mapping[str, Any]
    """The resolved recipe, as a tree of JSON values."""
    first_step: int = 1
    """The first step that will be logged: 1 of a new run, a later one where a run goes on. A run that was killed has
    logged steps from here on before, which are logged again."""

    @property
    def resumed(self) -> bool:
        """Whether the run goes on where an earlier start has stopped."""
        return self.first_step > 1


class Tracker(ABC):
    """Takes the figures of a run. Of several processes that train together, one has trackers.

    Called in this order: `start`, then `log` and `picture` at rising steps, then `close`. Nothing may be printed on
    stdout, where results go, and what is handed in stays as it is.
    """

    @abstractmethod
    def start(self, run: TrackedRun) -> None:
        """Begins to track a run, or goes on with it."""

    @abstractmethod
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes the figures of a step by name, such as `train/loss`. They are safe once this returns, as far as a
        tracker can see to that: a run may be killed at any moment."""

    def picture(self, step: int, name: str, picture: Image) -> None:
        """Takes an RGB picture of a step."""
        return

    def close(self) -> None:
        """Ends tracking: the run is done, or was stopped."""
        return


class TrackerSettings(Settings, ABC):
    """Base of a tracker's settings, found under the entry point group `bridgeflow.trackers`.

    A subclass has a field `name: Literal["..."] = "..."`, by which recipes name it, and a default for every other.
    """

    api_version: ClassVar[int] = API_VERSION
    """Version of the contract that the class is written for."""
    summary: ClassVar[str] = ""
    """One line that tells people where the figures go."""
    waived: ClassVar[Mapping[str, str]] = {}
    """Conformance checks that do not suit: name of the check -> why."""

    @abstractmethod
    def build(self) -> Tracker:
        """The tracker; nothing is written or sent before its `start`. Raises BridgeflowError, one sentence, where
        something that it needs is not installed: that is reported before a run begins."""
