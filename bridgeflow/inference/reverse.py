"""A flow the other way: from a target back to the source that it would have come from.

The flow is a one-to-one map between starts and ends, so that one model of pictures from words is one of words from
pictures too. The equation is integrated from t = 1 to t = 0; what the source encoder has made of the source is then
read out of the start, and a modality with finitely many tokens takes those that are nearest.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bridgeflow import registry
from bridgeflow.assembly import Assembly
from bridgeflow.bridge import Bridge
from bridgeflow.config.keys import SamplingSettings
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.flow.guidance import NoGuidance
from bridgeflow.flow.solver import OPEN_END_STEP
from bridgeflow.inference.stages import Done, EncodedBatch, SampledBatch, Stages, Steps
from bridgeflow.modality import Item, Modality
from bridgeflow.nn.encoded import Encoded, SourceEncoder
from bridgeflow.task import Task

if TYPE_CHECKING:
    from bridgeflow.inference.pipeline import Pipeline


def is_mirror(task: type[Task], other: type[Task]) -> bool:
    """Whether a task goes from the other's target modality to its source modality. Between two of one modality nothing
    says which tasks undo each other."""
    turned = (task.source.name, task.target.name) == (other.target.name, other.source.name)
    return turned and task.source.name != task.target.name and not task.conditions


def _mirror_of(task: type[Task]) -> type[Task] | None:
    """The first installed task that is the mirror of one; those that cannot be loaded are left out."""
    for plugin in registry.installed("task"):
        with suppress(BridgeflowError):
            found: type[Task] = registry.load("task", plugin.name)
            if is_mirror(found, task):
                return found
    return None


def reversed_pipeline(
    pipeline: Pipeline, task: str | None = None, options: Mapping[str, Any] | None = None
) -> Pipeline:
    """A pipeline that does a task by running the model of its mirror backwards.

        >>> words = reversed_pipeline(bridgeflow.load("t2i"))("scene.png")

    task: the task that is done; None takes the installed one that is the mirror of the model's. options: of that task.
    Raises UsageError where there is none, and for a model whose source cannot be read back: one that attends to it,
    starts from noise, or has conditions.
    """
    own = type(pipeline.assembly.task)
    kind: type[Task] | None = _mirror_of(own) if task is None else registry.load("task", task)
    if kind is None or not is_mirror(kind, own):
        raise UsageError(
            f"no installed task goes from {own.target.name} to {own.source.name}, as this model run backwards would."
        )
    books = _checked(pipeline)
    turned = copy(pipeline)
    recipe = pipeline.assembly.recipe
    made = kind(kind.Options.model_validate(options or {}), pipeline.assembly.target, pipeline.assembly.source)
    turned.assembly = Assembly(recipe, made)
    stages = pipeline.stages
    turned.stages = reversed_stages = ReverseStages(
        turned.assembly, lambda: stages.bridge, stages.device, stages.precision, stages.low_memory, stages.watch
    )
    reversed_stages.books = books
    return turned


def _checked(pipeline: Pipeline) -> dict[int, Tensor]:
    """The codes of the first place, where the source is read by codes. Raises UsageError as `reversed_pipeline`."""
    encoder, source = pipeline.bridge.source_encoder, pipeline.assembly.source
    name = pipeline.assembly.recipe.keys.source_encoder.name
    if encoder.context is not None or source.conditions:
        raise UsageError(
            "this model cannot be run backwards, because its network is given more than the state of the flow "
            f"(source_encoder.name={name}, attention or conditions): train one with source_encoder.name=local."
        )
    z0 = torch.zeros(1, *pipeline.bridge.target_spec.shape, device=pipeline.stages.device)
    whole = encoder.latent_of(z0) is not None
    if not whole and encoder.codes_of(z0) is None:
        raise UsageError(
            f"this model cannot be run backwards, because source_encoder.name={name} keeps no code of each token that "
            "could be read back: train one with source_encoder.name=local."
        )
    if whole:
        return {}
    book = _book(encoder, source, 0)
    if book is None:
        raise UsageError(
            f"this model cannot be run backwards, because the modality {pipeline.assembly.recipe.task.source.name} has "
            "no finite choice of tokens to read: for words set source.codec.layer=0."
        )
    return {0: book}


def _book(encoder: SourceEncoder, source: Modality, place: int) -> Tensor | None:
    """The codes (1 + V, n) of all that may stand at a place; None where that is not finite. First is nothing at all, as
    at padding, whose code is 0."""
    entries = source.entries(place)
    if entries is None:
        return None
    known = encoder.code(entries)
    return torch.cat([torch.zeros_like(known[:1]), known])


def start_of_flow(bridge: Bridge, z1: Tensor, sampling: SamplingSettings, steps: Steps | None = None) -> Tensor:
    """Where flows that end at z1 (B, *shape) began, without the noise where the network reads it: (B, *shape)."""
    solver, count = sampling.solver.build(), sampling.solver.steps
    grid = (
        bridge.settings.time
        if sampling.grid is None
        else bridge.settings.time.model_copy(update={"grid": sampling.grid})
    )
    times = grid.solver_grid(count).flip(0)
    if bridge.open_end:
        # With a predicted target there is no velocity at t = 1.
        times[0] = 1 - min(OPEN_END_STEP, float(1 - times[1]) / 2)

    def conditional(z: Tensor, t: Tensor, null: Tensor) -> Tensor:
        return bridge.velocity(Encoded(z1), z, t, null)

    def velocity(z: Tensor, t: float) -> Tensor:
        if steps is not None:
            steps.begin(1 - t)
        return NoGuidance()(conditional, z, t)

    z0 = solver.integrate(velocity, z1, times)
    if bridge.network.reading_weight > 0:
        return bridge.network.read_source(z0, torch.zeros(len(z0), device=z0.device))
    return z0


def read_back(bridge: Bridge, source: Modality, mu: Tensor, books: dict[int, Tensor] | None = None) -> list[Item]:
    """The source items of starts (B, *target shape). books: the codes at each place, which are kept there once made."""
    books = {} if books is None else books
    latent = bridge.source_encoder.latent_of(mu)
    if latent is not None:
        return source.decode(latent)
    codes = bridge.source_encoder.codes_of(mu)
    assert codes is not None
    numbers = []
    for place in range(codes.shape[1]):
        if place not in books:
            book = _book(bridge.source_encoder, source, place)
            assert book is not None
            books[place] = book
        numbers.append(torch.cdist(codes[:, place], books[place].to(codes.device)).argmin(1) - 1)
        if bool((numbers[-1] < 0).all()):
            # Texts have ended; to make the codes of a place takes as long as all of the flow.
            break
    return source.from_entries(torch.stack(numbers, dim=1).tolist())


class ReverseStages(Stages):
    """The stages of a pipeline whose model is run backwards: its assembly is that of the mirrored task."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.books: dict[int, Tensor] = {}

    @torch.no_grad()
    def _sample(
        self, batch: EncodedBatch, sampling: SamplingSettings, place: int, count: int, whole_flow: bool
    ) -> SampledBatch:
        if whole_flow or len(batch.terms) > 1:
            raise BridgeflowError("a model run backwards draws no flow and no sums: leave these options out.")
        bridge = self._place(self.bridge)
        steps = Steps(sampling.solver, bridge.open_end, place, count, self._tell)
        ((latent, rows),) = batch.terms
        with self._autocast():
            mu = start_of_flow(bridge, latent.to(self.device).rows(rows.to(self.device)).mean, sampling, steps)
        steps.end()
        self.evaluations = sampling.solver.evaluations() or 0
        return SampledBatch(batch.jobs, [(0.0, self._wait(mu.float()))])

    @torch.no_grad()
    def _decode(self, batch: SampledBatch, place: int, count: int) -> Done:
        self._tell(place, count, "reading the source")
        bridge, source = self._place(self.bridge), self._place(self.assembly.target)
        ((t, mu),) = batch.states
        return Done(batch.jobs, [(t, read_back(bridge, source, mu.to(self.device), self.books))])
