"""A bridge spread over processes: copies of it (DDP), or a shard of every weight in each of them (FSDP2).

Which of the two is accelerate's to say: `accelerate launch` with a configuration that names FSDP shards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from bridgeflow.bridge import Bridge
from bridgeflow.errors import UsageError


def _asked(name: str, usual: str = "false") -> str:
    return os.environ.get(name, usual).lower()


def check_configuration() -> None:
    """Raises UsageError where accelerate was configured for what cannot be done."""
    if _asked("ACCELERATE_USE_DEEPSPEED") == "true":
        raise UsageError(
            "this accelerate configuration asks for DeepSpeed, which bridgeflow does not train with: FSDP 2 shards "
            "weights, gradients and optimiser as ZeRO does, so set distributed_type: FSDP and fsdp_version: 2 in it."
        )
    for variable, what in (
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "tensor, context or sequence parallelism"),
    ):
        if _asked(variable) == "true":
            raise UsageError(
                f"this accelerate configuration asks for {what}, which bridgeflow does not train with: unset "
                f"{variable}, or take it out of the configuration. FSDP 2 shards a model that one device cannot hold."
            )
    if _asked("ACCELERATE_USE_FSDP") == "true":
        if _asked("FSDP_VERSION", "1") != "2":
            raise UsageError("this accelerate configuration asks for FSDP 1: set fsdp_version: 2 in it.")
        if _asked("FSDP_OFFLOAD_PARAMS") == "true":
            raise UsageError(
                "this accelerate configuration asks FSDP to keep weights in main memory: set fsdp_offload_params: "
                "false in it."
            )


def wanted(accelerator: Accelerator) -> bool:
    """Whether the weights are to be sharded."""
    return _asked("ACCELERATE_USE_FSDP") == "true" and accelerator.num_processes > 1


def blocks_of(bridge: nn.Module) -> Iterator[nn.Module]:
    """The modules that are gathered one at a time: repeated ones with layers of their own, inner ones first."""
    repeated = [part for module in bridge.modules() if isinstance(module, nn.ModuleList) for part in module]
    for module in reversed(repeated):
        if any(True for _ in module.children()) and type(module).forward is not nn.Module.forward:
            yield module


def shard(bridge: Bridge, accelerator: Accelerator) -> None:
    """Shards a bridge in place over all processes. Weights travel in float32, and autocast rounds them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    reshard = _asked("FSDP_RESHARD_AFTER_FORWARD", "true") in ("true", "full_shard")
    for block in blocks_of(bridge):
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(bridge, mesh=mesh)


def prepare(
    bridge: Bridge, optimizer_of: Callable[[Bridge], torch.optim.Optimizer], accelerator: Accelerator
) -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]:
    """(what is called in training, the optimiser, the optimiser as accelerate steps it); `optimizer_of(bridge)` builds
    one."""
    if wanted(accelerator):
        shard(bridge, accelerator)
        optimizer = optimizer_of(bridge)
        return bridge, optimizer, accelerator.prepare_optimizer(optimizer)
    optimizer = optimizer_of(bridge)
    model, stepped = accelerator.prepare(bridge, optimizer)
    return model, optimizer, stepped


def synchronise(model: Any, last: bool) -> None:
    """Tells a sharded model whether the next backward pass ends a step."""
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(last)


def local(tensor: Tensor) -> Tensor:
    """This process's shard, which shares its memory; the tensor itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all processes, which all have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, known to every process, on the device of another one and sharded as that is."""
    if not isinstance(other, DTensor):
        return tensor.to(other.device)
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)


def whole_state(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The whole tensors by name, on the CPU; gathered by all processes, kept by those with `keep`."""
    gathered = {}
    for name, tensor in tensors.items():
        complete = whole(tensor)
        if keep:
            gathered[name] = complete.detach().cpu()
    return gathered


def is_sharded(module: nn.Module) -> bool:
    """Whether a module's weights are spread over processes."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def shard_alike(module: nn.Module, sharded: nn.Module) -> None:
    """Shards the parameters of a module as those of another with the same names are, without gathering on use."""
    others = dict(sharded.named_parameters())
    for path, owner in list(module.named_modules()):
        for name, parameter in list(owner.named_parameters(recurse=False)):
            other = others[f"{path}.{name}" if path else name]
            replaced = nn.Parameter(like(parameter.detach(), other), requires_grad=False)
            owner.register_parameter(name, replaced)
