"""Stopping a training whose numbers are no longer finite, without waiting for the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from bridgeflow.checkpoints.checkpoint import list_checkpoints, open_checkpoint
from bridgeflow.checkpoints.tensor_file import is_finite
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Latent


@dataclass(frozen=True)
class _Noted:
    """A number of a step, and the latents that it came from where those are known."""

    what: str
    step: int
    finite: Tensor
    latents: tuple[tuple[str, Latent], ...]


class Soundness:
    """The losses and gradients of a training, watched.

    On the CPU a number is looked at as it is noted, before the optimiser moves. Elsewhere that would wait for the
    device: the numbers of a step are looked at once the next step is under way, and all of them before anything is
    logged or saved, so that no unsound weight is kept.
    """

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device) -> None:
        self.recipe = recipe
        self.folder = folder
        self.at_once = device.type == "cpu"
        self._noted: list[_Noted] = []

    def note(
        self, what: str, step: int, value: Tensor, source: Latent | None = None, target: Latent | None = None
    ) -> None:
        """Notes a number of the step that comes after `step`."""
        latents = tuple((side, own) for side, own in (("source", source), ("target", target)) if own is not None)
        self._noted.append(_Noted(what, step + 1, torch.isfinite(value).all(), latents))
        self.check(before=None if self.at_once else step + 1)

    def check(self, before: int | None = None) -> None:
        """Looks at what was noted, of steps before the given one or of all.

        Raises BridgeflowError, with where sound weights are, for a number that is not finite.
        """
        while self._noted and (before is None or self._noted[0].step < before):
            noted = self._noted.pop(0)
            if not noted.finite:
                self._stop(noted)

    def _stop(self, noted: _Noted) -> NoReturn:
        for place, latent in [own for side, whole in noted.latents for own in whole.parts(side).items()]:
            if not torch.isfinite(latent.mean).all():
                name = self.recipe.uses[place].name
                raise BridgeflowError(
                    f"the {place} {name!r} of a row holds numbers that are not finite, at step {noted.step}: find the "
                    f"row with {self.recipe.data.checked_by}, and fix it or leave it out."
                )
        self.stop(noted.what, noted.step)

    def stop(self, what: str, step: int) -> NoReturn:
        """Raises BridgeflowError: `what` is not finite at a step; it says which step's weights are safe."""
        raise BridgeflowError(
            f"the {what} is no longer finite at step {step}; {self._kept()}: lower optimizer.learning_rate, set "
            "training.clip, or set training.precision=fp32."
        )

    def _kept(self) -> str:
        saved = self.folder / "checkpoints"
        if not list_checkpoints(saved):
            return "nothing was saved yet"
        try:
            # Every file is read again, since what is called safe here is what the user goes on from.
            whole = open_checkpoint(self.folder, thorough=True)
        except BridgeflowError:
            return f"no checkpoint in {saved} is whole"
        return f"the weights of step {whole.step} are safe in {whole.folder}"


def check_start(bridge: nn.Module) -> None:
    """Raises UsageError where a tensor that checkpoints would hold is not finite before the first step."""
    for name, tensor in bridge.state_dict().items():
        if not is_finite(tensor):
            raise UsageError(
                f"{name!r} holds numbers that are not finite before the first step: initialise it, or, where it is a "
                "constant, register it as a buffer with persistent=False."
            )
