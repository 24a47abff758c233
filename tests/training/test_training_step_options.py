"""training.gradient_checkpointing and training.compile in runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bridgeflow.checkpoints.checkpoint import open_checkpoint
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import LatentSpec
from bridgeflow.nn.dimr import DiMRSettings
from bridgeflow.nn.velocity import VelocityNet
from bridgeflow.training.start import Run
from bridgeflow.training.step_options import apply_options, compile_network

Recipes = Callable[..., Recipe]
Train = Callable[..., Run]


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """What is to be compiled runs as it is: compiling takes minutes, see `make bench`."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def _weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.outcome.checkpoint / "model.safetensors")


@pytest.mark.usefixtures("uncompiled")
def test_a_compiled_run_writes_the_same_checkpoint_and_goes_on(tiny_depth: Recipes, quiet_train: Train) -> None:
    plain = quiet_train(tiny_depth("training.steps=2"), output="plain")
    options = ("training.compile=true", "training.gradient_checkpointing=true")
    half = quiet_train(tiny_depth("training.steps=2", *options), output="options")
    assert list(_weights(half)) == list(_weights(plain))
    assert all(torch.equal(tensor, _weights(half)[name]) for name, tensor in _weights(plain).items())
    resumed = quiet_train(tiny_depth("training.steps=3", *options), resume=open_checkpoint(Path("options")))
    assert (resumed.outcome.step, list(_weights(resumed))) == (3, list(_weights(plain)))
    without = quiet_train(tiny_depth("training.steps=3"), resume=open_checkpoint(Path("plain")))
    assert all(torch.equal(tensor, _weights(resumed)[name]) for name, tensor in _weights(without).items())


@pytest.mark.usefixtures("uncompiled")
def test_a_network_of_several_parts_is_compiled_part_by_part() -> None:
    network = DiMRSettings().build(LatentSpec((4, 8, 8), "grid"))
    names = list(network.state_dict())
    compile_network(network, torch.device("cpu"))
    assert list(network.state_dict()) == names
    assert [part._compiled_call_impl is not None for part in network.compiled_parts()] == [True, True]


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nowhere/g++"))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    torch._dynamo.reset()
    with pytest.raises(
        BridgeflowError, match=r"^training\.compile=true, but torch\.compile does not work on this"
    ) as e:
        compile_network(DiMRSettings().build(LatentSpec((4, 8, 8), "grid")), torch.device("cpu"))
    assert "\n" not in str(e.value)
    assert "install a C++ compiler such as g++" in str(e.value)


class _Flat(VelocityNet):
    """A network of one piece, as a plugin may bring it."""

    def forward(self, z: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """z as it is."""
        return z


def test_a_network_without_blocks_is_refused(tiny_depth: Recipes) -> None:
    from bridgeflow.assembly import assemble

    recipe = tiny_depth("training.gradient_checkpointing=true")
    bridge = assemble(recipe).build_bridge()
    bridge.network = _Flat()
    with pytest.raises(UsageError, match=r"network _Flat has no blocks .* leave training\.gradient_checkpointing out"):
        apply_options(bridge, recipe.training, torch.device("cpu"))
