"""Pictures, and the latents that image codecs make of them."""

from bridgeflow_plugins.image_latent.modality import ImageLatent

__all__ = ["ImageLatent"]
