"""Gradient checkpointing: less is kept, and every number is the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bridgeflow.flow.losses import staged_flow_loss
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.dimr import DiMRSettings
from bridgeflow.nn.dit import DiTSettings
from bridgeflow.nn.narrowing import NarrowingSourceSettings
from bridgeflow.nn.recompute import recompute_blocks
from bridgeflow.nn.source import VariationalSourceSettings
from bridgeflow.nn.unet import UNetSettings

GRID, WORDS = LatentSpec((4, 16, 16), "grid"), LatentSpec((8, 32), "sequence")
Loss = Callable[[], Tensor]


def _network(settings: DiTSettings | DiMRSettings | UNetSettings) -> tuple[nn.Module, Loss]:
    network = settings.build(GRID)
    z, t, null = torch.randn(2, 4, 16, 16), torch.rand(2), torch.tensor([True, False])
    return network, lambda: staged_flow_loss(network.velocities(z, t, null), z, network.stage_weights).mean()


def _encoder(settings: VariationalSourceSettings | NarrowingSourceSettings) -> tuple[nn.Module, Loss]:
    encoder, words = settings.build(WORDS, GRID), Latent(torch.randn(2, 8, 32))
    return encoder, lambda: encoder(words, torch.Generator().manual_seed(0)).z0.square().mean()


CASES = {
    "dit": lambda: _network(DiTSettings(patch=2, width=32, depth=4)),
    "dimr": lambda: _network(DiMRSettings()),
    "unet": lambda: _network(UNetSettings(channels=(8, 16), attention=(1,))),
    "variational": lambda: _encoder(VariationalSourceSettings(width=32, depth=4, target_patch=2)),
    "narrowing": lambda: _encoder(NarrowingSourceSettings(depth=4, narrowings=1, hidden=64, dropout=0.2)),
}


def _gradients(module: nn.Module, loss: Loss, bf16: bool) -> tuple[float, dict[str, Tensor], int]:
    """Loss, gradients by name, and bytes kept for them beside the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    module.zero_grad()
    torch.manual_seed(3)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
    ):
        total = loss()
    size = sum(kept.values())
    total.backward()
    return total.item(), {name: p.grad for name, p in module.named_parameters() if p.grad is not None}, size


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bf16", [False, True])
def test_the_same_loss_and_gradients_bit_for_bit_and_less_kept(name: str, bf16: bool) -> None:
    torch.manual_seed(0)
    module, loss = CASES[name]()
    for parameter in module.parameters():
        # Layers that start at zero would hide what lies behind them.
        nn.init.normal_(parameter, std=0.05)
    plain, gradients, kept = _gradients(module, loss, bf16)
    assert recompute_blocks(module) > 0
    again, recomputed, left = _gradients(module, loss, bf16)
    assert again == plain
    assert gradients.keys() == recomputed.keys()
    assert all(torch.equal(gradients[key], recomputed[key]) for key in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())
    assert left < 0.75 * kept


def test_nothing_is_recomputed_without_gradients() -> None:
    torch.manual_seed(0)
    network, _ = _network(DiTSettings(patch=2, width=32, depth=2))
    calls: list[int] = []
    for block in network.blocks:  # type: ignore[union-attr]
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    recompute_blocks(network)
    with torch.no_grad():
        network(torch.randn(2, 4, 16, 16), torch.rand(2), torch.zeros(2, dtype=torch.bool))
    assert len(calls) == 2
    network(torch.randn(2, 4, 16, 16), torch.rand(2), torch.zeros(2, dtype=torch.bool)).sum().backward()
    assert len(calls) == 6
