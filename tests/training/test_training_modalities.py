"""What a training looks at in its modalities before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bridgeflow.assembly import Assembly
from bridgeflow.data.pairs import Batch
from bridgeflow.data.scale import Scale, all_alike, scale_of
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Latent
from bridgeflow.training.modalities import FirstBatch, freeze

DRAWN = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def assembly(**modalities: nn.Module) -> Assembly:
    places = ("source", "source.conditions.hint", "target")
    made: Any = SimpleNamespace(
        recipe=SimpleNamespace(uses={place: SimpleNamespace(name=f"my_{place.split('.')[-1]}") for place in places}),
        parts={place: modalities.get(place, nn.Identity()) for place in places},
    )
    return made  # type: ignore[no-any-return]


def told(source: Latent, given: Mapping[str, Tensor] | Latent | None = None) -> list[str]:
    """What is said of a source, beside a target without a fault."""
    batch = Batch({"x": DRAWN} if given is None else given, {"x": DRAWN})  # type: ignore[arg-type]
    return list(FirstBatch(assembly(), batch, source, Latent(DRAWN)).warnings())


def test_a_condition_is_looked_at_as_a_source_is() -> None:
    (sentence,) = told(Latent(DRAWN, conditions={"hint": Latent(DRAWN * 1000)}))
    assert sentence.startswith("the latents of the source.conditions.hint 'my_hint' have ")


@pytest.mark.parametrize(
    ("by", "shift", "suits"),
    [(1, 0, True), (0.2, -0.9, True), (3, 1, True), (1000, 0, False), (0.01, 0, False), (1, 128, False)],
)
def test_a_scale_far_from_unit_variance_is_told_with_both_figures(by: float, shift: float, suits: bool) -> None:
    sentences = told(Latent(DRAWN * by + shift))
    assert len(sentences) == (0 if suits else 1)
    if not suits:
        own = Scale(float((DRAWN * by + shift).mean()), float((DRAWN * by + shift).std(correction=0)))
        assert f"the latents of the source 'my_source' have {own} in the first batch" in sentences[0]
        assert f"(those of the target have {scale_of(Latent(DRAWN))})" in sentences[0]


def test_padding_does_not_count_and_the_spread_of_a_draw_does() -> None:
    mean = torch.tensor([[[1.0], [-1.0], [500.0]]])
    mask = torch.tensor([[True, True, False]])
    assert scale_of(Latent(mean, mask=mask)) == Scale(0.0, 1.0)
    assert scale_of(Latent(mean, torch.full_like(mean, 3.0), mask)).std == pytest.approx(10**0.5)


def test_one_latent_for_items_that_differ_is_told_and_one_for_equal_items_is_not() -> None:
    constant = Latent(DRAWN[:1].expand(16, -1, -1, -1))
    (sentence,) = told(constant)
    assert "the source 'my_source' gives the same latent for all 16 items" in sentence
    assert told(constant, {"x": DRAWN[:1].expand(16, -1, -1, -1)}) == []
    # What was encoded before says nothing of its items.
    assert told(constant, constant) == []


def test_latents_that_differ_in_one_row_its_spread_or_its_mask_are_not_alike() -> None:
    mean, other = torch.ones(3, 2, 2), torch.ones(3, 2, 2)
    other[2, 0, 0] = 2
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    assert all_alike(Latent(mean, mean))
    assert not all_alike(Latent(other))
    assert not all_alike(Latent(mean, other))
    assert not all_alike(Latent(mean, mask=mask))
    assert not all_alike(Latent(mean[:1]))


def test_a_spread_below_zero_is_refused_and_numbers_that_are_not_finite_are_left_to_the_loss() -> None:
    with pytest.raises(BridgeflowError, match="gave a `std` below zero"):
        told(Latent(DRAWN, -torch.ones_like(DRAWN)))
    assert told(Latent(DRAWN * torch.nan)) == []


def test_weights_that_ask_for_gradients_are_frozen_and_said_to_be() -> None:
    source, target = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    made = assembly(source=source, target=target)
    assert freeze(made) == (
        "2 weights of the modalities ask for gradients, such as 'weight' of the source 'my_source'; they are frozen, "
        "since training changes the bridge alone."
    )
    assert not any(weight.requires_grad for weight in source.parameters())
    assert freeze(made) is None
