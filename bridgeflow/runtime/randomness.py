"""Draws that depend on a seed and a place, never on what was drawn before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Randomness = torch.Generator | Sequence[torch.Generator] | None
"""One generator for a batch, or one for each of its rows, so that a row does not depend on its neighbours."""


def seed_of(*parts: int | str) -> int:
    """A seed of 63 bits from numbers and words, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `seed_of(*parts)`."""
    return torch.Generator().manual_seed(seed_of(*parts))


def _drawn(draw: Callable[..., Tensor], shape: Sequence[int], randomness: Randomness) -> Tensor:
    if randomness is None or isinstance(randomness, torch.Generator):
        return draw(tuple(shape), generator=randomness)
    if len(randomness) != shape[0]:
        raise ValueError(f"{shape[0]} rows need as many generators, not {len(randomness)}")
    return torch.stack([draw(tuple(shape[1:]), generator=row) for row in randomness])


def normal(shape: Sequence[int], randomness: Randomness, like: Tensor | None = None) -> Tensor:
    """Standard normal numbers of a shape (B, ...), with the dtype and device of `like`, else float32 on the CPU.

    They are drawn on the CPU, so that a seed means the same on every device. Raises ValueError where there are
    generators of rows, but not one for each.
    """
    drawn = _drawn(torch.randn, shape, randomness)
    return drawn if like is None else drawn.to(device=like.device, dtype=like.dtype)


def uniform(shape: Sequence[int], randomness: Randomness) -> Tensor:
    """Numbers of a shape (B, ...), uniform in [0, 1), float32 on the CPU. Raises as `normal`."""
    return _drawn(torch.rand, shape, randomness)
