"""Figures of a source encoder that say whether it has collapsed."""

from __future__ import annotations

from torch import Tensor

from bridgeflow.nn.encoded import Encoded


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
            "set encoding.name=cross, or lower kl.weight, or set source_encoder.mean_norm=batch."
        )
    return None
