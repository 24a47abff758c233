"""Low-resolution pictures, the source of super-resolution."""

from bridgeflow_plugins.lowres.modality import LowRes

__all__ = ["LowRes"]
