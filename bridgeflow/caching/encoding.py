"""The tensors of a shard from its chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bridgeflow.assembly import SIDES, Assembly
from bridgeflow.caching.reading import Chunk
from bridgeflow.data.encoding import encode
from bridgeflow.modality import Latent

PARTS = ("mean", "std", "mask", "observed")
"""What a latent may hold, each a tensor of its own in a shard."""


@dataclass
class Encoded:
    """tensors: `SIDE.PART` (variants, rows, ...). kept: the rows' numbers. failures: a sentence for each other row, by
    its number."""

    tensors: dict[str, Tensor]
    kept: list[int] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)


def encode_shard(
    chunks: Sequence[Chunk], assembly: Assembly, device: torch.device, dtype: torch.dtype, observed: bool
) -> Encoded:
    """Encodes the chunks of a shard one after the other; a row whose latent is not finite is left out."""
    encoded = Encoded({})
    parts: list[dict[str, Tensor]] = []
    for chunk in chunks:
        encoded.failures |= chunk.failures
        if not chunk.kept:
            continue
        tensors = _encode_chunk(chunk, assembly, device, dtype, observed)
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
    chunk: Chunk, assembly: Assembly, device: torch.device, dtype: torch.dtype, observed: bool
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for side in SIDES:
        batches = chunk.source if side == "source" else chunk.target
        latents = [encode(assembly.modality(side), batch, device, observed and side == "target") for batch in batches]
        for part in PARTS:
            drawn = [_kept(latent, part, dtype) for latent in latents]
            whole = [tensor for tensor in drawn if tensor is not None]
            if whole:
                tensors[f"{side}.{part}"] = torch.stack(whole)
    return tensors


def _kept(latent: Latent, part: str, dtype: torch.dtype) -> Tensor | None:
    tensor: Tensor | None = getattr(latent, part)
    if tensor is None or part == "mask":
        return None if tensor is None else tensor.to("cpu", torch.bool)
    return tensor.to("cpu", dtype)
