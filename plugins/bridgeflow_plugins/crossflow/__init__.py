"""The importer of published CrossFlow checkpoints."""

from bridgeflow_plugins.crossflow.importer import CrossFlowImporter

__all__ = ["CrossFlowImporter"]
