"""The trackers of a run: bridgeflow's own, on top of accelerate's, and what keeps a failing one from ending it."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from bridgeflow.config import layers
from bridgeflow.config.trackers import NamedTracker
from bridgeflow.errors import BridgeflowError
from bridgeflow.registry import one_line
from bridgeflow.tracker import TrackedRun, Tracker, TrackerSettings

if TYPE_CHECKING:
    from PIL.Image import Image


class Trackers:
    """All trackers of a run. One that raises is named in a warning, and gets nothing more."""

    def __init__(self, trackers: Sequence[tuple[str, Tracker]], warn: Callable[[str], None]) -> None:
        self._trackers = list(trackers)
        self._warn = warn

    @classmethod
    def built(cls, chosen: Sequence[NamedTracker], warn: Callable[[str], None]) -> Trackers:
        """The trackers that a recipe chose. Raises BridgeflowError for one that lacks something it needs."""
        made = []
        for name, settings in chosen:
            try:
                made.append((name, settings.build()))
            except BridgeflowError:
                raise
            except (Exception, SystemExit) as error:
                warn(_told(name, "build", error))
        return cls(made, warn)

    def start(self, run: TrackedRun) -> None:
        """Begins to track a run."""
        self._each("start", lambda tracker: tracker.start(run))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Hands on the figures of a step."""
        self._each("log", lambda tracker: tracker.log(step, dict(figures)))

    def picture(self, step: int, name: str, picture: Image) -> None:
        """Hands on a picture of a step."""
        self._each("picture", lambda tracker: tracker.picture(step, name, picture))

    def close(self) -> None:
        """Ends tracking."""
        self._each("close", lambda tracker: tracker.close())

    def _each(self, method: str, call: Callable[[Tracker], None]) -> None:
        for entry in list(self._trackers):
            name, tracker = entry
            try:
                call(tracker)
            # Whatever it is, a run of days does not end for it.
            except (Exception, SystemExit) as error:
                self._trackers.remove(entry)
                self._warn(_told(name, method, error))


def _told(name: str, method: str, error: BaseException) -> str:
    return (
        f"the tracker {name!r} failed in `{method}` ({one_line(error).rstrip('.')}), so training goes on without it; "
        "metrics.jsonl has every figure."
    )


def _check_installed(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise BridgeflowError(
            f"the tracker {package!r} needs the package {package}, which is not installed: pip install {package}, or "
            "take it out of training.trackers."
        )


class TensorBoardSettings(TrackerSettings):
    """Event files for TensorBoard, in the folder `tensorboard` of the run."""

    summary: ClassVar[str] = "event files for TensorBoard, in the folder of the run"
    name: Literal["tensorboard"] = "tensorboard"

    def build(self) -> Tracker:
        """The tracker; it needs nothing that bridgeflow does not."""
        return _TensorBoard()


class _TensorBoard(Tracker):
    def start(self, run: TrackedRun) -> None:
        from accelerate.tracking import TensorBoardTracker

        self._hook = threading.excepthook
        threading.excepthook = self._unless_own
        # Steps from there on that an earlier start has logged are hidden.
        self._inner = TensorBoardTracker("tensorboard", run.folder, purge_step=run.first_step)
        self._inner.start()
        self._inner.log({"recipe": f"```yaml\n{layers.dump(run.recipe)}```"}, step=run.first_step)

    def _unless_own(self, arguments: Any) -> None:
        """Keeps quiet about a thread that writes event files: its error is raised by the next `log`."""
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            self._hook(arguments)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._inner.log(dict(figures), step=step)

    def picture(self, step: int, name: str, picture: Image) -> None:
        self._inner.log_images({name: np.asarray(picture)[None]}, step=step, dataformats="NHWC")
        self._inner.tracker.flush()

    def close(self) -> None:
        self._inner.finish()
        threading.excepthook = self._hook


class WandbSettings(TrackerSettings):
    """Weights & Biases (wandb.ai): a run of a project there."""

    summary: ClassVar[str] = "Weights & Biases; needs pip install wandb, and wandb login"
    name: Literal["wandb"] = "wandb"
    project: str = "bridgeflow"
    """The project that runs are listed under."""
    entity: str | None = None
    """The user or team that has the project; null takes that of the login."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """Whether figures are sent at once, or written into the folder of the run for `wandb sync`; null goes by
    WANDB_MODE."""

    def build(self) -> Tracker:
        """The tracker. Raises BridgeflowError where wandb is not installed."""
        _check_installed("wandb")
        return _Wandb(self)


class _Wandb(Tracker):
    def __init__(self, settings: WandbSettings) -> None:
        self.settings = settings

    def start(self, run: TrackedRun) -> None:
        from accelerate.tracking import WandBTracker

        own = run.folder / "wandb" / "run-id"
        known = own.read_text(encoding="utf-8") if run.resumed and own.is_file() else None
        self._inner = WandBTracker(
            self.settings.project,
            entity=self.settings.entity,
            mode=self.settings.mode,
            name=run.name,
            dir=str(run.folder),
            id=known,
            resume="allow" if known else None,
        )
        self._inner.start()
        self._inner.store_init_configuration(dict(run.recipe))
        own.parent.mkdir(exist_ok=True)
        own.write_text(self._inner.tracker.id, encoding="utf-8")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._inner.log(dict(figures), step=step)

    def picture(self, step: int, name: str, picture: Image) -> None:
        self._inner.log_images({name: [picture]}, step=step)

    def close(self) -> None:
        self._inner.finish()


class TrackioSettings(TrackerSettings):
    """Trackio: a run in a local database that `trackio show` draws, or in a Space of the Hugging Face hub."""

    summary: ClassVar[str] = "Trackio, on this machine or in a Space of the hub; needs pip install trackio"
    name: Literal["trackio"] = "trackio"
    project: str = "bridgeflow"
    """The project that runs are listed under."""
    space: str | None = None
    """The Space that figures are sent to, as USER/NAME; null keeps them on this machine."""

    def build(self) -> Tracker:
        """The tracker. Raises BridgeflowError where trackio is not installed."""
        _check_installed("trackio")
        return _Trackio(self)


class _Trackio(Tracker):
    def __init__(self, settings: TrackioSettings) -> None:
        self.settings = settings

    def start(self, run: TrackedRun) -> None:
        from accelerate.tracking import TrackioTracker

        # It greets on stdout, where results go.
        with redirect_stdout(sys.stderr):
            self._inner = TrackioTracker(
                self.settings.project,
                name=run.name,
                space_id=self.settings.space,
                config=dict(run.recipe),
                resume="allow" if run.resumed else "never",
                embed=False,
            )
            self._inner.start()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._inner.log(dict(figures), step=step)

    def picture(self, step: int, name: str, picture: Image) -> None:
        import trackio

        self._inner.log({name: trackio.Image(picture)}, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._inner.finish()
