"""The bridge of a checkpoint, ready for inference: read without a second copy, in the precision it runs in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from bridgeflow.assembly import Assembly
from bridgeflow.bridge import Bridge
from bridgeflow.checkpoints.checkpoint import Checkpoint
from bridgeflow.checkpoints.tensor_file import is_finite
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Progress

PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights half precision serves well."""

_FILLING = frozenset({"normal_", "uniform_", "zero_", "fill_", "trunc_normal_", "erfinv_", "mul_", "add_", "clamp_"})
"""What initialisation does to a weight in place."""


class _Unfilled(TorchFunctionMode):
    """Leaves weights without memory as they are: drawing nothing would still import torch's compiler, which takes
    longer to import than torch itself."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _FILLING:
            filled = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(filled, Tensor) and filled.is_meta:
                return filled
        return func(*args, **(kwargs or {}))


@contextmanager
def weights_without_memory() -> Iterator[None]:
    """Parameters of the modules built in here are on the meta device, uninitialised; buffers are real."""

    def moved(_: nn.Module, __: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None or parameter.is_meta:
            return None
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    hook = register_module_parameter_registration_hook(moved)
    try:
        with _Unfilled():
            yield
    finally:
        hook.remove()


def load_bridge(
    assembly: Assembly, checkpoint: Checkpoint, precision: str = "fp32", watch: Progress | None = None
) -> Bridge:
    """The bridge with the checkpoint's weights, without what only training needs (encoding loss, alignment).

    The weights stay in the memory-mapped file until they are used, but for those whose dtype changes.
    precision: 'fp32' or 'bf16', see `set_precision`. Raises BridgeflowError where the weights do not fit or are not
    finite.
    """
    # Most buffers are computed when the bridge is built and are no part of a checkpoint, so they must be real.
    with weights_without_memory():
        bridge = assembly.build_bridge(trained=True)
    weights = {name: own for name, own in checkpoint.weights().items() if not name.startswith("alignment.")}
    if watch is not None:
        watch(0, 0, f"loading the network ({_size(sum(tensor.nbytes for tensor in weights.values()))})")
    # Checkpoints were once written with such numbers, and their results look like those of any bad model. It takes a
    # quarter of the time that the checksum does.
    spoilt = next((name for name, tensor in weights.items() if not is_finite(tensor)), None)
    if spoilt is not None:
        raise BridgeflowError(
            f"checkpoint {str(checkpoint.folder)!r} is damaged (its tensor {spoilt!r} holds numbers that are not "
            "finite): use another one."
        )
    try:
        bridge.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise BridgeflowError(
            f"the weights in {str(checkpoint.folder)!r} do not fit the recipe beside them ({first}): "
            "use another checkpoint."
        ) from error
    del weights
    bridge.encoding_loss = None
    set_precision(bridge, precision)
    return bridge.eval()


def set_precision(module: nn.Module, precision: str) -> None:
    """Sets the dtypes of a module's weights and buffers, one after the other.

    'fp32': all are float32. 'bf16': the weights of linear layers and convolutions are bfloat16. Whatever is added to or
    scales the stream between them (biases, norms, positions, embeddings) costs nothing and stays float32, and so do
    buffers. Integers stay as they are.
    """
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.is_floating_point():
                low = precision == "bf16" and name == "weight" and isinstance(owner, PRODUCTS)
                parameter.data = parameter.data.to(torch.bfloat16 if low else torch.float32)
        for name, buffer in list(owner.named_buffers(recurse=False)):
            # A new tensor in its place: one that came out of a file is a view, and would keep the whole file.
            setattr(owner, name, buffer.float() if buffer.is_floating_point() else buffer.clone())


def _size(count: int) -> str:
    """'4.2 GB', '310 MB', '0.4 MB'."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.{0 if count >= 1e7 else 1}f} MB"
