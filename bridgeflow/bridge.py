"""The bridge: source encoder, velocity network and path joined into training losses and sampling.

Source: CrossFlow (arXiv 2412.15213). The flow starts from the encoded source instead of from noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn

from bridgeflow.errors import UsageError
from bridgeflow.flow.coupling import Coupling, CouplingSettings, PairedCouplingSettings, draw_null_rows
from bridgeflow.flow.guidance import Guidance, IndicatorVelocity, NoGuidance
from bridgeflow.flow.losses import KLSettings, kl_loss, masked_mean
from bridgeflow.flow.objective import FlowBatch, FlowMatchingSettings, Objective, ObjectiveSettings
from bridgeflow.flow.path import FlowPath, PathSettings, StraightPathSettings
from bridgeflow.flow.schedule import TimeSchedule
from bridgeflow.flow.solver import Noise, Observer, Solver
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.alignment import Alignment, AlignmentSettings, watching
from bridgeflow.nn.conditioning import ConditionedEncoder, ConditioningSettings
from bridgeflow.nn.encoded import Encoded, SourceEncoder, SourceEncoderSettings
from bridgeflow.nn.encoding_loss import EncodingLoss, EncodingLossSettings, NoEncodingLossSettings
from bridgeflow.nn.health import source_health
from bridgeflow.nn.source import DirectSourceSettings
from bridgeflow.nn.velocity import NetworkSettings, VelocityNet
from bridgeflow.registry.component import Component
from bridgeflow.runtime import collective
from bridgeflow.runtime.randomness import Randomness, normal
from bridgeflow.settings import Settings


class BridgeSettings(Settings):
    """Everything about the bridge but the network's size."""

    source_encoder: Annotated[SerializeAsAny[SourceEncoderSettings], Component("source_encoder", "direct")] = (
        DirectSourceSettings()
    )
    """How the source becomes z0."""
    conditioning: ConditioningSettings = ConditioningSettings()
    """How the conditions of a task with several sources reach the network."""
    coupling: Annotated[SerializeAsAny[CouplingSettings], Component("coupling", "paired")] = PairedCouplingSettings()
    """Which target each source of a batch flows to."""
    path: Annotated[SerializeAsAny[PathSettings], Component("path", "straight")] = StraightPathSettings()
    """The path between z0 and z1."""
    objective: Annotated[SerializeAsAny[ObjectiveSettings], Component("objective", "flow_matching")] = (
        FlowMatchingSettings()
    )
    """The training loss of the flow."""
    prediction: Literal["velocity", "target"] = "velocity"
    """What the network gives: `velocity` itself, as in the paper; or `target`, z1, from which the velocity follows, so
    that the network need not know what of the source is to vanish (Li and He, arXiv 2511.13720, for noise as the
    source). The loss is that of the velocity either way; an error of z1 then counts 1 / (1 - t)^2, at most 400."""
    time: TimeSchedule = TimeSchedule()
    """Times in training and the solver's grid."""
    encoding: Annotated[SerializeAsAny[EncodingLossSettings], Component("encoding_loss", "none")] = (
        NoEncodingLossSettings()
    )
    """Loss that keeps a learned source informative."""
    alignment: AlignmentSettings = AlignmentSettings()
    """Loss that draws the network's hidden tokens towards features of the target's picture."""
    kl: KLSettings = KLSettings()
    """Loss that holds a variational source's scale."""
    null_rate: float = Field(default=0.1, ge=0, le=1)
    """Share of rows that learn the unconditional velocity, for guidance by the indicator (0.10 in the paper)."""


