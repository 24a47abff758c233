"""Variables of a launcher that are left in the environment, and accelerate's own: the recipe and the command decide."""

import os

import pytest
import torch
from torch import nn

from bridgeflow.config.keys import TrainingSettings
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.runtime import launch
from bridgeflow.training.accelerator import make_accelerator
from bridgeflow.training.sharding import check_configuration


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*launch.WORLD_SIZE, *launch.RANK, *launch.LOCAL_RANK, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def refusal(on_cpu: bool = True) -> str:
    """What is said where the processes are brought together."""
    with pytest.raises(BridgeflowError) as caught, launch.meeting(on_cpu):
        raise AssertionError("nothing stopped it")
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    "variables",
    [
        {"LOCAL_RANK": "0"},
        {"RANK": "0", "WORLD_SIZE": "2"},
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
        {"PMI_SIZE": "4", "PMI_RANK": "1"},
        {"MV2_COMM_WORLD_SIZE": "2"},
    ],
)
@pytest.mark.parametrize("on_cpu", [True, False])
def test_variables_that_a_launcher_left_are_named_with_the_command_that_takes_them_away(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], on_cpu: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    sentence = refusal(on_cpu)
    stated, _, fix = sentence.partition("unset ")
    assert "MASTER_ADDR" in stated
    for name, value in variables.items():
        assert f"{name}={value}" in stated
        assert name in fix


@pytest.mark.parametrize("value", ["", "zero", "1.5"])
@pytest.mark.parametrize("name", ["LOCAL_RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_a_variable_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert refusal() == f"the variable {name} is {value!r} where a launcher sets a whole number: unset {name}."


@pytest.mark.parametrize("error", [torch.distributed.DistNetworkError("address in use"), ValueError("address in use")])
def test_processes_that_cannot_meet_say_where_they_tried(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    for name, value in {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    told = r"\(LOCAL_RANK=0\) cannot meet \(address in use\): unset LOCAL_RANK "
    with pytest.raises(BridgeflowError, match=told), launch.meeting(on_cpu=True):
        raise error


def test_one_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "WORLD_SIZE": "1", "RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    with launch.meeting(on_cpu=True):
        pass
    assert (launch.is_one_of_several(), launch.rank()) == (False, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (launch.is_one_of_several(), launch.rank()) == (True, 3)


def test_the_recipe_alone_says_accumulation_compilation_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
        "ACCELERATE_DYNAMO_MODE": "max-autotune",
        "ACCELERATE_DYNAMO_USE_FULLGRAPH": "maybe",
        "ACCELERATE_DYNAMO_USE_DYNAMIC": "maybe",
        "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "maybe",
        "ACCELERATE_MIXED_PRECISION": "bf16",
    }.items():
        monkeypatch.setenv(name, value)
    accelerator = make_accelerator(TrainingSettings(precision="fp32"), "cpu")
    weight = nn.Linear(1, 1, bias=False)
    model = accelerator.prepare(weight)
    accelerator.backward(model(torch.ones(1, 1)).sum())
    assert weight.weight.grad is not None
    assert weight.weight.grad.item() == 1
    assert model is weight
    assert accelerator.mixed_precision == "no"
    assert "LOCAL_RANK" not in os.environ


@pytest.mark.parametrize("name", ["ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG"])
def test_a_configuration_of_another_way_to_split_a_model_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "true")
    with pytest.raises(UsageError, match=f"which bridgeflow does not train with: unset {name}"):
        check_configuration()
