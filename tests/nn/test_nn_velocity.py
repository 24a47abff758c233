"""What every velocity network keeps to: shapes, indicator, context, times and independent rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from bridgeflow.errors import UsageError
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.dit import DiT, DiTSettings
from bridgeflow.nn.reading_dit import ReadingDiTSettings
from bridgeflow.nn.unet import UNetSettings
from bridgeflow.nn.velocity import NetworkSettings, VelocityNet

SMALL_DIT: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4}
SMALL_UNET: dict[str, Any] = {"channels": (16, 24), "blocks": 1, "heads": 4}
CASES: dict[str, tuple[NetworkSettings, LatentSpec]] = {
    "dit_grid": (DiTSettings(**SMALL_DIT, patch=2), LatentSpec((3, 8, 6), "grid")),
    "dit_embedding": (DiTSettings(**SMALL_DIT, indicator="embedding"), LatentSpec((2, 4, 4), "grid")),
    "dit_line": (DiTSettings(**SMALL_DIT, patch=4), LatentSpec((2, 16), "grid")),
    "dit_volume": (DiTSettings(**SMALL_DIT, patch=2), LatentSpec((2, 4, 4, 2), "grid")),
    "dit_modern": (DiTSettings(**SMALL_DIT, patch=2, block="modern"), LatentSpec((3, 8, 6), "grid")),
    "dit_modern_volume": (
        DiTSettings(**SMALL_DIT, block="modern", indicator="embedding"),
        LatentSpec((2, 2, 3, 2), "grid"),
    ),
    "dit_modern_sequence": (DiTSettings(**SMALL_DIT, block="modern"), LatentSpec((5, 7), "sequence")),
    "dit_sequence": (DiTSettings(**SMALL_DIT), LatentSpec((5, 7), "sequence")),
    "unet": (UNetSettings(**SMALL_UNET), LatentSpec((3, 8, 12), "grid")),
    "unet_patch": (UNetSettings(**SMALL_UNET, patch=2), LatentSpec((2, 8, 8), "grid")),
    "unet_plain": (UNetSettings(**SMALL_UNET, norm="none"), LatentSpec((3, 8, 8), "grid")),
    "reading_dit": (ReadingDiTSettings(**SMALL_DIT, spans=5, reading_depth=1), LatentSpec((2, 4, 4), "grid")),
    "reading_dit_sequence": (ReadingDiTSettings(**SMALL_DIT, spans=4), LatentSpec((5, 7), "sequence")),
    "unet_attention": (UNetSettings(**SMALL_UNET, attention=(0, 1)), LatentSpec((2, 4, 8), "grid")),
}
ATTENDING = [name for name in CASES if not name.startswith("reading")]
WITH_CONTEXT = [name for name in ATTENDING if name not in ("unet_patch", "dit_volume")]
CONTEXT = LatentSpec((6, 10), "sequence")
READING = "reader.head."
"""Weights that a loss of their own trains, and no velocity."""


def build(name: str, context: bool = False, perturb: bool = True, **changes: Any) -> tuple[VelocityNet, LatentSpec]:
    """A network in eval mode; perturbed, so that nothing is zero by initialisation."""
    settings, latent = CASES[name]
    torch.manual_seed(0)
    network = settings.model_copy(update=changes).build(latent, CONTEXT if context else None).eval()
    if perturb:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return network, latent


def states(latent: LatentSpec, rows: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    z = torch.randn(rows, *latent.shape, generator=random)
    return z, torch.rand(rows, generator=random), torch.arange(rows) % 2 == 1


def differ(a: Tensor, b: Tensor) -> Tensor:
    """bool (B,): rows that differ by more than rounding."""
    return (a - b).flatten(1).abs().amax(1) > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_a_fresh_network_gives_zero_in_the_shape_of_its_state(name: str) -> None:
    network, latent = build(name, perturb=False)
    z, t, null = states(latent)
    velocity = network(z, t, null)
    assert velocity.shape == z.shape
    assert velocity.dtype == torch.float32
    assert float(velocity.detach().abs().max()) == 0.0


@pytest.mark.parametrize("name", CASES)
def test_state_time_and_indicator_decide_the_velocity(name: str) -> None:
    network, latent = build(name)
    z, t, null = states(latent)
    velocity = network(z, t, null)
    assert velocity.shape == z.shape
    assert bool(differ(network(z + 0.3, t, null), velocity).all())
    assert bool(differ(network(z, (t + 0.3) % 1, null), velocity).all())
    assert bool(differ(network(z, t, ~null), velocity).all())


@pytest.mark.parametrize("name", CASES)
def test_every_cell_of_the_state_counts(name: str) -> None:
    network, latent = build(name)
    z, t, null = states(latent, rows=1)
    z.requires_grad_()
    network(z, t, null).square().sum().backward()
    assert z.grad is not None
    assert bool((z.grad != 0).all())


@pytest.mark.parametrize("name", CASES)
def test_rows_do_not_see_each_other(name: str) -> None:
    network, latent = build(name)
    z, t, null = states(latent)
    velocity = network(z, t, null)
    for row in range(4):
        alone = network(z[row : row + 1], t[row : row + 1], null[row : row + 1])
        torch.testing.assert_close(alone[0], velocity[row], rtol=1e-4, atol=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(network(z[order], t[order], null[order]), velocity[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WITH_CONTEXT)
def test_the_context_counts_where_it_is_real(name: str) -> None:
    network, latent = build(name, context=True)
    z, t, null = states(latent)
    context = torch.randn(4, *CONTEXT.shape, generator=torch.Generator().manual_seed(2))
    real = torch.ones(4, 6, dtype=torch.bool)
    real[:2, 3:] = False
    velocity = network(z, t, null, context, real)
    changed = context.clone()
    changed[:, 3:] += 1.0
    assert differ(network(z, t, null, changed, real), velocity).tolist() == [False, False, True, True]
    changed[:, :3] += 1.0
    assert bool(differ(network(z, t, null, changed, real), velocity).all())
    short = network(z[:2], t[:2], null[:2], context[:2, :3])
    torch.testing.assert_close(short, velocity[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_second_time_counts_where_it_was_asked_for(name: str) -> None:
    network, latent = build(name, second_time=True)
    z, t, null = states(latent)
    velocity = network(z, t, null, r=t)
    assert bool(differ(network(z, t, null, r=(t + 0.4) % 1), velocity).all())
    plain, _ = build(name)
    with pytest.raises(UsageError, match=r"network\.second_time=true"):
        plain(z, t, null, r=t)


@pytest.mark.parametrize("name", CASES)
def test_a_second_time_adds_nothing_at_first(name: str) -> None:
    network, latent = build(name, second_time=True, perturb=False)
    plain, _ = build(name)
    fresh = {key: value for key, value in network.state_dict().items() if ".second_time." in key}
    network.load_state_dict({**plain.state_dict(), **fresh})
    z, t, null = states(latent)
    assert torch.equal(network(z, t, null, r=(t + 0.4).clamp(max=1)), plain(z, t, null))


@pytest.mark.parametrize("name", CASES)
def test_forward_mode_is_what_small_differences_give(name: str) -> None:
    network, latent = build(name, second_time=True)
    network.double().train()
    z, t, null = states(latent)
    z, t = z.double(), 0.3 * t.double()
    along, r = torch.randn_like(z), t + 0.5

    def average(state: Tensor, time: Tensor) -> Tensor:
        return network(state, time, null, r=r)

    value, derivative = torch.func.jvp(average, (z, t), (along, torch.ones_like(t)))
    step = 1e-6
    with torch.no_grad():
        ahead, behind = average(z + step * along, t + step), average(z - step * along, t - step)
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-4)
    # And the weights get a gradient through it, in reverse.
    (value.sum() + derivative.square().sum()).backward()
    for key, own in network.named_parameters():
        assert key.startswith(READING) or (own.grad is not None and bool(own.grad.isfinite().all())), key


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_autocast_trains_with_finite_numbers(name: str) -> None:
    network, latent = build(name, context=name in WITH_CONTEXT)
    z, t, null = states(latent)
    context = torch.randn(4, *CONTEXT.shape) if name in WITH_CONTEXT else None
    exact = network(z, t, null, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        velocity = network(z, t, null, context)
    assert velocity.dtype == torch.float32
    error = (velocity - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 0 < float(error.detach()) < 0.05
    velocity.square().mean().backward()
    for key, parameter in network.named_parameters():
        if key.startswith(READING):
            assert parameter.grad is None or not bool(parameter.grad.any()), key
            continue
        assert parameter.grad is not None, key
        assert bool(torch.isfinite(parameter.grad).all()), key


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (16, 4)])
def test_a_unet_takes_every_multiple_of_its_levels(size: tuple[int, int]) -> None:
    network, _ = build("unet_patch")
    z, t, null = states(LatentSpec((2, *size), "grid"))
    assert network(z, t, null).shape == z.shape


def test_only_a_unet_takes_other_sizes_which_its_levels_divide() -> None:
    network, _ = build("unet_patch")
    assert network.takes((2, 8, 12))
    assert not network.takes((2, 8, 6))
    assert not network.takes((3, 8, 8))
    assert not build("dit_grid")[0].takes((3, 8, 6))


def test_a_unet_without_normalisation_sees_surroundings_alone() -> None:
    """A change far away moves a cell where the whole grid is normalised, and not where nothing is."""
    for norm, moves in (("none", False), ("group", True)):
        network, _ = build("unet", channels=(16,), norm=norm)
        z, t, null = states(LatentSpec((3, 4, 64), "grid"), rows=1)
        other = z.clone()
        other[..., -1] += 3
        assert bool(differ(network(z, t, null)[..., :8], network(other, t, null)[..., :8])) == moves


def test_a_unet_refuses_what_does_not_fit() -> None:
    settings = UNetSettings(channels=(16, 24, 32), patch=2)
    with pytest.raises(UsageError, match=r"takes a grid latent \(C, H, W\), not sequence 16x8: try network\.name=dit"):
        settings.build(LatentSpec((16, 8), "sequence"))
    with pytest.raises(UsageError, match="not grid 2x16"):
        settings.build(LatentSpec((2, 16), "grid"))
    with pytest.raises(UsageError, match="multiples of 8, not grid 2x16x12"):
        settings.build(LatentSpec((2, 16, 12), "grid"))
    with pytest.raises(UsageError, match=r"network\.heads .* 18 is no multiple of 4"):
        UNetSettings(channels=(18, 24), attention=(0,)).build(LatentSpec((2, 16, 16), "grid"))


@pytest.mark.parametrize("attention", [(2,), (-1,), (0, 7)])
def test_a_unet_refuses_attention_at_levels_it_lacks(attention: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="attention names levels from 0 to 1"):
        UNetSettings(channels=(16, 24), attention=attention)


@pytest.mark.parametrize("channels", [(), (0,), (16, -8)])
def test_a_unet_refuses_channels_that_are_none(channels: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="channels"):
        UNetSettings(channels=channels)


def test_a_dit_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValidationError, match="heads must divide width, but 32 is no multiple of 5"):
        DiTSettings(width=32, heads=5)
    with pytest.raises(UsageError, match=r"network\.patch=3 does not divide"):
        DiTSettings(patch=3).build(LatentSpec((2, 8, 8), "grid"))
    with pytest.raises(UsageError, match=r"network\.patch is 2, but a sequence"):
        DiTSettings(patch=2).build(LatentSpec((8, 8), "sequence"))


def test_a_dit_knows_where_its_tokens_stand() -> None:
    network, latent = build("dit_sequence")
    z, t, null = states(latent)
    order = torch.tensor([1, 0, 2, 3, 4])
    assert bool(differ(network(z[:, order], t, null), network(z, t, null)[:, order]).all())


@pytest.mark.parametrize("name", ["dit_sequence", "dit_line", "dit_grid", "dit_embedding"])
def test_a_fresh_dit_answers_each_token_in_its_own_place(name: str) -> None:
    network, latent = build(name, perturb=False)
    assert isinstance(network, DiT)
    torch.manual_seed(1)
    torch.nn.init.normal_(network.head.weight)
    z, t, null = states(latent, rows=1)
    tokens = network.patches.split(z)
    for place in range(network.patches.count):
        changed = tokens.clone()
        changed[:, place] += torch.randn(network.patches.width)
        difference = network(network.patches.join(changed), t, null) - network(z, t, null)
        moved = network.patches.split(difference).abs().amax(-1)[0] > 1e-4
        assert moved.nonzero().flatten().tolist() == [place]