@dataclass
class Losses:
    """total: scalar to minimise. terms: each named loss before its weight. health: figures of the source.
    All are means over the batch, detached but for the total."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    health: dict[str, Tensor] = field(default_factory=dict)


class Bridge(nn.Module):
    """The flow from source latents to target latents: its training loss, and sampling from it."""

    def __init__(
        self,
        settings: BridgeSettings,
        network: NetworkSettings,
        source: LatentSpec,
        target: LatentSpec,
        conditions: Mapping[str, LatentSpec] | None = None,
    ) -> None:
        """conditions: latents beside that of the source, by name, for a task with several sources."""
        super().__init__()
        self.settings = settings
        self.target_spec = target
        self.coupling: Coupling = settings.coupling.build()
        self.path: FlowPath = settings.path.build()
        self.objective: Objective = settings.objective.build()
        self.source_encoder: SourceEncoder = settings.source_encoder.build(source, target)
        if conditions:
            self.source_encoder = ConditionedEncoder(self.source_encoder, conditions, target, settings.conditioning)
        context = self.source_encoder.context
        if settings.objective.second_time:
            if settings.prediction != "velocity":
                raise UsageError(
                    f"objective.name={settings.objective.name} teaches velocities, not "
                    f"prediction={settings.prediction}: set prediction=velocity."
                )
            network = network.model_copy(update={"second_time": True})
        self.network: VelocityNet = network.build(target, context)
        self.null_context = nn.Parameter(torch.zeros(1, 1, context.shape[-1])) if context is not None else None
        self._build_encoding(settings.encoding, source, target)
        self.alignment: Alignment | None = settings.alignment.build(self.network, target, settings.objective)

    def _build_encoding(self, encoding: EncodingLossSettings, source: LatentSpec, target: LatentSpec) -> None:
        self.encoding_loss: EncodingLoss | None = None
        if encoding.name == "none" or encoding.weight == 0:
            return
        if not self.source_encoder.learned:
            raise ValueError(
                f"encoding.name={encoding.name} needs a learned source encoder, not "
                f"'{self.settings.source_encoder.name}': set encoding.name=none or source_encoder.name=variational."
            )
        self.encoding_loss = encoding.build(source, target, self.settings.source_encoder)

    @property
    def open_end(self) -> bool:
        """True where the velocity is not defined at t = 1, see `Solver.integrate`."""
        return self.settings.prediction == "target"

    @property
    def needs_target_pixels(self) -> bool:
        """True where the loss looks at the target before its codec (`Latent.observed`)."""
        encoding = self.encoding_loss is not None and bool(self.encoding_loss.needs_target_pixels)
        return encoding or self.alignment is not None

    # -- training ----------------------------------------------------------------------------------------

    def forward(
        self,
        source: Latent,
        target: Latent,
        randomness: Randomness = None,
        null: Tensor | None = None,
        progress: float = 0.0,
    ) -> Losses:
        """Losses of a batch of B pairs.

        randomness: of the draws of source, target and time. null: bool (B,) on the CPU, which rows learn the
        unconditional velocity, drawn by `draw_null_rows` where it is not given; with several processes (world * B,),
        by rank and the same on all of them. progress: share of the training that is done, from 0 to 1.

        The flow loss is a mean over the target's real values and over the batch; the KL term is reduced over
        dimensions as `kl.reduction` says and then averaged over the batch; the encoding loss is a mean, and so is the
        reading loss of networks that read their source.
        """
        settings = self.settings
        encoded = self.source_encoder(source, randomness)
        if target.start is not None:
            # A flow that was run ended here: what is learned is the way from where that one began.
            encoded = replace(encoded, z0=target.start, logvar=None)
        z0, z1 = encoded.z0, target.sample(randomness)
        batch = len(z1)
        if null is None:
            if randomness is not None and not isinstance(randomness, torch.Generator):
                raise ValueError("generators of rows draw no null rows of the batch: give `null` with them")
            null = draw_null_rows(batch, settings.null_rate, randomness)
        # While `null` is still on the CPU: looking up its rows on a GPU would wait for it.
        rearranged = self.coupling.couple(z0, z1, null)
        coupled = rearranged(z1)
        mask = None if target.mask is None else rearranged(target.mask)
        # This process's part of the null rows of all.
        first = collective.rank() * batch if len(null) != batch else 0
        null = null[first : first + batch].to(target.mean.device)
        with watching(self.alignment) as hidden:
            flow = self.flow_loss(encoded, coupled, null, mask, settings.time, randomness, progress)

        terms, total = {"flow": flow}, flow
        if self.alignment is not None:
            terms["alignment"] = self.alignment(hidden, target.observed, rearranged)
            total = total + settings.alignment.weight * terms["alignment"]
        if self.network.reading_weight > 0:
            terms["reading"] = self._reading_loss(encoded, coupled, randomness)
            total = total + self.network.reading_weight * terms["reading"]
        if self.encoding_loss is not None:
            terms["encoding"] = self.encoding_loss(source, z0, z1, target)
            total = total + settings.encoding.weight * terms["encoding"]
        if encoded.mu is not None and encoded.logvar is not None and settings.kl.weight > 0:
            terms["kl"] = kl_loss(encoded.mu, encoded.logvar, settings.kl.form, settings.kl.reduction).mean()
            total = total + settings.kl.weight * terms["kl"]
        return Losses(total, {name: term.detach() for name, term in terms.items()}, source_health(encoded))

    def _reading_loss(self, encoded: Encoded, z1: Tensor, randomness: Randomness) -> Tensor:
        """How far what the network reads of its source is from mu, at times of their own: near the end of the path
        little of it is left to read."""
        t = self.settings.time.sample(len(z1), randomness).to(z1.device)
        z_t = self.path.interpolate(encoded.z0, z1, t, randomness)
        mu = encoded.z0 if encoded.mu is None else encoded.mu
        return ((1 - t) * masked_mean((self.network.read_source(z_t, t) - mu.detach()).square(), None)).mean()

    def flow_loss(
        self,
        encoded: Encoded,
        z1: Tensor,
        null: Tensor,
        mask: Tensor | None,
        time: TimeSchedule,
        randomness: Randomness,
        progress: float = 1.0,
        objective: Objective | None = None,
    ) -> Tensor:
        """The loss of the flow alone at times that `time` draws, a mean over the target's real values and the batch.
        z1: target latents (B, *shape). null: bool (B,), on the device. objective: another than that of training."""

        own = null

        def predict(z: Tensor, t: Tensor, r: Tensor | None = None, null: Tensor | None = None) -> list[Tensor]:
            return self._predict(encoded, z, t, own if null is None else null, r)

        batch = FlowBatch(
            z0=encoded.z0,
            z1=z1,
            mask=mask,
            predict=predict,
            prediction=self.settings.prediction,
            path=self.path,
            time=time,
            stage_weights=self.network.stage_weights,
            null=own,
            progress=progress,
            randomness=randomness,
        )
        return (objective or self.objective).loss(batch)

    def _predict(self, encoded: Encoded, z: Tensor, t: Tensor, null: Tensor, r: Tensor | None = None) -> list[Tensor]:
        """What the network predicts at each of its resolutions, the last at the latent's own."""
        context = self._context(encoded, null)
        z = self._with_added(encoded, z, null)
        if self.settings.objective.second_time and r is None:
            r = t
        # Only objectives with a second time give it, so that networks written without one work with all others.
        second = {} if r is None else {"r": r}
        return list(self.network.velocities(z, t, null, *context, **second))

    def velocity(
        self,
        encoded: Encoded,
        z: Tensor,
        t: Tensor,
        null: Tensor,
        network_time: Tensor | None = None,
        r: Tensor | None = None,
    ) -> Tensor:
        """The velocity (B, *shape) at states z (B, *shape) and times t (B,) of flows that began at `encoded`; under the
        null indicator where null (B,) is True. B may be a multiple of the rows that were encoded.

        network_time: (B,), what the network takes for the time, where that is not t. r: (B,), the end of the interval
        whose average velocity is asked for, where the objective teaches it; None: the velocity at t itself. With
        `prediction: target` there is no velocity at t = 1 (`FlowPath.velocity_towards`)."""
        seen = t if network_time is None else network_time
        state = self._with_added(encoded, z, null)
        second = {"r": seen if r is None else r} if self.settings.objective.second_time else {}
        given: Tensor = self.network(state, seen, null, *self._context(encoded, null), **second)
        if self.settings.prediction == "velocity":
            return given
        return self.path.velocity_towards(z, given.float(), t.to(z.device, torch.float32))

    def _with_added(self, encoded: Encoded, z: Tensor, null: Tensor) -> Tensor:
        """The state that the network sees: with what of conditions is added to it, but for null rows."""
        if encoded.added is None:
            return z
        repeats = len(z) // len(encoded.added)
        added = encoded.added.repeat(repeats, *[1] * (z.ndim - 1))
        return z + added * ~null.to(z.device).view(-1, *[1] * (z.ndim - 1))

    def _context(self, encoded: Encoded, null: Tensor) -> tuple[Tensor, Tensor] | tuple[()]:
        """Tokens to attend to, a learned one in front that null rows see alone, and which of them are real; nothing
        where the network attends to none."""
        attended = encoded.attended
        if attended is None or self.null_context is None:
            return ()
        context, real = attended
        if len(null) != len(context):
            repeats = len(null) // len(context)
            context = context.repeat(repeats, *([1] * (context.ndim - 1)))
            real = None if real is None else real.repeat(repeats, 1)
        if real is None:
            real = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        context = torch.cat([self.null_context.expand(len(context), -1, -1).to(context.dtype), context], dim=1)
        return context, torch.cat([real.new_ones(len(real), 1), real & ~null[:, None]], dim=1)

    # -- sampling ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, source: Latent, generator: Randomness = None, sample: bool = True) -> Encoded:
        """z0 of a batch, as sampling starts from it."""
        encoded: Encoded = self.source_encoder(source, generator, sample)
        return encoded

    @torch.no_grad()
    def sample(
        self,
        encoded: Encoded,
        solver: Solver,
        steps: int,
        guidance: Guidance | None = None,
        observer: Observer | None = None,
        on_step: Callable[[float], None] | None = None,
        grid: Literal["uniform", "density"] | None = None,
        randomness: Randomness = None,
    ) -> Tensor:
        """Target latents (B, *shape) from encoded sources, in `steps` steps of the solver.

        `observer(t, z)` sees every state; `on_step(t)` is called at each evaluation of the network. `grid` is another
        grid of times than that of `settings.time`. `randomness`: of what a stochastic solver draws.
        """
        guide = guidance or NoGuidance()
        own = self.velocity_in(encoded, solver, steps, grid)

        def velocity(z: Tensor, t: float) -> Tensor:
            if on_step is not None:
                on_step(t)
            return guide(own, z, t)

        times = self._time(grid).solver_grid(steps)
        return solver.integrate(velocity, encoded.z0, times, observer, self.open_end, self._noise(randomness))

    def _noise(self, randomness: Randomness) -> Noise:
        return lambda z, t: self.path.diffusion(t) * normal(z.shape, randomness, z)

    def velocity_in(
        self, encoded: Encoded, solver: Solver, steps: int, grid: Literal["uniform", "density"] | None = None
    ) -> IndicatorVelocity:
        """`velocity` of flows that began at `encoded`, as a sampling with that solver, steps and grid asks for it."""
        time = self._time(grid)

        def velocity(z: Tensor, t: Tensor, null: Tensor) -> Tensor:
            # The lead of the published grid belongs to its own sampler: other solvers give the state's time.
            seen = time.network_time(t, steps) if solver.network_runs_ahead else t
            r = time.next_time(t, steps) if solver.follows_averages else None
            return self.velocity(encoded, z, t, null, seen, r)

        return velocity

    def _time(self, grid: Literal["uniform", "density"] | None) -> TimeSchedule:
        time = self.settings.time
        return time if grid is None else time.model_copy(update={"grid": grid})
