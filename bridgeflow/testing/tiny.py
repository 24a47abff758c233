"""The smallest bridge between two latents, to see gradients flow."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bridgeflow.bridge import Bridge, BridgeSettings
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.dit import DiTSettings
from bridgeflow.nn.source import DeterministicSourceSettings
from bridgeflow.testing.outcome import Fault, calling

WIDTH, HEADS = 16, 2
LARGEST_PATCH = 16


def patch_of(spec: LatentSpec) -> int:
    """Cells per axis of the largest patch that a grid divides into; 1 for a sequence."""
    if spec.layout == "sequence":
        return 1
    return max(n for n in range(1, LARGEST_PATCH + 1) if all(size % n == 0 for size in spec.shape[1:]))


def tiny_bridge(source: LatentSpec, target: LatentSpec, conditions: Mapping[str, LatentSpec] | None = None) -> Bridge:
    """A bridge with one block a part, for latents of these shapes; always the same weights. The source encoder is
    learned, so that gradients meet the latents of both sides."""
    patch = patch_of(target)
    encoder = DeterministicSourceSettings(width=WIDTH, depth=1, heads=HEADS, patch=patch_of(source), target_patch=patch)
    network = DiTSettings(width=WIDTH, depth=1, heads=HEADS, patch=patch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with calling("latent", "the shape of a tiny bridge"):
            return Bridge(BridgeSettings(source_encoder=encoder), network, source, target, conditions)


def training_step(bridge: Bridge, source: Latent, target: Latent, seed: int) -> float:
    """The loss of a step without an optimiser, with gradients left in the bridge.

    Raises Fault where the loss is not finite or no gradient arrives.
    """
    bridge.zero_grad(set_to_none=True)
    with torch.enable_grad():
        try:
            loss = bridge(source, target, torch.Generator().manual_seed(seed)).total
            loss.backward()
        except RuntimeError as error:
            raise Fault(
                f"a training step on its latents fails ({' '.join(str(error).split())[:200]}): let `encode` give "
                "plain float32 tensors, made under torch.no_grad and not under torch.inference_mode."
            ) from error
    if not loss.isfinite():
        raise Fault("the loss of a training step is not finite: let `encode` give finite latents of about unit size.")
    gradients = [parameter.grad for parameter in bridge.parameters() if parameter.grad is not None]
    if not any(bool(gradient.any()) for gradient in gradients):
        raise Fault("no gradient arrives in the bridge: let latents vary from item to item.")
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise Fault("the gradient of a training step is not finite: let latents be of about unit variance.")
    return float(loss.detach())
