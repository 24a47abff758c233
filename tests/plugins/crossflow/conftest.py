"""Shrunken networks of CrossFlow's form, and the keys of the published ones."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from weights import weight_for

HERE = Path(__file__).parent
HEAD = "open_clip_output."

Shapes = dict[str, tuple[int, ...]]
StateDict = dict[str, Tensor]


def published_shapes(name: str) -> Shapes:
    """Every key of a published network with its shape."""
    lines = (HERE / "keys" / f"{name}.tsv").read_text().splitlines()
    return {key: ast.literal_eval(shape) for key, shape, _ in (line.split("\t") for line in lines)}


def shrunken_shapes(name: str, head: bool = False) -> Shapes:
    """Every key of a shrunken network with its shape; the image tower's head, which is not shrunken, if asked for."""
    keys = json.loads((HERE / "shrunken" / f"{name}.json").read_text())["keys"]
    return {key: tuple(shape) for key, shape in keys if head or not key.startswith(HEAD)}


@pytest.fixture(scope="session")
def shapes_of() -> Callable[[str], Shapes]:
    """Shapes by key of a published network."""
    return published_shapes


@pytest.fixture(scope="session")
def shrunken() -> Callable[..., StateDict]:
    """The state dict of a shrunken network; each tensor follows from its key."""
    made: dict[tuple[str, bool], StateDict] = {}

    def state_dict(name: str, head: bool = False) -> StateDict:
        if (name, head) not in made:
            made[name, head] = {key: weight_for(key, shape) for key, shape in shrunken_shapes(name, head).items()}
        return dict(made[name, head])

    return state_dict


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Writes anything as torch does, and gives the file."""

    def write(value: object, name: str = "network.pth", **how: object) -> Path:
        file = tmp_path / name
        torch.save(value, file, **how)  # type: ignore[arg-type]
        return file

    return write


@pytest.fixture
def frozen(tmp_path: Path) -> tuple[str, str]:
    """Folders of a text encoder of width 64 and of an autoencoder, as far as an import looks into them."""
    text, vae = tmp_path / "text-encoder", tmp_path / "vae"
    for folder, config in ((text, {"text_config": {"hidden_size": 64}}), (vae, {"latent_channels": 4})):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
    return str(text), str(vae)
