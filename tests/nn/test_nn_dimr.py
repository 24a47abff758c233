from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from bridgeflow.errors import UsageError
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.dimr import DiMR, DiMRSettings
from bridgeflow.nn.dimr_blocks import TimeVector

SMALL = {
    "stages": [
        {"kind": "transformer", "width": 16, "hidden": 32, "heads": 2, "blocks": 3, "patch": 2},
        {"kind": "convnext", "width": 8, "hidden": 16, "blocks": 3, "patch": 1},
    ]
}
LATENT = LatentSpec((4, 8, 12), "grid")


def small(latent: LatentSpec = LATENT, **changes: object) -> DiMR:
    torch.manual_seed(0)
    network = DiMRSettings.model_validate({**SMALL, **changes}).build(latent)
    assert isinstance(network, DiMR)
    for stage in network.stages:
        torch.nn.init.normal_(stage.head.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    return network


def states(batch: int = 3, latent: LatentSpec = LATENT) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(batch, *latent.shape, generator=generator)
    return z, torch.rand(batch, generator=generator), torch.tensor([False, True, False][:batch])


def test_each_stage_gives_a_velocity_on_its_own_grid_and_the_last_is_the_velocity() -> None:
    network = small().eval()
    coarse, fine = network.velocities(*states())
    assert coarse.shape == (3, 4, 4, 6)
    assert fine.shape == (3, 4, 8, 12)
    assert torch.equal(network(*states()), fine)


@pytest.mark.parametrize("patch", [1, 2])
def test_a_fold_of_cells_into_channels_keeps_the_shape(patch: int) -> None:
    latent = LatentSpec((3, 16, 16), "grid")
    network = small(latent, patch=patch)
    coarse, fine = network.velocities(*states(latent=latent))
    assert fine.shape == (3, 3, 16, 16)
    assert coarse.shape == (3, 3, 8, 8)
    assert network.stages[0].positions.shape[0] == (16 // (2 * patch)) ** 2


def test_forward_mode_is_what_small_differences_give() -> None:
    network = small().double()
    z, t, null = states()
    z, t = z.double(), 0.1 + 0.8 * t.double()
    along, step = torch.randn_like(z), 1e-6
    _, derivative = torch.func.jvp(lambda state, time: network(state, time, null), (z, t), (along, torch.ones_like(t)))
    with torch.no_grad():
        ahead, behind = (network(z + sign * step * along, t + sign * step, null) for sign in (1, -1))
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-4)


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    network = small().eval()
    z, t, null = states()
    with torch.no_grad():
        whole, alone = network(z, t, null), network(z[1:2], t[1:2], null[1:2])
    torch.testing.assert_close(whole[1:2], alone, atol=1e-6, rtol=1e-5)


def test_the_indicator_and_time_matter() -> None:
    network = small().eval()
    z, t, null = states()
    with torch.no_grad():
        as_is, flipped = network(z, t, null), network(z, t, ~null)
        for block in network.stages[0].blocks:
            block.norm_mlp.scale.late.fill_(2.0)
        later = network(z, t, null)
    assert (as_is - flipped).abs().amax((1, 2, 3)).min() > 1e-4
    assert (as_is - later).abs().amax((1, 2, 3)).min() > 1e-4


def test_training_and_inference_agree_and_every_parameter_learns() -> None:
    network = small()
    with torch.no_grad():
        # What moves with time has no gradient of its pace while its two ends are one.
        for name, parameter in network.named_parameters():
            if name.endswith(".late"):
                parameter += 0.1
    z, t, null = states()
    found = network.velocities(z, t, null)
    with torch.no_grad():
        for training, plain in zip(found, network.velocities(z, t, null), strict=True):
            torch.testing.assert_close(training.detach(), plain, atol=1e-5, rtol=1e-5)
    sum(velocity.square().sum() for velocity in found).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_a_time_vector_moves_from_early_to_late() -> None:
    vector = TimeVector(2, 0.0)
    with torch.no_grad():
        vector.early.copy_(torch.tensor([1.0, 2.0]))
        vector.late.copy_(torch.tensor([3.0, 6.0]))
        found = vector(torch.tensor([0.0, 0.5, 1.0]))[:, 0]
    share = torch.sigmoid(torch.tensor(1.0)).item()
    assert found[0].tolist() == pytest.approx([3 - 2 * share, 6 - 4 * share])
    assert found[1].tolist() == pytest.approx([2.0, 4.0])
    assert found[2].tolist() == pytest.approx([1 + 2 * share, 2 + 4 * share])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": [{"blocks": 4}]}, "blocks must be odd"),
        ({"stages": [{"width": 10, "heads": 4}], "stage_weights": [1.0]}, "heads must divide width"),
        ({"stages": [{"patch": 2}], "stage_weights": [1.0]}, "last stage has patch 1"),
        ({"stages": [{"patch": 3}, {"patch": 2}, {"patch": 1}], "stage_weights": [1, 1, 1]}, "multiple of the next"),
        ({"stage_weights": [1.0]}, "one weight a stage"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DiMRSettings.model_validate({**SMALL, **changes})


@pytest.mark.parametrize(
    ("latent", "context", "changes", "words"),
    [
        (LatentSpec((16, 8), "sequence"), None, {}, "takes a grid latent"),
        (LATENT, LatentSpec((4, 8), "sequence"), {}, "attends to no context"),
        (LATENT, None, {"second_time": True}, "has no second time"),
        (LatentSpec((4, 9, 8), "grid"), None, {}, "multiples of 2"),
    ],
)
def test_what_it_cannot_be_built_for_is_refused(
    latent: LatentSpec, context: LatentSpec | None, changes: dict, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        DiMRSettings.model_validate({**SMALL, **changes}).build(latent, context)
