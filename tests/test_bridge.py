"""The bridge: its losses against closed forms, where gradients go, and what sampling follows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bridgeflow import registry
from bridgeflow.bridge import Bridge, BridgeSettings, Losses
from bridgeflow.flow.guidance import IndicatorGuidance
from bridgeflow.flow.losses import contrastive_loss, kl_loss
from bridgeflow.flow.path import StraightPathSettings
from bridgeflow.flow.schedule import TimeSchedule
from bridgeflow.flow.solver import Euler, Heun
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.dit import DiTSettings
from bridgeflow.nn.encoding_loss import Contrast, Reconstruction
from bridgeflow.nn.source import Encoded
from bridgeflow.nn.unet import UNetSettings
from bridgeflow.nn.velocity import NetworkSettings, VelocityNet
from bridgeflow.runtime.randomness import generator

GRID, SEQUENCE = LatentSpec((3, 4, 8), "grid"), LatentSpec((5, 6), "sequence")
ENCODER: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "target_patch": 2}
DIT = DiTSettings(width=32, depth=2, heads=4, patch=2)


class FixedVelocity(VelocityNet):
    """One learnable velocity for every state and time; keeps what it was called with."""

    def __init__(self, shape: tuple[int, ...], value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full(shape, value))
        self.calls: list[dict[str, Any]] = []

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        null: Tensor,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        r: Tensor | None = None,
    ) -> Tensor:
        self.calls.append({"z": z, "t": t, "null": null, "context": context, "context_mask": context_mask})
        return self.value.expand(z.shape)


class FixedVelocitySettings(NetworkSettings):
    value: float = 0.0

    def build(self, latent: LatentSpec, context: LatentSpec | None = None) -> VelocityNet:
        return FixedVelocity(latent.shape, self.value)


class AffinePairs(VelocityNet):
    """The exact velocity of pairs z1 = scale z0 + offset, which a state and its time tell apart."""

    def __init__(self, settings: AffinePairsSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, z: Tensor, t: Tensor, null: Tensor, *_: object) -> Tensor:
        s = self.settings
        t = t[:, None, None, None]
        z0 = (z - t * s.offset) / (1 - (1 - s.sigma_min) * t + t * s.scale)
        return (s.scale - (1 - s.sigma_min)) * z0 + s.offset


class AffinePairsSettings(NetworkSettings):
    scale: float
    offset: float
    sigma_min: float

    def build(self, latent: LatentSpec, context: LatentSpec | None = None) -> VelocityNet:
        return AffinePairs(self)


def numbers(spec: LatentSpec, rows: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(rows, *spec.shape, generator=torch.Generator().manual_seed(seed))


def build(
    settings: dict[str, Any],
    network: NetworkSettings | None = None,
    source: LatentSpec = SEQUENCE,
    target: LatentSpec = GRID,
    perturb: bool = False,
) -> Bridge:
    torch.manual_seed(0)
    bridge = Bridge(BridgeSettings.model_validate(settings), network or FixedVelocitySettings(), source, target)
    if perturb:
        with torch.no_grad():
            for parameter in bridge.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return bridge


def learned(name: str, **settings: Any) -> dict[str, Any]:
    return {"source_encoder": {"name": name, **ENCODER}, **settings}


def calls(bridge: Bridge) -> list[dict[str, Any]]:
    assert isinstance(bridge.network, FixedVelocity)
    return bridge.network.calls


# -- the flow loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_min", [1e-5, 0.3])
def test_the_exact_velocity_has_no_loss(sigma_min: float) -> None:
    network = AffinePairsSettings(scale=2.0, offset=-1.5, sigma_min=sigma_min)
    bridge = build({"path": {"sigma_min": sigma_min}, "null_rate": 0.0}, network, GRID, GRID)
    z0 = numbers(GRID)
    losses = bridge(Latent(z0), Latent(2 * z0 - 1.5), generator(0))
    assert float(losses.total.detach()) < 1e-10
    assert float(bridge(Latent(z0), Latent(2 * z0 - 1.4), generator(0)).total) > 1e-4


@pytest.mark.parametrize("weight", ["none", "source", "target", "endpoint"])
def test_the_flow_loss_by_hand(weight: str) -> None:
    settings = {"path": {"sigma_min": 0.2}, "time": {"weight": weight}, "null_rate": 0.5}
    bridge = build(settings, FixedVelocitySettings(value=0.25), GRID, GRID)
    z0, z1 = numbers(GRID, seed=1), numbers(GRID, seed=2)
    losses = bridge(Latent(z0), Latent(z1), generator(3))
    (call,) = calls(bridge)
    null, t = call["null"], call["t"]
    assert 2 <= int(null.sum()) < 6
    targets = z1.clone()
    targets[null] = z1[null].roll(1, 0)
    share = t[:, None, None, None]
    torch.testing.assert_close(call["z"], (1 - 0.8 * share) * z0 + share * targets)
    per_row = (0.25 - (targets - 0.8 * z0)).square().flatten(1).mean(1)
    factor = {"none": torch.ones_like(t), "source": 2 * (1 - t), "target": 2 * t, "endpoint": 3 * (1 - t) ** 2}[weight]
    torch.testing.assert_close(losses.total, (factor * per_row).mean())
    torch.testing.assert_close(losses.terms["flow"], losses.total)


def test_a_batch_repeats_with_its_generator() -> None:
    bridge = build(learned("variational", encoding={"name": "cross"}))
    source, target = Latent(numbers(SEQUENCE)), Latent(numbers(GRID), torch.ones(6, *GRID.shape))
    totals = [float(bridge(source, target, generator(seed)).total.detach()) for seed in (0, 0, 1)]
    assert totals[0] == totals[1]
    assert abs(totals[0] - totals[2]) > 1e-3


@pytest.mark.parametrize(("spec", "mask_shape"), [(GRID, (6, 1, 4, 8)), (SEQUENCE, (6, 5))])
def test_masked_cells_of_the_target_do_not_count(spec: LatentSpec, mask_shape: tuple[int, ...]) -> None:
    mask = torch.rand(mask_shape, generator=torch.Generator().manual_seed(4)) < 0.6
    full = mask.unsqueeze(-1).expand(6, *spec.shape) if spec is SEQUENCE else mask.expand(6, *spec.shape)
    z0, z1 = numbers(spec, seed=1), numbers(spec, seed=2)
    bridge = build({"path": {"sigma_min": 0}, "null_rate": 0.0}, FixedVelocitySettings(value=0.5), spec, spec)

    def loss(target: Tensor) -> Losses:
        bridge.zero_grad()
        return bridge(Latent(z0), Latent(target, mask=mask), generator(5))

    first = loss(z1)
    error = (0.5 - (z1 - z0)).square() * full
    expected = (error.flatten(1).sum(1) / full.flatten(1).sum(1)).mean()
    torch.testing.assert_close(first.total, expected)
    torch.testing.assert_close(loss(torch.where(full, z1, 99.0)).total, first.total)
    only_first = mask.clone()
    only_first[1:] = False
    bridge(Latent(z0), Latent(z1, mask=only_first), generator(5)).total.backward()
    assert isinstance(bridge.network, FixedVelocity)
    gradient = bridge.network.value.grad
    assert gradient is not None
    assert ((gradient != 0) == full[0]).all()


def test_null_rows_take_the_mask_of_the_target_that_they_take() -> None:
    bridge = build({"path": {"sigma_min": 0}, "null_rate": 1.0}, None, SEQUENCE, SEQUENCE)
    z0, z1 = torch.zeros(3, 5, 6), torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(3, 5, 6).clone()
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [False, False, True, True, True]])
    z1[~mask] = 50.0
    total = bridge(Latent(z0), Latent(z1, mask=mask), generator(0)).total
    assert bool(calls(bridge)[0]["null"].all())
    assert float(total.detach()) == pytest.approx((1 + 4 + 9) / 3)


# -- the other losses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["standard", "free_mean"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_total_weighs_every_term(form: str, reduction: str) -> None:
    kl = {"form": form, "reduction": reduction, "weight": 0.03}
    bridge = build(learned("variational", kl=kl, encoding={"name": "cross", "weight": 0.4}, null_rate=0.0))
    source, target = Latent(numbers(SEQUENCE)), Latent(numbers(GRID))
    losses = bridge(source, target, generator(6))
    terms = losses.terms
    assert set(terms) == {"flow", "encoding", "kl"}
    torch.testing.assert_close(losses.total, terms["flow"] + 0.4 * terms["encoding"] + 0.03 * terms["kl"])
    encoded = bridge.encode(source, generator(6))
    assert encoded.mu is not None
    assert encoded.logvar is not None
    torch.testing.assert_close(terms["kl"], kl_loss(encoded.mu, encoded.logvar, form, reduction).mean())
    torch.testing.assert_close(terms["flow"], (target.mean - (1 - 1e-5) * encoded.z0).square().mean())
    assert not any(term.requires_grad for term in [*terms.values(), *losses.health.values()])


def test_a_kl_without_weight_or_variance_is_left_out() -> None:
    source, target = Latent(numbers(SEQUENCE)), Latent(numbers(GRID))
    assert "kl" not in build(learned("variational", kl={"weight": 0.0}))(source, target).terms
    assert "kl" not in build(learned("noisy"))(source, target).terms


@pytest.mark.parametrize("kind", ["intra", "cross"])
def test_the_contrast_starts_at_its_temperature(kind: str) -> None:
    bridge = build(learned("deterministic", encoding={"name": kind, "temperature": 0.2}))
    source, target = Latent(numbers(SEQUENCE)), Latent(numbers(GRID))
    assert isinstance(bridge.encoding_loss, Contrast)
    assert float(bridge.encoding_loss.logit_scale.detach().exp()) == pytest.approx(5.0)
    (seen,) = bridge.encoding_loss.tower(source.mean if kind == "intra" else target.mean)
    expected = contrastive_loss(bridge.encode(source).z0, seen, torch.tensor(5.0))
    torch.testing.assert_close(bridge(source, target).terms["encoding"], expected.detach())


def test_a_reconstruction_is_held_against_the_real_source_features() -> None:
    bridge = build(learned("deterministic", encoding={"name": "reconstruction"}))
    mask = torch.arange(5)[None] < torch.tensor([5, 3, 1, 2, 4, 5])[:, None]
    source = Latent(numbers(SEQUENCE), mask=mask)
    assert isinstance(bridge.encoding_loss, Reconstruction)
    (features,) = bridge.encoding_loss.tower(bridge.encode(source).z0)
    error = ((features - source.mean).square().mean(-1) * mask).sum(1) / mask.sum(1)
    losses = bridge(source, Latent(numbers(GRID)))
    torch.testing.assert_close(losses.terms["encoding"], error.mean().detach())


def test_alignment_of_the_start_is_the_cosine_with_the_target() -> None:
    bridge = build(learned("deterministic", encoding={"name": "align"}))
    source, target = Latent(numbers(SEQUENCE)), Latent(numbers(GRID))
    z0 = bridge.encode(source).z0.flatten(1)
    cosine = (z0 * target.mean.flatten(1)).sum(1) / (z0.norm(dim=1) * target.mean.flatten(1).norm(dim=1))
    torch.testing.assert_close(bridge(source, target).terms["encoding"], (1 - cosine).mean().detach())
    # The length of the target says nothing.
    far = bridge(source, Latent(7 * target.mean)).terms["encoding"]
    torch.testing.assert_close(far, (1 - cosine).mean().detach())


@pytest.mark.parametrize("kind", ["intra", "cross", "reconstruction", "align"])
def test_padding_stays_out_of_the_encoding_loss(kind: str) -> None:
    bridge = build(learned("deterministic", encoding={"name": kind}))
    words, cells = torch.arange(5).expand(6, 5) < 3, torch.zeros(6, 1, 4, 8, dtype=torch.bool)
    cells[..., :4] = True
    source, target = numbers(SEQUENCE), numbers(GRID)
    plain = bridge(Latent(source, mask=words), Latent(target, mask=cells)).terms["encoding"]
    noisy_source, noisy_target = source + 9 * ~words[..., None], target + 9 * ~cells
    changed = bridge(Latent(noisy_source, mask=words), Latent(noisy_target, mask=cells)).terms["encoding"]
    torch.testing.assert_close(changed, plain)
    assert abs(float(bridge(Latent(noisy_source), Latent(noisy_target)).terms["encoding"] - plain)) > 1e-3


@pytest.mark.parametrize("encoder", ["direct", "noise"])
@pytest.mark.parametrize("kind", ["reconstruction", "intra", "cross"])
def test_an_encoding_loss_needs_a_learned_source(kind: str, encoder: str) -> None:
    settings: dict[str, Any] = {"source_encoder": {"name": encoder}, "encoding": {"name": kind}}
    with pytest.raises(ValueError, match=rf"encoding\.name={kind} needs a learned source encoder, not '{encoder}'"):
        build(settings, None, GRID, GRID)
    settings["encoding"]["weight"] = 0.0
    assert build(settings, None, GRID, GRID).encoding_loss is None


# -- gradients -------------------------------------------------------------------------------------------

NETWORKS: list[NetworkSettings] = [
    DIT,
    DiTSettings(width=32, depth=2, heads=4, patch=2, indicator="embedding"),
    UNetSettings(channels=(16, 24), blocks=1, heads=4, attention=(1,)),
]
SOURCES = [
    (encoder, mean_norm, kind)
    for encoder in ("deterministic", "noisy", "variational")
    for mean_norm in ("none", "batch")
    for kind in ("none", "reconstruction", "intra", "cross")
]


def gradients(bridge: Bridge) -> dict[str, float]:
    mask = torch.arange(5) < torch.tensor([5, 3, 2, 5, 4, 1, 5, 5])[:, None]
    bridge(Latent(numbers(SEQUENCE, 8), mask=mask), Latent(numbers(GRID, 8)), generator(7)).total.backward()
    found = {name: parameter.grad for name, parameter in bridge.named_parameters()}
    assert [name for name, gradient in found.items() if gradient is None] == []
    norms = {name: float(gradient.norm()) for name, gradient in found.items() if gradient is not None}
    assert all(torch.isfinite(torch.tensor(norm)) for norm in norms.values())
    return norms


@pytest.mark.parametrize(("encoder", "mean_norm", "kind"), SOURCES)
def test_gradients_reach_every_parameter_of_a_learned_bridge(encoder: str, mean_norm: str, kind: str) -> None:
    source = {"name": encoder, "mean_norm": mean_norm, **ENCODER}
    settings = {"source_encoder": source, "encoding": {"name": kind}, "null_rate": 0.5}
    norms = gradients(build(settings, DIT, perturb=True))
    still = {name for name, norm in norms.items() if norm < 1e-5}
    # A shift of mu is undone by its standardisation, so that these two get rounding alone.
    undone = {"source_encoder.encoder.head.bias", "source_encoder.encoder.norm_out.bias"}
    assert still <= (undone if mean_norm == "batch" else set())


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_reach_every_parameter_of_a_network(network: NetworkSettings) -> None:
    for settings in (learned("noisy", null_rate=0.5), {"source_encoder": {"name": "noise"}, "null_rate": 0.5}):
        norms = gradients(build(settings, network, perturb=True))
        assert min(norms.values()) > 1e-5


@pytest.mark.parametrize("kind", ["reconstruction", "intra", "cross"])
def test_the_encoding_loss_moves_the_source_encoder(kind: str) -> None:
    def gradient(kind: str) -> Tensor:
        bridge = build(learned("deterministic", encoding={"name": kind}, null_rate=0.0))
        bridge(Latent(numbers(SEQUENCE)), Latent(numbers(GRID)), generator(8)).total.backward()
        found = bridge.source_encoder.get_parameter("encoder.embed.linear.weight").grad
        assert found is not None
        return found

    without = gradient("none")
    assert float((gradient(kind) - without).norm()) > 0.01 * float(without.norm())


# -- sampling --------------------------------------------------------------------------------------------


def test_a_constant_velocity_takes_one_euler_step() -> None:
    bridge = build({}, FixedVelocitySettings(value=0.75), GRID, GRID)
    encoded = bridge.encode(Latent(numbers(GRID)))
    torch.testing.assert_close(bridge.sample(encoded, Euler(), 1), numbers(GRID) + 0.75)
    (call,) = calls(bridge)
    assert call["null"].tolist() == [False] * 6
    assert call["t"].tolist() == [0.0] * 6


def test_sampling_arrives_at_the_target_of_an_exact_flow() -> None:
    network = AffinePairsSettings(scale=2.0, offset=-1.5, sigma_min=0.0)
    bridge = build({"path": StraightPathSettings(sigma_min=0.0)}, network, GRID, GRID)
    z0 = numbers(GRID)
    torch.testing.assert_close(bridge.sample(bridge.encode(Latent(z0)), Heun(), 5), 2 * z0 - 1.5)


def test_sampling_stops_where_the_schedule_says() -> None:
    schedule = TimeSchedule(density="power", grid="density", shift=2.0)
    bridge = build({"time": schedule}, None, GRID, GRID)
    seen: list[float] = []
    asked: list[float] = []
    encoded = bridge.encode(Latent(numbers(GRID)))
    bridge.sample(encoded, Euler(), 4, observer=lambda t, z: seen.append(t), on_step=asked.append)
    assert seen == schedule.solver_grid(4).tolist()
    assert asked == seen[:-1]


@pytest.mark.parametrize("name", ["noise", "noisy"])
def test_guided_sampling_keeps_rows_apart_and_repeats(name: str) -> None:
    settings = {"source_encoder": {"name": "noise"}} if name == "noise" else learned("noisy")
    bridge = build(settings, DIT, perturb=True).eval()
    source = Latent(numbers(SEQUENCE), mask=torch.arange(5) < torch.tensor([5, 3, 1, 2, 4, 5])[:, None])

    def sample(rows: list[int]) -> Tensor:
        encoded = bridge.encode(source.rows(torch.tensor(rows)), [generator("row", n) for n in rows])
        return bridge.sample(encoded, Euler(), 3, IndicatorGuidance(2.5))

    together = sample([0, 1, 2, 3, 4, 5])
    torch.testing.assert_close(sample([4]), together[4:5], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sample([3, 1]), together[[3, 1]], rtol=1e-4, atol=1e-5)


def test_guidance_joins_both_velocities_of_the_same_row() -> None:
    bridge = build({"source_encoder": {"name": "noise"}}, DIT, perturb=True).eval()
    encoded = bridge.encode(Latent(numbers(SEQUENCE)), generator(9))
    plain, null, guided = (
        bridge.sample(encoded, Euler(), 1, IndicatorGuidance(scale)) - encoded.z0 for scale in (1.0, 0.0, 3.0)
    )
    torch.testing.assert_close(guided, 3 * plain - 2 * null, rtol=1e-4, atol=1e-5)
    assert float((plain - null).abs().max()) > 1e-3


def test_null_rows_see_only_the_null_context() -> None:
    bridge = build({"source_encoder": {"name": "noise"}}, DIT, perturb=True).eval()
    z0 = numbers(GRID)
    one, other = (Encoded(z0, context=numbers(SEQUENCE, seed=seed)) for seed in (1, 2))
    null = [bridge.sample(encoded, Euler(), 2, IndicatorGuidance(0.0)) for encoded in (one, other)]
    torch.testing.assert_close(null[0], null[1], rtol=0, atol=1e-6)
    plain = [bridge.sample(encoded, Euler(), 2) for encoded in (one, other)]
    assert bool(((plain[0] - plain[1]).flatten(1).abs().amax(1) > 1e-3).all())


def test_null_rows_of_training_see_only_the_null_context() -> None:
    bridge = build({"source_encoder": {"name": "noise"}, "null_rate": 0.5}, perturb=True)
    words = torch.arange(5) < torch.tensor([5, 3, 1, 2, 4, 5])[:, None]
    source = Latent(numbers(SEQUENCE), mask=words)
    bridge(source, Latent(numbers(GRID)), generator(3))
    (call,) = calls(bridge)
    assert 2 <= int(call["null"].sum()) < 6
    assert bool(call["context_mask"][:, 0].all())
    assert call["context_mask"][:, 1:].tolist() == (words & ~call["null"][:, None]).tolist()
    torch.testing.assert_close(call["context"][:, 1:], source.mean, rtol=0, atol=0)
    assert bridge.null_context is not None
    torch.testing.assert_close(call["context"][:, :1], bridge.null_context.detach().expand(6, 1, 6), rtol=0, atol=0)


def test_a_learned_source_is_taken_at_its_mean_when_asked() -> None:
    bridge = build(learned("variational"))
    source = Latent(numbers(SEQUENCE))
    mean = bridge.encode(source, generator(1), sample=False)
    torch.testing.assert_close(mean.z0, mean.mu, rtol=0, atol=0)
    assert not torch.allclose(bridge.encode(source, generator(1)).z0, mean.z0, atol=0.1)
    assert not mean.z0.requires_grad


def test_a_network_that_predicts_the_target_gives_its_velocity() -> None:
    """A constant prediction is where every flow ends, and its loss is that of the velocity."""
    settings = BridgeSettings(prediction="target", null_rate=0.0, path=StraightPathSettings(sigma_min=0.0))
    bridge = Bridge(settings, FixedVelocitySettings(value=0.7), GRID, GRID)
    source = Latent(torch.randn(4, *GRID.shape, generator=generator(1)))
    z1 = bridge.sample(bridge.encode(source), Euler(), 8)
    torch.testing.assert_close(z1, torch.full_like(z1, 0.7))
    exact = bridge(source, Latent(torch.full((4, *GRID.shape), 0.7)), generator(2))
    assert float(exact.total) == pytest.approx(0.0, abs=1e-8)
    plain = Bridge(settings.model_copy(update={"prediction": "velocity"}), FixedVelocitySettings(value=0.7), GRID, GRID)
    assert float(plain(source, Latent(torch.full((4, *GRID.shape), 0.7)), generator(2)).total) > 0.1


def test_an_exact_target_has_no_loss_anywhere_on_the_path() -> None:
    """Nearly all of these times are above 0.95, and at the end half an error is held to what it counts at 0.95."""
    late = TimeSchedule(density="power", power=0.01)
    source, target = Latent(numbers(GRID)), Latent(torch.full((6, *GRID.shape), 0.7))
    exact = Bridge(
        BridgeSettings(prediction="target", null_rate=0.0, time=late), FixedVelocitySettings(value=0.7), GRID, GRID
    )
    assert float(exact(source, target, generator(2)).total) == 0.0
    off = Bridge(exact.settings, FixedVelocitySettings(value=0.2), GRID, GRID)
    assert 300 * 0.25 < float(off(source, target, generator(2)).total) <= 400 * 0.25 * (1 + 1e-5)


def test_the_endpoint_weight_makes_the_loss_of_a_predicted_target_its_mean_square() -> None:
    settings = BridgeSettings(prediction="target", null_rate=0.0, time=TimeSchedule(weight="endpoint"))
    bridge = Bridge(settings, FixedVelocitySettings(value=0.2), GRID, GRID)
    source, target = Latent(numbers(GRID)), Latent(torch.full((6, *GRID.shape), 0.7))
    assert float(bridge(source, target, generator(2)).total) == pytest.approx(3 * 0.25, rel=1e-3)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "ab2", "dopri5"])
@pytest.mark.parametrize("grid", ["uniform", "density", "endpoints"])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_every_solver_ends_at_the_target_that_is_predicted(method: str, grid: str, steps: int) -> None:
    settings = BridgeSettings(prediction="target", null_rate=0.0, time=TimeSchedule(grid=grid))
    bridge = Bridge(settings, FixedVelocitySettings(value=0.7), GRID, GRID)
    encoded = bridge.encode(Latent(numbers(GRID)))
    z1 = bridge.sample(encoded, registry.load("solver", method)().build(), steps, IndicatorGuidance(2.0))
    torch.testing.assert_close(z1, torch.full_like(z1, 0.7), rtol=0, atol=2e-3 if method == "dopri5" else 1e-4)
