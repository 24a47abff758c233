"""From a checkpoint to results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bridgeflow.assembly import SIDES, Assembly, assemble
from bridgeflow.bridge import Bridge
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item, Latent
from bridgeflow.randomness import generator
from bridgeflow.recipe import SamplingSettings
from bridgeflow.training.checkpoint import Checkpoint, open_checkpoint
from bridgeflow.training.precision import choose_precision

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Job:
    """One piece of one item, for one sample."""

    item: int
    sample: int
    piece: int
    value: Item


class Pipeline:
    """Carries items of a task's source modality to its target modality."""

    def __init__(
        self,
        assembly: Assembly,
        bridge: Bridge,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        sampling: SamplingSettings | None = None,
    ) -> None:
        self.assembly = assembly.to(device)
        self.bridge = bridge.to(device).eval()
        self.device = torch.device(device)
        self.precision = precision
        self.sampling = sampling or assembly.recipe.recipe.sampling
        self.evaluations = 0
        """Evaluations of the network for the last batch (NFE)."""

    @classmethod
    def open(cls, folder: Path, device: str | None = None) -> Pipeline:
        """A pipeline from a checkpoint or the newest checkpoint of a run.

        device: 'cpu', 'cuda', ...; None takes a GPU where there is one.
        """
        checkpoint = open_checkpoint(folder)
        return cls.of(checkpoint, device)

    @classmethod
    def of(cls, checkpoint: Checkpoint, device: str | None = None) -> Pipeline:
        """A pipeline from an opened checkpoint."""
        recipe = checkpoint.recipe()
        assembly = assemble(recipe, {side: folder for side in SIDES if (folder := checkpoint.codec(side))})
        bridge = assembly.build_bridge()
        try:
            bridge.load_state_dict(checkpoint.weights())
        except RuntimeError as error:
            first = str(error).splitlines()[-1].strip()
            raise BridgeflowError(
                f"the weights in {str(checkpoint.folder)!r} do not fit the recipe beside them ({first}): "
                "use another checkpoint."
            ) from error
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        trained_in_bf16 = recipe.recipe.training.precision == "bf16"
        precision = choose_precision("auto", chosen) if trained_in_bf16 else "fp32"
        try:
            return cls(assembly, bridge, chosen, precision)
        except (RuntimeError, AssertionError) as error:
            raise BridgeflowError(
                f"device {device!r} cannot be used ({str(error).splitlines()[0]}): try --device cpu."
            ) from error

    def carry(
        self,
        items: Sequence[Item],
        samples: int = 1,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[list[Item]]:
        """`samples` results for each source item.

        A result depends on its item, the seed and the number of its sample, not on the items beside it (with
        dopri5, whose steps follow the whole batch, up to its tolerance).
        `seeds` gives each item a seed of its own. `on_progress(done, total)` counts evaluations of the network
        in batches.
        """
        task = self.assembly.task
        pieces = [task.split(item) for item in items]
        jobs = [
            _Job(index, sample, place, piece)
            for index, own in enumerate(pieces)
            for sample in range(samples)
            for place, piece in enumerate(own)
        ]
        outputs: dict[tuple[int, int], list[Item]] = {}
        size = self.sampling.batch_size
        done = 0
        for start in range(0, len(jobs), size):
            chunk = jobs[start : start + size]
            rows = [generator(seeds[j.item] if seeds else seed, j.sample, j.piece) for j in chunk]
            for job, result in zip(chunk, self._carry_batch([job.value for job in chunk], rows), strict=True):
                outputs.setdefault((job.item, job.sample), []).append(result)
            done += len(chunk)
            if on_progress is not None:
                on_progress(done, len(jobs))
        return [
            [task.join(outputs[index, sample], item) for sample in range(samples)] for index, item in enumerate(items)
        ]

    def trajectory(self, item: Item, seed: int = 0) -> list[tuple[float, Item]]:
        """(t, decoded state) at the start and after each step of the flow of one item."""
        task = self.assembly.task
        pieces = task.split(item)
        states: dict[float, list[Item]] = {}
        size = self.sampling.batch_size

        def observe(t: float, z: Tensor) -> None:
            states.setdefault(t, []).extend(self.assembly.target.decode(z.float()))

        for start in range(0, len(pieces), size):
            chunk = pieces[start : start + size]
            self._carry_batch(chunk, [generator(seed, 0, start + place) for place in range(len(chunk))], observe)
        return [(t, task.join(decoded, item)) for t, decoded in sorted(states.items())]

    @torch.no_grad()
    def _carry_batch(
        self,
        values: Sequence[Item],
        rows: list[torch.Generator],
        observer: Callable[[float, Tensor], None] | None = None,
    ) -> list[Item]:
        batch = {name: tensor.to(self.device) for name, tensor in self.assembly.source.collate(values).items()}
        latent = self.assembly.source.encode(batch)
        source = Latent(latent.mean.float(), None if latent.std is None else latent.std.float(), latent.mask)
        settings = self.sampling
        solver = settings.solver.build()
        with self._autocast():
            encoded = self.bridge.encode(source, rows, sample=settings.source == "sample")
            z1 = self.bridge.sample(encoded, solver, settings.solver.steps, settings.guidance.build(), observer)
        self.evaluations = solver.evaluations
        return self.assembly.target.decode(z1.float())

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()
