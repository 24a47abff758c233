"""A modality under examination, and what the checks share: built once, fitted once, encoded once."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from bridgeflow.config.validation import validated
from bridgeflow.data.encoding import fault_of_mask, fault_of_values
from bridgeflow.errors import UsageError
from bridgeflow.modality import Item, Latent, LatentSpec, Modality
from bridgeflow.settings import Settings
from bridgeflow.testing.comparing import spread, worst_difference
from bridgeflow.testing.fresh import Elsewhere, importable, restored_elsewhere
from bridgeflow.testing.outcome import Fault, calling, described, remembered
from bridgeflow.testing.subject import ROWS, PluginSubject, copied, default_settings

FITTED = 128
"""Made-up items that a codec is fitted to."""


NEEDED_EDGES = ("minimum", "maximum", "constant")


RESTORED_TOLERANCE = 1e-5
"""Difference between a modality and its restored copy, in units of the latent's spread."""


ELSEWHERE_TOLERANCE = 1e-3
"""The same for a copy in another process, where kernels may add in another order."""


def check_latent(latent: Latent, spec: LatentSpec, of: str = "", rows: int | None = None) -> None:
    """Raises Fault where a latent is not what was declared, or holds numbers that are not finite or no spread."""
    place = f" on {of}" if of else ""
    fault = fault_of_values(latent, spec, rows=rows)
    if fault is not None:
        raise Fault(f"`encode`{place} gave {fault}")
    for part, tensor in (("", latent.mean), (" as `std`", latent.std)):
        if tensor is not None and not tensor.isfinite().all():
            raise Fault(f"`encode`{place} gave infinite or undefined numbers{part}: fix `encode`.")
    if latent.std is not None and not (latent.std >= 0).all():
        raise Fault(f"`encode`{place} gave a `std` below zero: give standard deviations, or None.")


