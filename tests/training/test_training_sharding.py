"""What accelerate's configurations ask for, and what a sharded bridge is made of."""

from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from torch import nn

from bridgeflow.errors import UsageError
from bridgeflow.training import sharding

CONFIGURATIONS = sorted((Path(__file__).parents[2] / "docs/configs").glob("*.yaml"))


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda path: path.stem)
def test_configurations_of_the_documentation_are_taken(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--config_file", str(configuration), "--machine_rank", "0", "-m", "bridgeflow", "train"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    environment = prepare_multi_gpu_env(arguments)
    for name, value in environment.items():
        if name.startswith(("ACCELERATE", "FSDP")):
            monkeypatch.setenv(name, value)
    sharding.check_configuration()
    assert sharding._asked("ACCELERATE_USE_FSDP") == str(configuration.stem == "fsdp2").lower()
    assert arguments.num_processes == (64 if "8x8" in configuration.stem else 8)


@pytest.mark.parametrize(
    ("environment", "fix"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "set distributed_type: FSDP and fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true"}, "set fsdp_version: 2"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            "set fsdp_offload_params: false",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(environment: dict[str, str], fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=fix):
        sharding.check_configuration()


def test_blocks_are_modules_with_layers_of_their_own_from_the_inside() -> None:
    class Block(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.parts = nn.ModuleList([inner])

        def forward(self) -> None: ...

    inside, bare = Block(nn.Linear(2, 2)), nn.ModuleList([nn.Linear(2, 2)])
    outside = Block(inside)
    assert [*sharding.blocks_of(nn.ModuleList([outside, bare]))] == [inside, outside]
