"""The three stages of inference: the source modality encodes, the bridge samples, the target modality decodes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor, nn

from bridgeflow.assembly import Assembly
from bridgeflow.bridge import Bridge
from bridgeflow.config.keys import SamplingSettings
from bridgeflow.data.encoding import encode
from bridgeflow.errors import BridgeflowError
from bridgeflow.flow.guidance import AutoGuidance, Guidance
from bridgeflow.flow.solver import Solver, SolverSettings
from bridgeflow.inference.arithmetic import PLAIN, Mixture, mix
from bridgeflow.inference.familiarity import Familiarity
from bridgeflow.modality import Item, Latent, Modality, Progress
from bridgeflow.nn.encoded import Encoded
from bridgeflow.runtime.randomness import generator

_T = TypeVar("_T")
_Module = TypeVar("_Module", bound=nn.Module)
_Held = TypeVar("_Held", Tensor, Latent)


@dataclass(frozen=True, eq=False)
class Piece:
    """One piece of an item. Compared by identity, so that it is encoded once however often it is used."""

    value: Item


@dataclass(frozen=True)
class Job:
    """One piece of one result: the number of its item and of the result, what it is made from, the seed's parts."""

    item: int
    result: int
    terms: tuple[Piece, ...]
    draw: tuple[int, int, int]
    mixture: Mixture = PLAIN


@dataclass(frozen=True)
class Done:
    """A batch of jobs with the states of their flow that were asked for: (t, an item for each job)."""

    jobs: Sequence[Job]
    states: list[tuple[float, list[Item]]]


@dataclass(frozen=True)
class EncodedBatch:
    """A batch of jobs; for each term the latents of its distinct pieces, and the row of each job in them."""

    jobs: Sequence[Job]
    terms: list[tuple[Latent, Tensor]]


@dataclass(frozen=True)
class SampledBatch:
    """A batch of jobs with states (t, z) of their flow."""

    jobs: Sequence[Job]
    states: list[tuple[float, Tensor]]