class ModalitySubject(PluginSubject[Modality]):
    """A modality with options, and what comes of its methods on made-up items."""

    contract = Modality
    word = "modality"

    def __init__(self, modality: str | type[Modality], options: Mapping[str, Any] | None = None) -> None:
        super().__init__(modality)
        self.given_options = dict(options or {})
        if self.given_options:
            # Whose mistake a wrong option is differs from whose a wrong default is, so it is reported at once.
            with suppress(Fault):
                _ = self.settings

    @remembered
    def settings(self) -> Settings:
        """The options. Raises UsageError where those that were given do not suit."""
        model = self.kind.Options
        if not self.given_options:
            return default_settings(model)
        mistakes: list[str] = []
        settings = validated(model, self.given_options, "", mistakes)
        if mistakes:
            raise UsageError(f"the options to check with have a mistake: {' '.join(mistakes)}")
        assert isinstance(settings, Settings)
        return settings

    def build(self, settings: Settings | None = None) -> Modality:
        """A fresh modality, not fitted."""
        with calling("__init__", "its options alone"):
            return self.kind(settings or self.settings)

    @remembered
    def built(self) -> Modality:
        """A modality with the abstract methods written."""
        missing = sorted(getattr(self.kind, "__abstractmethods__", ()))
        if missing:
            raise Fault(
                f"{self.kind.__name__} lacks the method `{missing[0]}`: write it, as the contract describes it."
            )
        modality = self.build()
        if not isinstance(getattr(modality, "options", None), Settings):
            raise Fault("`__init__` keeps no options: call super().__init__(options) in it.")
        return modality

    @remembered
    def items(self) -> list[Item]:
        """Made-up items, each from a seed of its own."""
        return [self.example(seed) for seed in range(ROWS)]

    def example(self, seed: int) -> Item:
        """The made-up item of a seed."""
        with calling("example"):
            return self.built.example(np.random.default_rng(seed))

    @remembered
    def extremes(self) -> dict[str, Item]:
        """Items at the edges, by name."""
        with calling("extremes"):
            edges = self.built.extremes()
        if not isinstance(edges, Mapping):
            raise Fault(f"`extremes` gave a {type(edges).__name__}: let it give a mapping from names to items.")
        return dict(edges)

    @property
    def ready(self) -> Modality:
        """The modality, fitted to made-up items where it needs fitting."""
        return self.fitted[0]

    @remembered
    def fitted(self) -> tuple[Modality, dict[str, float] | None]:
        """The modality, and the figures of its fitting; None where there was nothing to fit."""
        modality = self.built
        if not modality.needs_fit:
            return modality, None
        items = [*self.items, *(self.example(seed) for seed in range(ROWS, FITTED))]
        # They come one by one, as they do in training.
        with calling("fit", f"{FITTED} made-up items"), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            figures: dict[str, float] = modality.fit(iter(items))
        if modality.needs_fit:
            raise Fault("`needs_fit` is still True after `fit`: let it be False once the codec is fitted.")
        return modality, figures

    @remembered
    def spec(self) -> LatentSpec:
        """What `latent` declares."""
        with calling("latent"):
            spec = self.ready.latent
        if not isinstance(spec, LatentSpec):
            raise Fault(f"`latent` gave a {type(spec).__name__}: let it give a LatentSpec.")
        return spec

    @remembered
    def batch(self) -> dict[str, Tensor]:
        """The made-up items, collated."""
        return self.collate(self.items)

    @remembered
    def latent(self) -> Latent:
        """The made-up items, encoded, and as declared."""
        latent = self.encode_batch(self.batch)
        check_latent(latent, self.spec, rows=ROWS)
        return latent

    @remembered
    def masked(self) -> Latent:
        """The same latent, with a mask as agreed where it has one."""
        self.check_mask(self.latent)
        if self.latent.mask is not None and not self.latent.mask.flatten(1).any(1).all():
            raise Fault("the mask of a made-up item is False everywhere: let it be True where the latent is real.")
        return self.latent

    def check_mask(self, latent: Latent) -> None:
        """Raises Fault where a latent's mask is not of the agreed type and shape."""
        fault = fault_of_mask(latent, self.spec)
        if fault is not None:
            raise Fault(f"`encode` gave {fault}")

    @remembered
    def decoded(self) -> list[Item]:
        """The latent of the made-up items, decoded."""
        return self.decode(self.latent.mean)

    # -- copies made from what fitting left ------------------------------------------------------------------

    @remembered
    def stored(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Fitted state and facts, as they come out of files."""
        with calling("fitted_state"):
            state = self.ready.fitted_state()
        with calling("fitted_facts"):
            facts = self.ready.fitted_facts()
        if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise Fault("`fitted_state` gave something else than tensors by name: let it give a dict[str, Tensor].")
        with calling("fitted_state", "the way into a safetensors file"):
            stored = load(save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}))
        try:
            return stored, json.loads(json.dumps(facts, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise Fault(
                f"`fitted_facts` is not JSON ({described(error)}): give numbers, strings, lists and dicts."
            ) from error

    @remembered
    def restored(self) -> Modality:
        """A fresh copy that took state and facts, and gives the same latents."""
        fresh = self.build()
        state, facts = self.stored
        if state or facts:
            with calling("restore", "its own state and facts"):
                fresh.restore(copied(state), copied(facts))
        if fresh.needs_fit:
            raise Fault(
                "a fresh copy still needs fitting after `restore`: let `fitted_state` and `restore` hold it all."
            )
        difference = worst_difference(self.encode(self.items, "a restored copy", fresh), self.latent)
        if difference > RESTORED_TOLERANCE * spread(self.latent):
            raise Fault(
                f"a fresh copy gives other latents (they differ by {difference:.2g}): keep whatever fitting or chance "
                "made in `fitted_state` and `fitted_facts`, or make it from a fixed seed."
            )
        return fresh

    @remembered
    def elsewhere(self) -> Elsewhere | None:
        """Such a copy in a fresh process, which gives the same latents; None for a class or items that cannot be
        brought there."""
        _ = self.restored
        try:
            items = pickle.dumps(self.items)
        except Exception:
            # The check of pickling says what is wrong with them.
            return None
        if not importable(self.kind):
            return None
        found = restored_elsewhere(self.kind, self.settings, *self.stored, items)
        if found.failed == "import" and self.loaded[1] is None:
            return None
        kept = "keep nothing on the class or in the module, and keep it in `fitted_state` and `fitted_facts`"
        if found.failed == "needs_fit":
            raise Fault(f"restored in a fresh process, it still needs fitting: {kept}.")
        if found.failed:
            raise Fault(f"restored in a fresh process, it fails in `{found.failed}` ({found.error}): {kept}.")
        difference = float("inf") if found.latent is None else worst_difference(found.latent, self.latent)
        if difference > ELSEWHERE_TOLERANCE * spread(self.latent):
            raise Fault(f"restored in a fresh process, it gives other latents (by {difference:.2g}): {kept}.")
        return found

    @property
    def only_source(self) -> str:
        """Why the checks of decoding do not apply; empty where they do."""
        return "only ever a source, since `round_trip` is None" if self.ready.round_trip is None else ""

    # -- the methods, with a fault in place of whatever they raise ------------------------------------------

    def collate(self, items: Sequence[Item], of: str = "", modality: Modality | None = None) -> dict[str, Tensor]:
        """A batch of items; `of` says what they are."""
        modality = modality or self.ready
        with calling("collate", of):
            batch = modality.collate(copied(list(items)))
        if not isinstance(batch, Mapping) or not all(isinstance(value, Tensor) for value in batch.values()):
            raise Fault("`collate` gave something else than tensors by name: let it give a dict[str, Tensor].")
        return dict(batch)

    def encode_batch(self, batch: dict[str, Tensor], of: str = "", modality: Modality | None = None) -> Latent:
        """The latent of a batch."""
        with calling("encode", of), torch.no_grad():
            latent = (modality or self.ready).encode({name: tensor.clone() for name, tensor in batch.items()})
        if not isinstance(latent, Latent) or not isinstance(latent.mean, Tensor):
            raise Fault(f"`encode` gave {fault_of_values(latent)}")
        return latent

    def encode(self, items: Sequence[Item], of: str = "", modality: Modality | None = None) -> Latent:
        """The latent of items."""
        return self.encode_batch(self.collate(items, of, modality), of, modality)

    def decode(self, latent: Tensor, of: str = "latents that `encode` made") -> list[Item]:
        """The items of a latent."""
        with calling("decode", of), torch.no_grad():
            items = self.ready.decode(latent.clone())
        if not isinstance(items, list) or len(items) != len(latent):
            count = len(items) if isinstance(items, Sequence) else "no"
            raise Fault(f"`decode` gave {count} items for {len(latent)} latents: let it give a list with one for each.")
        return items

    def overrides(self, method: str) -> bool:
        """Whether the class has a method of its own where the contract has a default."""
        return inspect.getattr_static(self.kind, method) is not inspect.getattr_static(Modality, method)
