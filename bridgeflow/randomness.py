"""Draws that depend on a seed and a place, never on what was drawn before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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


def normal(shape: Sequence[int], randomness: Randomness, like: Tensor) -> Tensor:
    """Standard normal numbers of a shape (B, ...), with the dtype and device of `like`.

    They are drawn on the CPU, so that a seed means the same on every device. Raises ValueError where there are
    generators of rows, but not one for each.
    """
    if randomness is None or isinstance(randomness, torch.Generator):
        drawn = torch.randn(tuple(shape), generator=randomness)
    else:
        if len(randomness) != shape[0]:
            raise ValueError(f"{shape[0]} rows need as many generators, not {len(randomness)}")
        drawn = torch.stack([torch.randn(tuple(shape[1:]), generator=row) for row in randomness])
    return drawn.to(device=like.device, dtype=like.dtype)