class Stages:
    """Takes batches of jobs through the stages, one batch after the other.

    With `low_memory` all batches go through a stage before the next one begins, and what served the stage is
    freed, so that source modality, bridge and target modality are never in memory together. The results are the
    same.
    """

    def __init__(
        self,
        assembly: Assembly,
        bridge: Bridge | Callable[[], Bridge],
        device: torch.device,
        precision: str,
        low_memory: bool,
        watch: Progress | None,
    ) -> None:
        """bridge: the bridge itself, or what loads it. For the others see `Pipeline`."""
        self.assembly = assembly
        self.device = device
        self.precision = precision
        self.low_memory = low_memory
        self.watch = watch
        self.evaluations = 0
        self.familiarity: Familiarity | None = None
        self.weak: Bridge | None = None
        """A weaker model that sampling is guided away from."""
        self.out_of_distribution: set[int] = set()
        """Numbers of the items of the last call that are far from what the model knows."""
        self._bridge: Bridge | None = bridge if isinstance(bridge, Bridge) else None
        self._load: Callable[[], Bridge] | None = None if isinstance(bridge, Bridge) else bridge
        if not low_memory:
            for module in (assembly.source, assembly.target, self.bridge):
                self._place(module)

    @property
    def bridge(self) -> Bridge:
        """The bridge, which is loaded where it is not there."""
        if self._bridge is None:
            assert self._load is not None
            self._bridge = self._load()
        return self._bridge

    def run(
        self, groups: Sequence[Sequence[Job]], sampling: SamplingSettings, whole_flow: bool = False
    ) -> Iterator[Done]:
        """The jobs of each group in batches; jobs of different groups share none.

        whole_flow: all states that the solver passes through, instead of the end alone.
        """
        self.out_of_distribution = set()
        batches = [batch for jobs in groups for batch in self._batches(jobs, sampling.batch_size)]
        count = len(batches)
        encoded = self._stage(
            (self._encode(jobs, place, count) for place, jobs in enumerate(batches)),
            lambda: self._free(self.assembly.source),
        )
        sampled = self._stage(
            (self._sample(batch, sampling, place, count, whole_flow) for place, batch in enumerate(encoded)),
            self._free_bridge,
        )
        yield from self._stage(
            (self._decode(batch, place, count) for place, batch in enumerate(sampled)),
            lambda: self._free(self.assembly.target),
        )

    def _batches(self, jobs: Sequence[Job], size: int) -> Iterator[Sequence[Job]]:
        """The jobs in their order, `size` at most together, of pieces that go into one batch."""
        key = self.assembly.source.batch_key
        for _, alike in groupby(jobs, lambda job: [key(piece.value) for piece in job.terms]):
            chosen = list(alike)
            yield from (chosen[start : start + size] for start in range(0, len(chosen), size))

    def _stage(self, results: Iterable[_T], free: Callable[[], None]) -> Iterable[_T]:
        """The results of a stage, each as it is asked for; or all of them, and then what made them is freed."""
        if not self.low_memory:
            return results
        held = list(results)
        free()
        return held

    @torch.no_grad()
    def _encode(self, jobs: Sequence[Job], place: int, count: int) -> EncodedBatch:
        self._tell(place, count, f"encoding {self.assembly.task.source.name}")
        source = self._place(self.assembly.source)
        terms = []
        for column in zip(*(job.terms for job in jobs), strict=True):
            rows = {piece: row for row, piece in enumerate(dict.fromkeys(column))}
            batch = source.collate([piece.value for piece in rows])
            latent = encode(source, batch, self.device)
            if not all(torch.isfinite(own.mean).all() for own in latent.parts("source").values()):
                raise BridgeflowError("it holds numbers that are not finite (NaN or infinite): fix the input.")
            terms.append((self._wait(latent), torch.tensor([rows[piece] for piece in column])))
            # What is added in a sum, such as a lone word, need not be like the inputs of the training.
            if len(terms) == 1 or not jobs[0].mixture.standardised:
                self._note_out_of_distribution(jobs, latent, terms[-1][1])
        return EncodedBatch(jobs, terms)

    def _note_out_of_distribution(self, jobs: Sequence[Job], latent: Latent, rows: Tensor) -> None:
        if self.familiarity is not None:
            ood = self.familiarity.is_ood(latent)[rows].tolist()
            self.out_of_distribution |= {job.item for job, is_ood in zip(jobs, ood, strict=True) if is_ood}

    @torch.no_grad()
    def _sample(
        self, batch: EncodedBatch, sampling: SamplingSettings, place: int, count: int, whole_flow: bool
    ) -> SampledBatch:
        bridge = self._place(self.bridge)
        solver = sampling.solver.build()
        states: list[tuple[float, Tensor]] = []
        steps = Steps(sampling.solver, bridge.open_end, place, count, self._tell)
        with self._autocast():
            encoded = self._start(bridge, batch, sampling)
            z1 = bridge.sample(
                encoded,
                solver,
                sampling.solver.steps,
                self._guidance(encoded, batch, solver, sampling),
                (lambda t, z: states.append((t, self._wait(z.float())))) if whole_flow else None,
                steps.begin,
                sampling.grid,
                [generator(*job.draw, "solver") for job in batch.jobs],
            )
        steps.end()
        self.evaluations = solver.evaluations
        return SampledBatch(batch.jobs, states if whole_flow else [(1.0, self._wait(z1.float()))])

    def _start(self, bridge: Bridge, batch: EncodedBatch, sampling: SamplingSettings) -> Encoded:
        """What a bridge makes of the sources of a batch. The draws are the same for every term, so that what is added
        and subtracted again leaves nothing."""
        terms = [
            bridge.encode(
                latent.to(self.device).rows(rows.to(self.device)),
                [generator(*job.draw) for job in batch.jobs],
                sample=sampling.source == "sample",
            )
            for latent, rows in batch.terms
        ]
        return mix(terms, [job.mixture for job in batch.jobs])

    def _guidance(self, encoded: Encoded, batch: EncodedBatch, solver: Solver, sampling: SamplingSettings) -> Guidance:
        """The guidance of the settings; away from the weaker model where there is one."""
        own = sampling.guidance
        if self.weak is None:
            return own.build()
        weak = self._place(self.weak)
        # It stands at the same state, and attends to what its own weights make of the source and the conditions.
        its = replace(self._start(weak, batch, sampling), z0=encoded.z0)
        velocity = weak.velocity_in(its, solver, sampling.solver.steps, sampling.grid)
        return AutoGuidance(velocity, own.scale, own.interval)

    @torch.no_grad()
    def _decode(self, batch: SampledBatch, place: int, count: int) -> Done:
        self._tell(place, count, "decoding")
        target = self._place(self.assembly.target)
        return Done(batch.jobs, [(t, target.decode(z.to(self.device))) for t, z in batch.states])

    # -- what is held, where, and in which dtype -----------------------------------------------------

    def _place(self, module: _Module) -> _Module:
        """The module on the device. Raises BridgeflowError where the device is not there or full."""
        try:
            return module.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise BridgeflowError(
                f"device {str(self.device)!r} cannot be used ({str(error).splitlines()[0]}): try --device cpu."
            ) from error

    def _wait(self, held: _Held) -> _Held:
        """A tensor or latent where it takes no room from the next stage."""
        return held.to("cpu") if self.low_memory else held

    def _free(self, modality: Modality) -> None:
        modality.unload()
        self._leave(modality)

    def _free_bridge(self) -> None:
        if self._load is not None:
            self._bridge = None
        self._leave(self._bridge)
        self._leave(self.weak)

    def _leave(self, module: nn.Module | None) -> None:
        """Clears the device of a module, or of one that is gone."""
        if module is not None and self.device.type != "cpu":
            module.to("cpu")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _tell(self, done: int, total: int, what: str) -> None:
        if self.watch is not None:
            self.watch(done, total, what)


class Steps:
    """Tells how far sampling is: in steps, in evaluations where a step has two, in per cent of the way where the
    solver chooses its steps."""

    def __init__(self, solver: SolverSettings, open_end: bool, place: int, count: int, tell: Progress) -> None:
        evaluations = solver.evaluations(open_end)
        self.adaptive = evaluations is None
        self.what = {1: "step", None: "flow, per cent"}.get(solver.evaluations_per_step, "evaluation")
        self.each = 100 if evaluations is None else evaluations
        self.done = place * self.each
        self.until = self.done + self.each
        self.total = count * self.each
        self.tell = tell

    def begin(self, t: float) -> None:
        """An evaluation at time t begins."""
        if self.adaptive:
            self.tell(self.until - self.each + int(100 * t), self.total, self.what)
            return
        self.tell(self.done, self.total, self.what)
        self.done += 1

    def end(self) -> None:
        """All evaluations are done."""
        self.tell(self.until, self.total, self.what)
