"""The checks of the parts of the method: bridgeflow's own pass, and each check catches a part that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from bridgeflow import registry
from bridgeflow.config.optimizers import AdamWSettings, OptimizerSettings, Parameters
from bridgeflow.errors import UsageError
from bridgeflow.flow.coupling import CouplingSettings, PairedCoupling
from bridgeflow.flow.guidance import GuidanceSettings, NoGuidance
from bridgeflow.flow.objective import FlowBatch, FlowMatching, ObjectiveSettings
from bridgeflow.flow.path import PathSettings, StraightPath
from bridgeflow.flow.solver import Euler, Heun, SolverSettings
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.encoded import Encoded, SourceEncoder, SourceEncoderSettings
from bridgeflow.nn.encoding_loss import EncodingLoss, EncodingLossSettings
from bridgeflow.nn.source import DirectSource
from bridgeflow.settings import Settings
from bridgeflow.testing import check_part, part_checks
from bridgeflow.testing.parts import TABLES

TINY = {"width": 32, "depth": 1, "heads": 2, "patch": 4, "target_patch": 4}
SMALL: dict[str, dict[str, Any]] = {
    "deterministic": TINY,
    "noisy": TINY,
    "variational": TINY,
    "narrowing": {"depth": 1, "heads": 4, "hidden": 32, "narrowings": 1},
}
OWN = [(p.kind, p.name) for kind in TABLES for p in registry.installed(kind) if p.value.startswith("bridgeflow.")]


@pytest.mark.parametrize(("kind", "name"), OWN)
def test_the_parts_of_bridgeflow_pass(kind: str, name: str) -> None:
    outcomes = check_part(kind, name, SMALL.get(name))
    assert [own.message for own in outcomes if own.status != "passed"] == []
    assert tuple(own.check for own in outcomes) == part_checks(kind)


def part(base: type[Settings], build: Callable[..., Any], doc: str = "A part.", **fields: Any) -> type[Any]:
    """Settings of a kind whose `build` gives what a test wants."""
    annotations = {"name": Literal["spoilt"], **dict.fromkeys(fields, Any)}
    body = {"__doc__": doc, "__module__": __name__, "__annotations__": annotations, "name": "spoilt", **fields}
    # For docstrings pydantic would read the source of every frame of pytest.
    body["model_config"] = ConfigDict(use_attribute_docstrings=False)
    return type("Spoilt", (base,), {**body, "build": lambda self, *given: build(*given)})


class Path(StraightPath):
    def __init__(self, **spoilt: Callable[..., Tensor]) -> None:
        super().__init__(0.0)
        self.__dict__.update(spoilt)


class Coupling(PairedCoupling):
    def __init__(self, rearrange: Callable[[Tensor], Tensor]) -> None:
        self.rearrange = rearrange

    def couple(self, z0: Tensor, z1: Tensor, null: Tensor) -> Callable[[Tensor], Tensor]:
        return self.rearrange


class Objective(FlowMatching):
    def __init__(self, loss: Callable[[FlowBatch], Tensor]) -> None:
        self.loss = loss  # type: ignore[method-assign]


class Encoder(SourceEncoder):
    """z0 by a function; with a layer that it uses or not."""

    def __init__(self, z0: Callable[..., Tensor], learned: bool = False, layer: bool = False) -> None:
        super().__init__()
        self.z0, self.learned = z0, learned
        self.layer = nn.Linear(8, 8) if layer else None

    def forward(self, source: Latent, generator: Any = None, sample: bool = True) -> Encoded:
        return Encoded(self.z0(source.mean, generator, sample))


class Encoding(EncodingLoss):
    """A function of z0; with a layer that it does not use."""

    def __init__(self, loss: Callable[[Tensor], Tensor], layer: bool = False) -> None:
        super().__init__()
        self.loss = loss
        self.layer = nn.Linear(2, 2) if layer else None

    def forward(self, source: Latent, z0: Tensor, z1: Tensor, target: Latent) -> Tensor:
        return self.loss(z0)


class Steps(Euler):
    def __init__(self, step: Callable[..., Tensor]) -> None:
        self.step = step  # type: ignore[method-assign]


class Blind(Euler):
    """Tells its observer nothing but the end."""

    def _run(self, velocity: Any, z: Tensor, grid: Tensor, observer: Any, open_end: bool) -> Tensor:
        end = super()._run(velocity, z, grid, None, open_end)
        if observer is not None:
            observer(float(grid[-1]), end)
        return end


def in_place(z: Tensor) -> Tensor:
    return z.mul_(2)


def draws_anew(z: Tensor) -> Tensor:
    return z[torch.randperm(len(z))]


def forgets(given: Parameters) -> torch.optim.Optimizer:
    """AdamW whose moments lie outside of its state."""

    class Forgetful(torch.optim.Optimizer):
        def __init__(self) -> None:
            super().__init__([*given.matrices, *given.others], {"lr": 0.01})
            self.moments: dict[Any, Tensor] = {}

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for own in self.param_groups[0]["params"]:
                moment = self.moments.setdefault(own, torch.zeros_like(own))
                moment.mul_(0.9).add_(own.grad)
                own.data.sub_(0.01 * moment)

    return Forgetful()


def adamw(matrices: Any = None, **keys: Any) -> Callable[[Parameters], torch.optim.Optimizer]:
    def build(given: Parameters) -> torch.optim.Optimizer:
        own = given if matrices is None else Parameters(matrices(given), given.others)
        return AdamWSettings(**keys).build(own)

    return build


def drifting(velocity: Any, z: Tensor, t: float, h: float) -> Tensor:
    return z + 1.1 * h * velocity(z, t)


def equal_steps(velocity: Any, z: Tensor, t: float, h: float) -> Tensor:
    return z + velocity(z, t) / 8


def noisy_start(z: Tensor, generator: Any, sample: bool) -> Tensor:
    return z + torch.randn_like(z)


def never_the_mean(z: Tensor, generator: Any, sample: bool) -> Tensor:
    drawn = torch.randn(z.shape[1:], generator=generator if isinstance(generator, torch.Generator) else generator[0])
    return z + drawn


class Scaled(NoGuidance):
    def __call__(self, velocity: Any, z: Tensor, t: float) -> Tensor:
        return 2 * super().__call__(velocity, z, t)


class Halved(NoGuidance):
    def __call__(self, velocity: Any, z: Tensor, t: float) -> Tensor:
        return super().__call__(velocity, z, t)[:1]


HEUN_TWICE = type("Spoilt", (SolverSettings,), {
    "__doc__": "A part.", "__module__": __name__, "__annotations__": {"name": Literal["spoilt"]}, "name": "spoilt",
    "build": lambda self: Heun(),
})  # fmt: skip


class OpenHeun(Heun):
    def step_to_open_end(self, velocity: Any, z: Tensor, t: float, h: float) -> Tensor:
        return self.step(velocity, z, t, h)


SPOILT: list[tuple[str, type[Any], str, str]] = [
    ("path", part(PathSettings, Path, doc=""), "contract", "give the class a docstring"),
    ("path", part(PathSettings, lambda: 1 / 0), "ends", "`build` failed"),
    ("path", part(PathSettings, lambda: StraightPath(0.2)), "ends", "at t = 1 the path is"),
    ("path", part(PathSettings, lambda: Path(target=lambda z, v, t: z)), "target", "make them inverse"),
    ("path", part(PathSettings, lambda: Path(velocity=lambda a, b, z, t: a - b)), "velocity", "away from the target"),
    ("coupling", part(CouplingSettings, lambda: Coupling(lambda z: z.flip(0).roll(1, -1) + 0.5)), "rows", "mixes rows"),
    ("coupling", part(CouplingSettings, lambda: Coupling(draws_anew)), "rows", "different orders"),
    ("coupling", part(CouplingSettings, lambda: Coupling(in_place)), "gradients", "changes the targets"),
    ("objective", part(ObjectiveSettings, lambda: Objective(lambda b: b.z0.mean() + torch.rand(()))), "loss", "draws"),
    ("objective", part(ObjectiveSettings, lambda: Objective(lambda b: b.z0.square())), "loss", "where () is expected"),
    (
        "objective",
        part(ObjectiveSettings, lambda: Objective(lambda b: b.predict(b.z0.detach(), b.z0[:, 0].detach())[0].mean())),
        "gradients",
        "does not reach the source",
    ),
    ("guidance", part(GuidanceSettings, Halved), "shape", "`__call__` gives (1, 2, 4, 4)"),
    ("guidance", part(GuidanceSettings, Scaled), "no guidance", "let scale 1 change nothing"),
    ("solver", part(SolverSettings, lambda: Steps(drifting)), "straight lines", "on an even grid"),
    ("solver", part(SolverSettings, lambda: Steps(equal_steps)), "straight lines", "on an uneven grid"),
    ("solver", part(SolverSettings, lambda: Steps(lambda v, z, t, h: z + h * v(0 * z + 1, 0.5))), "order", "32 steps"),
    ("solver", HEUN_TWICE, "evaluations", "`evaluations` says 8 where the velocity is asked for 16 times"),
    ("solver", part(SolverSettings, OpenHeun), "open end", "take the last step from before it"),
    ("solver", part(SolverSettings, Blind), "observer", "at each time of the grid"),
    ("source_encoder", part(SourceEncoderSettings, lambda a, b: Encoder(lambda z, *_: z[:2])), "shape", "z0 has shape"),
    ("source_encoder", part(SourceEncoderSettings, lambda a, b: Encoder(noisy_start)), "draws", "gives two z0"),
    (
        "source_encoder",
        part(SourceEncoderSettings, lambda a, b: Encoder(never_the_mean, learned=True, layer=True)),
        "draws",
        "still depends on the generator",
    ),
    (
        "source_encoder",
        part(SourceEncoderSettings, lambda a, b: Encoder(lambda z, *_: z, layer=True)),
        "gradients",
        "`learned` is False, and it has 2 weights",
    ),
    (
        "source_encoder",
        part(SourceEncoderSettings, lambda a, b: Encoder(lambda z, *_: z.requires_grad_(), learned=True, layer=True)),
        "gradients",
        "z0 does not depend on 'layer.weight'",
    ),
    ("encoding_loss", part(EncodingLossSettings, lambda *_: Encoding(lambda z: z)), "loss", "no finite scalar"),
    ("encoding_loss", part(EncodingLossSettings, lambda *_: Encoding(torch.mean, True)), "gradients", "'layer.weight'"),
    ("optimizer", part(OptimizerSettings, adamw(lambda p: p.matrices[:1])), "parameters", "3 of 4 parameters"),
    ("optimizer", part(OptimizerSettings, adamw(learning_rate=50.0)), "descent", "after 30 steps"),
    ("optimizer", part(OptimizerSettings, forgets), "state", "goes on in another way"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "own", "check", "told"), SPOILT)
def test_a_part_that_breaks_a_check_is_told_so(kind: str, own: type[Any], check: str, told: str) -> None:
    failed = {outcome.check.name: outcome.message for outcome in check_part(kind, own) if outcome.status == "failed"}
    assert told in failed.get(check, ""), failed


def test_every_check_of_a_kind_has_a_part_that_breaks_it() -> None:
    own = {kind: {check.name for check, _ in table} for kind, table in TABLES.items()}
    assert {kind: {c for k, _, c, _ in SPOILT if k == kind} - {"contract"} for kind in TABLES} == own


def test_a_class_of_another_kind_and_an_unknown_name_are_refused() -> None:
    (first, *_) = check_part("solver", part(PathSettings, Path))
    assert "is no SolverSettings" in first.message
    with pytest.raises(UsageError, match="Did you mean 'heun'"):
        check_part("solver", "huen")


def test_a_name_of_its_own_is_needed() -> None:
    class Nameless(PathSettings):
        """A path."""

        def build(self) -> StraightPath:
            return StraightPath(0.0)

    assert any("`name` has no default" in own.message for own in check_part("path", Nameless))


def test_a_source_encoder_that_takes_no_latent_of_the_checks_says_why() -> None:
    def refuse(source: LatentSpec, target: LatentSpec) -> SourceEncoder:
        raise UsageError("it takes sound alone.")

    outcomes = check_part("source_encoder", part(SourceEncoderSettings, refuse))
    assert any("(it takes sound alone)" in own.message for own in outcomes)
    assert isinstance(DirectSource(LatentSpec((4, 8, 8), "grid"), LatentSpec((4, 8, 8), "grid")), SourceEncoder)
