"""The bridge: source encoder, velocity network and path joined into training losses and sampling.

Source: CrossFlow (arXiv 2412.15213). The flow starts from the encoded source instead of from noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bridgeflow.flow.coupling import PairedCoupling, draw_null_rows
from bridgeflow.flow.guidance import Guidance, IndicatorVelocity, NoGuidance
from bridgeflow.flow.losses import (
    KLSettings,
    contrastive_loss,
    kl_loss,
    logit_multiplier,
    masked_mean,
    staged_flow_loss,
)
from bridgeflow.flow.path import Path
from bridgeflow.flow.schedule import TimeSchedule
from bridgeflow.flow.solver import Euler, Observer, Solver
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.encoded import Encoded, SourceEncoder
from bridgeflow.nn.source import (
    DirectSourceSettings,
    SourceEncoderSettings,
    TokenEncoder,
    TokenEncoderSettings,
)
from bridgeflow.nn.tower import EncodingSettings, TimmTower, TimmTowerSettings
from bridgeflow.nn.velocity import NetworkSettings, VelocityNet
from bridgeflow.runtime import collective
from bridgeflow.runtime.randomness import Randomness
from bridgeflow.settings import Settings


class BridgeSettings(Settings):
    """Everything about the bridge but the network's size."""

    source_encoder: SourceEncoderSettings = DirectSourceSettings()
    """How the source becomes z0."""
    path: Path = Path()
    """The path between z0 and z1."""
    prediction: Literal["velocity", "target"] = "velocity"
    """What the network gives: `velocity` itself, as in the paper; or `target`, z1, from which the velocity follows, so
    that the network need not know what of the source is to vanish (Li and He, arXiv 2511.13720, for noise as the
    source). The loss is that of the velocity either way; an error of z1 then counts 1 / (1 - t)^2, at most 400."""
    time: TimeSchedule = TimeSchedule()
    """Times in training and the solver's grid."""
    encoding: EncodingSettings = EncodingSettings()
    """Loss that keeps a learned source informative."""
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
    """Carries source latents to target latents."""

    def __init__(
        self, settings: BridgeSettings, network: NetworkSettings, source: LatentSpec, target: LatentSpec
    ) -> None:
        super().__init__()
        self.settings = settings
        self.target_spec = target
        self.coupling = PairedCoupling()
        self.source_encoder: SourceEncoder = settings.source_encoder.build(source, target)
        context = self.source_encoder.context
        self.network: VelocityNet = network.build(target, context)
        self.null_context = nn.Parameter(torch.zeros(1, 1, context.shape[-1])) if context is not None else None
        self._build_encoding(settings.encoding, source, target)

    def _build_encoding(self, encoding: EncodingSettings, source: LatentSpec, target: LatentSpec) -> None:
        self.tower: TokenEncoder | TimmTower | None = None
        self.logit_scale: nn.Parameter | None = None
        if encoding.kind == "none" or encoding.weight == 0:
            return
        if not self.source_encoder.learned:
            raise ValueError(
                f"encoding.kind={encoding.kind} needs a learned source encoder, not "
                f"'{self.settings.source_encoder.name}': set encoding.kind=none or source_encoder.name=variational."
            )
        self.tower = self._build_tower(encoding, source, target)
        if encoding.kind != "reconstruction":
            # Not a scalar, which cannot be sharded; checkpoints may hold one.
            self.logit_scale = nn.Parameter(torch.tensor([math.log(1 / encoding.temperature)]))
            self.register_load_state_dict_pre_hook(_scale_of_one_number)

    def _build_tower(
        self, encoding: EncodingSettings, source: LatentSpec, target: LatentSpec
    ) -> TokenEncoder | TimmTower:
        tower = encoding.tower
        if isinstance(tower, TimmTowerSettings):
            if encoding.kind != "cross":
                raise ValueError("encoding.tower.name=timm sees the target: set encoding.kind=cross.")
            return TimmTower(tower, target)
        # Sizes that the tower leaves open are those of a source encoder that is such a transformer itself.
        encoder = self.settings.source_encoder
        like = encoder if isinstance(encoder, TokenEncoderSettings) else None
        sizes = {
            "width": tower.width or (like.width if like else 192),
            "heads": tower.heads or (like.heads if like else 4),
            "depth": tower.depth or (max(1, like.depth // 2) if like else 4),
        }
        patches = {"source": like.patch if like else 1, "target": like.target_patch if like else 1}
        for side, spec in (("source", source), ("target", target)):
            if like is None and spec.layout == "grid":
                patches[side] = 2
        sees = "source" if encoding.kind == "intra" else "target"
        patches[sees] = tower.patch or patches[sees]
        if encoding.kind == "reconstruction":
            settings = TokenEncoderSettings(patch=patches["target"], target_patch=patches["source"], **sizes)
            return TokenEncoder(target, source, settings)
        settings = TokenEncoderSettings(patch=patches[sees], target_patch=patches["target"], **sizes)
        return TokenEncoder(source if sees == "source" else target, target, settings)

    @property
    def open_end(self) -> bool:
        """True where the velocity is not defined at t = 1, see `Solver.integrate`."""
        return self.settings.prediction == "target"

    @property
    def sees_observed(self) -> bool:
        """True where the loss looks at the target before its codec (`Latent.observed`)."""
        return isinstance(self.tower, TimmTower)

    # -- training ----------------------------------------------------------------------------------------

    def forward(
        self, source: Latent, target: Latent, randomness: Randomness = None, null: Tensor | None = None
    ) -> Losses:
        """Losses of a batch of B pairs.

        randomness: of the draws of source, target and time. null: bool (B,) on the CPU, which rows learn the
        unconditional velocity, drawn by `draw_null_rows` where it is not given; with several processes (world * B,),
        by rank and the same on all of them.

        The flow loss is a mean over the target's real values and over the batch; the KL term is reduced over
        dimensions as `kl.reduction` says and then averaged over the batch; the encoding loss is a mean.
        """
        settings = self.settings
        device = target.mean.device
        encoded = self.source_encoder(source, randomness)
        z0, z1 = encoded.z0, target.sample(randomness)
        batch = len(z1)
        if null is None:
            if randomness is not None and not isinstance(randomness, torch.Generator):
                raise ValueError("generators of rows draw no null rows of the batch: give `null` with them")
            null = draw_null_rows(batch, settings.null_rate, randomness)
        # The rows are looked up before they move, so that the device is not waited for.
        coupled = self.coupling.couple(z1, null)
        mask = target.mask
        if mask is not None:
            mask = self.coupling.couple(mask, null)
        first = collective.rank() * batch if len(null) != batch else 0
        null = null[first : first + batch].to(device)
        flow = self.flow_loss(encoded, coupled, null, mask, settings.time, randomness)

        terms = {"flow": flow}
        total = flow
        if self.tower is not None:
            terms["encoding"] = self._encoding_loss(self.tower, source, z0, z1, target)
            total = total + settings.encoding.weight * terms["encoding"]
        if encoded.mu is not None and encoded.logvar is not None and settings.kl.weight > 0:
            terms["kl"] = kl_loss(encoded.mu, encoded.logvar, settings.kl.form, settings.kl.reduction).mean()
            total = total + settings.kl.weight * terms["kl"]
        return Losses(total, {name: term.detach() for name, term in terms.items()}, source_health(encoded))

    def flow_loss(
        self,
        encoded: Encoded,
        z1: Tensor,
        null: Tensor,
        mask: Tensor | None,
        time: TimeSchedule,
        randomness: Randomness,
    ) -> Tensor:
        """The loss of the flow alone at times that `time` draws, a mean over the target's real values and the batch.
        z1: target latents (B, *shape). null: bool (B,), on the device."""
        settings = self.settings
        t = time.sample(len(z1), randomness).to(z1.device)
        z_t = settings.path.interpolate(encoded.z0, z1, t)
        given = self._given(encoded, z_t, t, null)
        weight = time.loss_weight(t)
        if settings.prediction == "target":
            truth, weight = z1, settings.path.target_weight(t, weight)
        else:
            truth = settings.path.velocity(encoded.z0, z1)
        return (weight * staged_flow_loss(given, truth, self.network.stage_weights, mask)).mean()

    def _encoding_loss(
        self, tower: TokenEncoder | TimmTower, source: Latent, z0: Tensor, z1: Tensor, target: Latent
    ) -> Tensor:
        encoding = self.settings.encoding
        if isinstance(tower, TimmTower):
            if target.observed is None:
                raise ValueError("encoding.tower.name=timm looks at pixels, and this target modality shows none.")
            seen = tower(target.observed)
        elif encoding.kind == "reconstruction":
            (features,) = tower(z0)
            return masked_mean((features - source.mean.float()).square(), source.mask).mean()
        elif encoding.kind == "intra":
            (seen,) = tower(source.mean, source.mask)
        else:
            (seen,) = tower(z1, target.mask)
        assert self.logit_scale is not None
        return contrastive_loss(z0, seen, logit_multiplier(self.logit_scale, encoding.logit_scale))

    def _given(self, encoded: Encoded, z: Tensor, t: Tensor, null: Tensor) -> list[Tensor]:
        """What the network predicts at each of its resolutions, the last at the latent's own."""
        if encoded.context is None or self.null_context is None:
            return list(self.network.velocities(z, t, null))
        return list(self.network.velocities(z, t, null, *self._context(encoded, self.null_context, null)))

    def velocity(
        self, encoded: Encoded, z: Tensor, t: Tensor, null: Tensor, network_time: Tensor | None = None
    ) -> Tensor:
        """The velocity (B, *shape) at states z (B, *shape) and times t (B,) of flows that began at `encoded`; under the
        null indicator where null (B,) is True. B may be a multiple of the rows that were encoded.

        network_time: (B,), what the network takes for the time, where that is not t. With `prediction: target` there is
        no velocity at t = 1 (`Path.velocity_towards`)."""
        seen = t if network_time is None else network_time
        if encoded.context is None or self.null_context is None:
            given = self.network(z, seen, null)
        else:
            given = self.network(z, seen, null, *self._context(encoded, self.null_context, null))
        if self.settings.prediction == "velocity":
            return given
        return self.settings.path.velocity_towards(z, given.float(), t.to(z.device, torch.float32))

    def _context(self, encoded: Encoded, null_context: Tensor, null: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens to attend to, a learned one in front that null rows see alone, and which of them are real."""
        context, real = encoded.context, encoded.context_mask
        assert context is not None
        if len(null) != len(context):
            repeats = len(null) // len(context)
            context = context.repeat(repeats, *([1] * (context.ndim - 1)))
            real = None if real is None else real.repeat(repeats, 1)
        if real is None:
            real = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        context = torch.cat([null_context.expand(len(context), -1, -1).to(context.dtype), context], dim=1)
        return context, torch.cat([real.new_ones(len(real), 1), real & ~null[:, None]], dim=1)

    # -- sampling ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, source: Latent, generator: Randomness = None, sample: bool = True) -> Encoded:
        """z0 of a batch, as sampling starts from it."""
        return self.source_encoder(source, generator, sample)

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
    ) -> Tensor:
        """Target latents (B, *shape) from encoded sources, in `steps` steps of the solver.

        `observer(t, z)` sees every state; `on_step(t)` is called at each evaluation of the network. `grid` is another
        grid of times than that of `settings.time`.
        """
        guide = guidance or NoGuidance()
        own = self.velocity_in(encoded, solver, steps, grid)

        def velocity(z: Tensor, t: float) -> Tensor:
            if on_step is not None:
                on_step(t)
            return guide(own, z, t)

        times = self._time(grid).solver_grid(steps)
        return solver.integrate(velocity, encoded.z0, times, observer, open_end=self.open_end)

    def velocity_in(
        self, encoded: Encoded, solver: Solver, steps: int, grid: Literal["uniform", "density"] | None = None
    ) -> IndicatorVelocity:
        """`velocity` of flows that began at `encoded`, as a sampling with that solver, steps and grid asks for it."""
        time = self._time(grid)

        def velocity(z: Tensor, t: Tensor, null: Tensor) -> Tensor:
            # The lead of the published grid belongs to its own sampler: other solvers give the state's time.
            seen = time.network_time(t, steps) if isinstance(solver, Euler) else t
            return self.velocity(encoded, z, t, null, seen)

        return velocity

    def _time(self, grid: Literal["uniform", "density"] | None) -> TimeSchedule:
        time = self.settings.time
        return time if grid is None else time.model_copy(update={"grid": grid})


def _scale_of_one_number(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    key = f"{prefix}logit_scale"
    if key in state:
        state[key] = state[key].reshape(1)


def source_health(encoded: Encoded) -> dict[str, Tensor]:
    """z0_std: over everything; sigma: mean standard deviation of a variational source; mu_batch_std: of mu over
    the batch, averaged over dimensions. A learned source whose scale shrinks gives the target away: the flow
    loss then falls while nothing is learned."""
    health = {"z0_std": encoded.z0.detach().float().std()}
    if encoded.logvar is not None:
        health["sigma"] = (0.5 * encoded.logvar.detach().float()).exp().mean()
    if encoded.mu is not None and len(encoded.mu) > 1:
        health["mu_batch_std"] = encoded.mu.detach().float().std(0).mean()
    return health


def collapse_warning(health: dict[str, float], learned: bool) -> str | None:
    """A sentence when a learned source has collapsed, else None."""
    if not learned:
        return None
    if health.get("z0_std", 1.0) < 0.3:
        return (
            f"the learned source has collapsed in scale (z0 std {health['z0_std']:.2f}, expected about 1): the flow "
            "loss no longer means anything; raise kl.weight (kl.reduction=sum) or set source_encoder.mean_norm=batch."
        )
    if health.get("mu_batch_std", 1.0) < 0.05:
        return (
            f"the learned source hardly depends on its input (std of mu over the batch {health['mu_batch_std']:.3f}): "
            "set encoding.kind=cross, or lower kl.weight, or set source_encoder.mean_norm=batch."
        )
    return None
