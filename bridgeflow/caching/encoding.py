"""The tensors of a shard from its chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from bridgeflow.assembly import SIDES, Assembly
from bridgeflow.caching.reading import Chunk
from bridgeflow.data.encoding import encode
from bridgeflow.modality import Latent

Flow = Callable[[Latent, Sequence[int], int], Latent]
"""Target latents of source latents, from the rows' numbers and the variant."""
PARTS = ("mean", "std", "mask", "observed", "start")
"""What a latent may hold beside its conditions, each a tensor of its own in a shard."""


@dataclass
class Encoded:
    """tensors: `SIDE.PART` (variants, rows, ...). kept: the rows' numbers. failures: a sentence for each other row, by
    its number."""

    tensors: dict[str, Tensor]
    kept: list[int] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)


def encode_shard(
    chunks: Sequence[Chunk],
    assembly: Assembly,
    device: torch.device,
    dtype: torch.dtype,
    observed: bool,
    flow: Flow | None = None,
) -> Encoded:
    """Encodes the chunks of a shard one after the other; a row whose latent is not finite is left out. flow: what makes
    the targets of the sources, instead of those of the data."""
    encoded = Encoded({})
    parts: list[dict[str, Tensor]] = []
    for chunk in chunks:
        encoded.failures |= chunk.failures
        if not chunk.kept:
            continue
        tensors = _encode_chunk(chunk, assembly, device, dtype, observed, flow)
        sound = torch.ones(len(chunk.kept), dtype=torch.bool)
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                finite = tensor.isfinite().transpose(0, 1).flatten(1).all(1)
                for row in (sound & ~finite).nonzero()[:, 0].tolist():
                    index, called = list(chunk.kept.items())[row]
                    encoded.failures[index] = (
                        f"{called}: its {name.partition('.')[0]} latent holds numbers that are not finite in "
                        f"{str(dtype).removeprefix('torch.')}: fix the row, or cache in --dtype float32."
                    )
                sound &= finite
        if sound.any():
            parts.append({name: tensor[:, sound] for name, tensor in tensors.items()})
            encoded.kept += [index for index, good in zip(chunk.kept, sound.tolist(), strict=True) if good]
    if parts:
        encoded.tensors = {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}
    return encoded


def _encode_chunk(
    chunk: Chunk,
    assembly: Assembly,
    device: torch.device,
    dtype: torch.dtype,
    observed: bool,
    flow: Flow | None,
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    sources = [encode(assembly.source, batch, device) for batch in chunk.source]
    if flow is None:
        targets = [encode(assembly.target, batch, device, observed) for batch in chunk.target]
    else:
        targets = [flow(own, list(chunk.kept), variant) for variant, own in enumerate(sources)]
    for side, latents in zip(SIDES, (sources, targets), strict=True):
        drawn = [tensors_of(latent, side) for latent in latents]
        for name in dict.fromkeys(chain.from_iterable(drawn)):
            whole = [own[name].cpu() for own in drawn if name in own]
            tensors[name] = torch.stack(whole if whole[0].dtype == torch.bool else [own.to(dtype) for own in whole])
    return tensors


def tensors_of(latent: Latent, place: str) -> dict[str, Tensor]:
    """What a latent holds, as `PLACE.PART`, and `PLACE.NAME.PART` of its conditions."""
    held = {f"{place}.{part}": getattr(latent, part) for part in PARTS}
    own = {name: tensor for name, tensor in held.items() if tensor is not None}
    for name, condition in latent.conditions.items():
        own |= tensors_of(condition, f"{place}.{name}")
    return own


def latent_of(tensors: Mapping[str, Tensor], place: str) -> Latent:
    """The latent whose tensors `tensors_of` named."""
    inside = [name.removeprefix(f"{place}.").split(".") for name in tensors if name.startswith(f"{place}.")]
    conditions = {own[0]: latent_of(tensors, f"{place}.{own[0]}") for own in inside if len(own) > 1}
    std, mask, observed, start = (tensors.get(f"{place}.{part}") for part in PARTS[1:])
    return Latent(tensors[f"{place}.mean"], std, mask, observed, conditions, start)
