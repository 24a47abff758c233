"""What a training looks at in its two modalities before it moves a weight: whether they are frozen, and the latents of
the first batch."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bridgeflow.assembly import Assembly
from bridgeflow.data.encoding import blamed
from bridgeflow.data.pairs import Batch
from bridgeflow.data.scale import EXPECTED, FIX, all_alike, items_differ, scale_of
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent


def freeze(assembly: Assembly) -> str | None:
    """Freezes what of the modalities' weights asks for gradients, and says so; None where all are frozen already."""
    asking = {
        place: [name for name, weight in modality.named_parameters() if weight.requires_grad]
        for place, modality in assembly.parts.items()
    }
    if not any(asking.values()):
        return None
    for modality in assembly.parts.values():
        modality.requires_grad_(False)
    told = [f"{names[0]!r} of the {place} {_named(assembly, place)}" for place, names in asking.items() if names]
    count = sum(map(len, asking.values()))
    return (
        f"{count} weight{'s' if count > 1 else ''} of the modalities ask for gradients, such as {' and '.join(told)}; "
        "they are frozen, since training changes the bridge alone."
    )


class FirstBatch:
    """The latents that a training begins with."""

    def __init__(self, assembly: Assembly, batch: Batch, source: Latent, target: Latent) -> None:
        self.assembly = assembly
        self.given = {"source": batch.source, "target": batch.target}
        self.latents = {**source.parts("source"), **target.parts("target")}
        self.scales = {side: scale_of(latent) for side, latent in self.latents.items()}

    @property
    def figures(self) -> dict[str, float]:
        """Mean and standard deviation of each side, by name."""
        return {
            f"{side}/{name}": value
            for side, scale in self.scales.items()
            for name, value in (("mean", scale.mean), ("std", scale.std))
        }

    def warnings(self) -> Iterator[str]:
        """A sentence for whatever no flow is made for. Raises BridgeflowError for a spread below zero."""
        for side, latent in self.latents.items():
            if latent.std is not None and bool((latent.std < 0).any()):
                modality = self.assembly.parts[side]
                raise BridgeflowError(blamed(modality, "a `std` below zero: give standard deviations, or None."))
            given = self.given.get(side)
            if isinstance(given, dict) and all_alike(latent) and items_differ(given):
                yield (
                    f"the {side} {_named(self.assembly, side)} gives the same latent for all {len(latent)} items of "
                    "the first batch, though the items differ: nothing of them can be learned, so look at its `encode`."
                )
            elif not self.scales[side].suits and math.isfinite(self.scales[side].std):
                yield self._out_of_scale(side)

    def _out_of_scale(self, side: str) -> str:
        other = "source" if side == "target" else "target"
        beside = f"those of the {other} have {self.scales[other]}"
        return (
            f"the latents of the {side} {_named(self.assembly, side)} have {self.scales[side]} in the first batch "
            f"({beside}), where {EXPECTED} are expected, and the loss follows their scale: {FIX}."
        )


def _named(assembly: Assembly, place: str) -> str:
    return repr(assembly.recipe.uses[place].name)
