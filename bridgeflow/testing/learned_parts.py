"""Checks of source encoders and optimisers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.encoded import Encoded, SourceEncoder
from bridgeflow.nn.encoding_loss import EncodingLoss
from bridgeflow.testing.outcome import Fault, calling, described

if TYPE_CHECKING:
    from bridgeflow.testing.parts import PartSubject

GRID, WORDS = LatentSpec((4, 8, 8), "grid"), LatentSpec((6, 256), "sequence")


def _encoder(subject: PartSubject) -> tuple[SourceEncoder, LatentSpec]:
    """The encoder from a grid to a grid, or from words to one where it takes no grid."""
    settings = subject.settings
    refusal = ""
    for source in (GRID, WORDS):
        try:
            return settings.build(source, GRID), source  # type: ignore[attr-defined]
        except UsageError as error:
            refusal = str(error)
        except (Exception, SystemExit) as error:
            raise Fault(f"`build` failed ({described(error)}): fix `build`.") from error
    raise Fault(f"`build` takes neither a grid {GRID} nor a sequence {WORDS} to a grid ({refusal.rstrip('.')}).")


def _encoded(encoder: SourceEncoder, latent: Latent, seed: int = 0, sample: bool = True) -> Encoded:
    with calling("forward"):
        found = encoder(latent, torch.Generator().manual_seed(seed), sample)
    if not isinstance(found, Encoded):
        raise Fault(f"`forward` gives a {type(found).__name__}: let it return bridgeflow.nn.encoded.Encoded.")
    if tuple(found.z0.shape) != (len(latent), *GRID.shape):
        raise Fault(f"z0 has shape {tuple(found.z0.shape)}, not {(len(latent), *GRID.shape)}: fix `forward`.")
    if not bool(found.z0.isfinite().all()):
        raise Fault("z0 holds numbers that are not finite: fix `forward`.")
    return found


def check_shape(subject: PartSubject) -> str | None:
    """Batches of three rows and of two."""
    encoder, source = _encoder(subject)
    for batch in (3, 2):
        _encoded(encoder, Latent(torch.randn(batch, *source.shape)))
    return None


def check_draws(subject: PartSubject) -> str | None:
    """Twice with one generator, in evaluation."""
    encoder, source = _encoder(subject)
    encoder.eval()
    latent = Latent(torch.randn(3, *source.shape))
    if not torch.equal(_encoded(encoder, latent).z0, _encoded(encoder, latent).z0):
        raise Fault("one generator gives two z0: draw from the generator that `forward` is given.")
    rows = [torch.Generator().manual_seed(row) for row in range(3)]
    with calling("forward", "generators of rows"):
        encoder(latent, rows, True)
    if encoder.learned:
        means = [_encoded(encoder, latent, seed, sample=False).z0 for seed in (0, 1)]
        if not torch.equal(*means):
            raise Fault("with `sample=False` z0 still depends on the generator: give its mean.")
    return None


def check_encoder_gradients(subject: PartSubject) -> str | None:
    """Of every weight, where there are any."""
    encoder, source = _encoder(subject)
    weights = [(name, own) for name, own in encoder.named_parameters() if own.requires_grad]
    if bool(weights) != encoder.learned:
        raise Fault(f"`learned` is {encoder.learned}, and it has {len(weights)} weights to learn: set it accordingly.")
    for own in [own for _, own in weights if own.ndim > 1]:
        # Layers that begin at zero pass no gradient on.
        nn.init.normal_(own, std=0.1)
    found = _encoded(encoder, Latent(torch.randn(3, *source.shape)))
    if weights:
        (found.z0 * torch.randn_like(found.z0)).sum().backward()
        without = [name for name, own in weights if own.grad is None]
        if without:
            raise Fault(f"z0 does not depend on {without[0]!r}: leave out weights that nothing uses.")
    return None


# -- encoding losses -----------------------------------------------------------------------------------------


def _encoding_loss(subject: PartSubject) -> tuple[EncodingLoss | None, Tensor, Tensor | None]:
    """The loss, z0, and what the loss makes of it."""
    from bridgeflow.nn.source import NoisySourceSettings

    encoder = NoisySourceSettings(width=32, depth=1, heads=2, patch=4, target_patch=4)
    own: EncodingLoss | None = subject.build(GRID, GRID, encoder)
    z0 = torch.randn(4, *GRID.shape, requires_grad=True)
    if own is None:
        return None, z0, None
    observed = torch.rand(4, 3, 64, 64) * 2 - 1
    source, target = Latent(torch.randn(4, *GRID.shape)), Latent(torch.randn(4, *GRID.shape), observed=observed)
    with calling("forward"):
        found = own(source, z0, target.mean, target)
    if not isinstance(found, Tensor) or found.ndim or not bool(found.isfinite()):
        raise Fault("`forward` gives no finite scalar: let it return the mean over the batch.")
    return own, z0, found


def check_encoding_loss(subject: PartSubject) -> str | None:
    """Of a batch of four."""
    return "there is none" if _encoding_loss(subject)[0] is None else None


def check_encoding_gradients(subject: PartSubject) -> str | None:
    """Of z0 and every weight."""
    own, z0, loss = _encoding_loss(subject)
    if own is None or loss is None:
        return "there is none"
    loss.backward()
    weights = [("z0", z0), *((name, weight) for name, weight in own.named_parameters() if weight.requires_grad)]
    without = [name for name, weight in weights if weight.grad is None]
    if without:
        raise Fault(f"the loss does not depend on {without[0]!r}: leave out what nothing uses or what detaches it.")
    return None


# -- optimisers ----------------------------------------------------------------------------------------------


def _made(subject: PartSubject) -> tuple[nn.Module, torch.optim.Optimizer]:
    # Below the layers of the networks, so that it is imported where it is needed alone.
    from bridgeflow.config.optimizers import Parameters

    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(1, 4, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(32, 8))
    matrices = [p for p in module.parameters() if p.ndim > 1]
    return module, subject.build(Parameters(matrices, [p for p in module.parameters() if p.ndim == 1]))


def _steps(module: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    x = torch.linspace(-1, 1, 64).reshape(8, 1, 8)
    losses = []
    for _ in range(count):
        loss = (module(x) - x[:, 0].square()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        with calling("step"):
            optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def check_groups(subject: PartSubject) -> str | None:
    """Each parameter once, and a learning rate in every group."""
    module, optimizer = _made(subject)
    grouped = [own for group in optimizer.param_groups for own in group["params"]]
    if sorted(map(id, grouped)) != sorted(map(id, module.parameters())):
        raise Fault(f"its groups hold {len(grouped)} of {len(list(module.parameters()))} parameters: put each in one.")
    if not all(isinstance(group.get("lr"), float) for group in optimizer.param_groups):
        raise Fault('a group has no learning rate "lr", which the schedule scales: give each one.')
    return None


def check_descent(subject: PartSubject) -> str | None:
    """The loss of a small regression."""
    losses = _steps(*_made(subject), 30)
    if not losses[-1] < losses[0]:
        raise Fault(f"after 30 steps the loss is {losses[-1]:.3g}, from {losses[0]:.3g}: fix `step`, or its defaults.")
    return None


def check_state(subject: PartSubject) -> str | None:
    """As a checkpoint keeps it: tensors by parameter."""
    module, optimizer = _made(subject)
    _steps(module, optimizer, 3)
    other, fresh = _made(subject)
    other.load_state_dict(module.state_dict())
    for own, new in zip(module.parameters(), other.parameters(), strict=True):
        state = {key: value for key, value in optimizer.state[own].items() if value is not None}
        if not all(isinstance(value, Tensor | int | float) for value in state.values()):
            raise Fault("its state holds values that are no tensors and no numbers, which no checkpoint keeps.")
        fresh.state[new] = {key: torch.as_tensor(value).clone() for key, value in state.items()}
    _steps(module, optimizer, 2)
    _steps(other, fresh, 2)
    if any(not torch.allclose(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True)):
        raise Fault("with its state put back it goes on in another way: keep all of it in `state`, by parameter.")
    return None
