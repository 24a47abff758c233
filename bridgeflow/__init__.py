"""One flow-matching engine that maps any source modality to any target modality.

    import bridgeflow

    bridgeflow.train("depth")
    depth = bridgeflow.load("depth")("image.jpg")
    bridgeflow.modalities["text"]

Importing this imports nothing heavy: each name is loaded when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridgeflow.api import Run, load, train
    from bridgeflow.errors import BridgeflowError, UsageError
    from bridgeflow.inference.pipeline import Pipeline
    from bridgeflow.offered import datasets, modalities, networks, recipes, tasks, trackers

__version__ = "0.1.0"

_HOMES = {
    "Run": "api",
    "datasets": "offered",
    "load": "api",
    "modalities": "offered",
    "networks": "offered",
    "recipes": "offered",
    "tasks": "offered",
    "trackers": "offered",
    "train": "api",
    "BridgeflowError": "errors",
    "UsageError": "errors",
    "Pipeline": "inference.pipeline",
}

__all__ = [
    "BridgeflowError",
    "Pipeline",
    "Run",
    "UsageError",
    "__version__",
    "datasets",
    "load",
    "modalities",
    "networks",
    "recipes",
    "tasks",
    "trackers",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bridgeflow' has no attribute {name!r}")
    import importlib

    found = getattr(importlib.import_module(f"bridgeflow.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
