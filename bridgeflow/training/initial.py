"""The weights that a training begins with: those of another checkpoint, or of its own where it goes on."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bridgeflow.bridge import Bridge
from bridgeflow.checkpoints.checkpoint import Checkpoint
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.runtime.console import Progress
from bridgeflow.training.average import WeightAverage

OPTIONAL = ("encoding_loss.", "alignment.")
"""Beginnings of names of weights that training alone needs, and that a checkpoint to start from need not have."""

SECOND_TIME = ".second_time."
"""In the names of weights that begin by adding nothing: a flow that was trained without them is gone on with."""


def _same_parts(given: Mapping[str, Tensor], own: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether both have the same weights under a prefix, to the last shape."""
    shapes = [{k: t.shape or (1,) for k, t in state.items() if k.startswith(prefix)} for state in (given, own)]
    return shapes[0] == shapes[1]


def _may_be_missing(key: str) -> bool:
    return key.startswith(OPTIONAL) or SECOND_TIME in key


def check_weights(checkpoint: Checkpoint, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises UsageError where the weights of a checkpoint cannot be the start of a bridge with the state `own`."""
    faults = [
        *(f"{key!r} is missing" for key in sorted(own) if key not in given and not _may_be_missing(key)),
        *(f"{key!r} has no place" for key in sorted(given) if key not in own and not key.startswith(OPTIONAL)),
        *(
            f"{key!r} has shape {tuple(given[key].shape)}, not {tuple(own[key].shape)}"
            for key in own
            if key in given and given[key].shape != own[key].shape and not key.startswith(OPTIONAL)
        ),
    ]
    if faults:
        raise UsageError(
            f"the weights of {str(checkpoint.folder)!r} do not fit this recipe ({', '.join(faults[:3])}; {len(faults)} "
            "in all): start with the network and sizes of its recipe.yaml."
        )


def start_from(bridge: Bridge, checkpoint: Checkpoint, recipe: Recipe, console: Progress) -> None:
    """Takes another checkpoint's weights; what only a loss beside the flow's needs may be missing on either side."""
    for sentence in checkpoint.passed_over:
        console.warn(sentence)
    own = bridge.state_dict()
    given = checkpoint.weights()
    check_weights(checkpoint, given, own)
    encodings = checkpoint.recipe().keys.encoding, recipe.keys.encoding
    others = [prefix for prefix in OPTIONAL if not _same_parts(given, own, prefix)]
    if len({getattr(each, "logit_scale", None) for each in encodings}) > 1:
        others.append(OPTIONAL[0])
    given = {key: tensor for key, tensor in given.items() if not key.startswith(tuple(others))}
    bridge.load_state_dict({key: tensor for key, tensor in given.items() if key in own}, strict=False)
    missing = {key for key in own if key not in given}
    parts = sorted({"network.second_time" if SECOND_TIME in key else key.partition(".")[0] for key in missing})
    told = f"; {' and '.join(parts)} start fresh" if parts else ""
    console.say(f"starting from the weights of {checkpoint.folder}{told}")


def restore(bridge: Bridge, average: WeightAverage | None, checkpoint: Checkpoint) -> None:
    """Puts back the weights of a run's own checkpoint, and their average. Raises BridgeflowError where they do not
    fit."""
    try:
        bridge.load_state_dict(checkpoint.weights(averaged=False))
        if average is not None:
            average.module.load_state_dict(checkpoint.weights())
            average.updates = int(checkpoint.meta["average_updates"])
    except RuntimeError as error:
        raise BridgeflowError(
            f"the checkpoint {str(checkpoint.folder)!r} does not fit this recipe: go on without changing "
            "the network, or start a new run."
        ) from error
