"""Models run backwards: what is read out of a start, and which models can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bridgeflow import registry
from bridgeflow.assembly import assemble
from bridgeflow.config import recipe as recipes
from bridgeflow.errors import UsageError
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.inference.reverse import is_mirror, read_back, reversed_pipeline, start_of_flow
from bridgeflow.nn.velocity import VelocityNet

CAPTIONS = ["a red cube", "a cyan cone", "cats"]
SMALL = ["target.size=16", "target.codec={name: pixels}", "network.width=16", "network.heads=2", "network.depth=1"]
UNET = ["network={name: unet, channels: [8], blocks: 1}"]


def words(*overrides: str, recipe: str = "t2i/blocks-words", size: list[str] = SMALL) -> Pipeline:
    assembly = assemble(recipes.load(recipe, [*size, *overrides]))
    torch.manual_seed(0)
    return Pipeline(assembly, assembly.build_bridge())


class Constant(VelocityNet):
    """Everything moves by 2 in every value."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([2.0]))

    def forward(self, z: Tensor, t: Tensor, null: Tensor, *_: Any, **__: Any) -> Tensor:
        assert not bool(null.any())
        return self.value.expand(z.shape)


def test_words_are_read_out_of_where_the_flow_began() -> None:
    pipeline = words()
    source, bridge = pipeline.assembly.source, pipeline.bridge
    bridge.network = Constant()
    encoded = bridge.encode(source.encode(source.collate(CAPTIONS)), sample=False)
    ends = encoded.z0 + 2
    with torch.no_grad():
        found = start_of_flow(bridge, ends, pipeline.sampling)
    torch.testing.assert_close(found, encoded.z0, atol=1e-5, rtol=0)
    books: dict[int, Tensor] = {}
    assert read_back(bridge, source, found, books) == CAPTIONS
    # The longest has six tokens, of which "cyan" is two, and none follows.
    assert sorted(books) == list(range(7))
    # A tenth of the deviation of mu as noise is far from another word's code.
    assert read_back(bridge, source, found + 0.08 * torch.randn_like(found), books) == CAPTIONS


def test_a_picture_gives_a_line_of_words_by_the_mirrored_task(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = words()
    source = pipeline.assembly.source
    # Five tokens instead of the thirty thousand of the vocabulary.
    few = torch.randn(5, 384, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(source, "entries", lambda place: few)

    def spelled(rows: list[list[int]]) -> list[str]:
        return ["".join("_01234"[own + 1] for own in row) for row in rows]

    monkeypatch.setattr(source, "from_entries", spelled)
    # A fresh network reads nothing, and moves nothing.
    monkeypatch.setattr(pipeline.bridge.network, "read_source", lambda z, t: 3 * z)
    black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    one, (two, three) = pipeline.reverse(black), pipeline.reverse([black, white])
    assert one == two != three
    assert 0 < len(one) <= 24
    turned = reversed_pipeline(pipeline, "caption")
    assert type(turned.assembly.task).__name__ == "Caption"
    assert turned.assembly.source is pipeline.assembly.target
    assert type(pipeline.assembly.task).__name__ == "TextToImage"
    assert turned([white]) == [three]


def test_a_task_between_two_of_one_modality_is_nobody_s_mirror() -> None:
    tasks = {name: registry.load("task", name) for name in ("t2i", "caption", "depth", "recolour")}
    assert is_mirror(tasks["caption"], tasks["t2i"])
    assert is_mirror(tasks["t2i"], tasks["caption"])
    assert not is_mirror(tasks["recolour"], tasks["recolour"])
    assert not is_mirror(tasks["depth"], tasks["t2i"])


@pytest.mark.parametrize("prediction", ["velocity", "target"])
def test_times_fall_and_the_end_of_the_path_is_asked_for_where_there_is_a_velocity(prediction: str) -> None:
    pipeline = words(f"prediction={prediction}", "sampling.solver.steps=4")
    asked: list[float] = []
    pipeline.bridge.network.register_forward_pre_hook(lambda _, given: asked.append(float(given[1][0])))
    with torch.no_grad():
        start_of_flow(pipeline.bridge, torch.randn(1, 3, 16, 16), pipeline.sampling)
    assert asked == pytest.approx([1.0 if prediction == "velocity" else 0.99, 0.75, 0.5, 0.25])


def test_it_is_said_why_a_model_cannot_be_run_backwards() -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(UsageError, match=r"given more than the state .*source_encoder.name=noise"):
        words("source_encoder={name: noise}", *UNET, size=SMALL[:2]).reverse(picture)
    with pytest.raises(UsageError, match=r"source_encoder.name=noisy keeps no code of each token"):
        words("source_encoder={name: noisy, width: 16, depth: 1}").reverse(picture)
    with pytest.raises(UsageError, match=r"the modality text has no finite choice .*source.codec.layer=0"):
        words("source.codec.layer=-1").reverse(picture)
    with pytest.raises(UsageError, match="no installed task goes from image_latent to text"):
        reversed_pipeline(words(), "superres")
    small = ["network.channels=[8,8,8]", "network.attention=[]"]
    with pytest.raises(UsageError, match="no installed task goes from depth to image_latent"):
        words(recipe="depth/blocks", size=small).reverse(picture)
