"""The ends of a model's flows, kept and trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from bridgeflow.caching.dataset import Cache
from bridgeflow.caching.index import read_index
from bridgeflow.checkpoints.checkpoint import open_checkpoint
from bridgeflow.cli.main import invoke
from bridgeflow.data.rows import EncodedRows
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.modality import Latent
from bridgeflow.nn.encoded import Encoded

TINY = [
    "network.channels=[8,8]", "network.blocks=1", "network.attention=[]", "training.precision=fp32", "data.size=24",
    "data.held_out=8", "training.steps=2", "training.batch_size=4", "training.evaluate=0", "training.samples=1",
    "source.size=16", "target.size=16",
]  # fmt: skip
LINE = ["reflow", "--checkpoint", "runs/flow", "-o", "pairs", "--steps", "3", "--guidance", "2", "--variants", "2"]
MODEL = ["prediction=velocity", "null_rate=0.25", "source_encoder.sigma=0.3"]

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*words: str) -> tuple[int, str, str]:
        code = invoke(list(words))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


@pytest.fixture
def flow(call: Call) -> str:
    code, _, err = call("train", "--task", "depth", *TINY, *MODEL, "-o", "runs/flow")
    assert code == 0, err
    return "runs/flow"


def rows_of(folder: str) -> EncodedRows:
    rows = Cache(path=folder).open("train")
    assert isinstance(rows, EncodedRows)
    return rows


def test_pairs_are_the_ends_of_the_flow_and_training_goes_on_with_them(flow: str, call: Call) -> None:
    code, out, err = call(*LINE, "--json")
    assert code == 0, err
    assert "next: bridgeflow train --task depth --from runs/flow --data cache:pairs" in err
    key = json.loads(out)["flow"]
    assert (key["sampling"]["solver"], key["precision"]) == ({"name": "euler", "steps": 3}, "fp32")

    pipeline = Pipeline.open(Path(flow), "cpu")
    pipeline.sampling = pipeline.adjusted(steps=3, guidance=2.0)
    sampling, bridge = pipeline.sampling, pipeline.bridge
    kept: list[Latent] = []
    for epoch in (0, 1):
        source, target = rows_of("pairs").gather(list(range(8)), [epoch] * 8)
        kept.append(target)
        assert target.start is not None
        # The flow began at the source with its own noise, and ended where the model takes it.
        noise = target.start - source.mean
        assert float(noise.std()) == pytest.approx(0.3, rel=0.1)
        ends = bridge.sample(
            Encoded(target.start), sampling.solver.build(), 3, sampling.guidance.build(), grid=sampling.grid
        )
        torch.testing.assert_close(ends, target.mean)
    assert kept[0].start is not None
    assert kept[1].start is not None
    assert not torch.equal(kept[0].start, kept[1].start)

    # Guidance and null rows are in the pairs.
    recipe = yaml.safe_load((Path("pairs") / read_index(Path("pairs")).recipe).read_text())
    assert recipe["null_rate"] == 0
    assert recipe["sampling"]["guidance"]["name"] == "none"

    again = call(*LINE)
    assert "was complete already" in again[2]
    code, _, err = call(*LINE[:-3], "1.5", *LINE[-2:])
    assert code == 2
    assert "flow.sampling.guidance.scale is 1.5 here and was 2.0" in err

    code, _, err = call(
        "train", "--task", "depth", "--from", flow, "--data", "cache:pairs", "training.steps=2", "-o", "runs/straight"
    )
    assert code == 0, err
    assert "starting from the weights of runs/flow" in err
    assert call("run", "--task", "depth", "--checkpoint", "runs/straight", "--steps", "1", _picture())[0] == 0
    assert call("cache", "verify", "pairs")[0] == 0


def _picture() -> str:
    from PIL import Image

    Image.new("RGB", (16, 16), "red").save("red.png")
    return "red.png"


def test_the_loss_begins_where_the_flow_began(flow: str) -> None:
    bridge = Pipeline.open(Path(flow), "cpu").bridge.train()
    source, z1 = Latent(torch.randn(4, 3, 16, 16)), torch.randn(4, 3, 16, 16)
    start = torch.randn(4, 3, 16, 16)
    null = torch.zeros(4, dtype=torch.bool)
    times = torch.Generator().manual_seed(0)
    found = bridge(source, Latent(z1, start=start), times, null).terms["flow"]
    # The encoder has drawn its noise, which is not used.
    times = torch.Generator().manual_seed(0)
    bridge.source_encoder(source, times)
    expected = bridge.flow_loss(Encoded(start), z1, null, None, bridge.settings.time, times)
    torch.testing.assert_close(found, expected.detach())


def test_a_learned_source_encoder_stays_as_it_was_and_ends_are_validated(call: Call) -> None:
    words = [
        "data.size=24", "data.held_out=8", "target.codec.steps=2", "network.channels=[8]", "network.blocks=1",
        "source_encoder.depth=1", "source_encoder.width=16", "training.steps=2", "training.batch_size=4",
        "training.evaluate=0", "training.precision=fp32", "training.samples=1", "training.validation=8",
    ]  # fmt: skip
    code, _, err = call("train", "--task", "t2i", *words, "-o", "runs/words")
    assert code == 0, err
    assert call("reflow", "--checkpoint", "runs/words", "-o", "ends", "--steps", "2")[0] == 0
    code, _, err = call("train", "--task", "t2i", "--from", "runs/words", "--data", "cache:ends", "-o", "runs/short")
    assert code == 0, err
    before, after = (open_checkpoint(Path(f"runs/{name}")).weights() for name in ("words", "short"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any(name.startswith("source_encoder.") and "running" not in name for name in moved)
    held_out = Cache(path="ends").open("held_out")
    assert isinstance(held_out, EncodedRows)
    assert held_out.gather([0], [0])[1].start is not None
    assert held_out[0]["text"]
    assert call("eval", "--task", "t2i", "--checkpoint", "runs/short", "--count", "2", "--quick")[0] == 0


def test_losses_on_pixels_are_left_out(call: Call) -> None:
    code, _, err = call(
        "train",
        "--task",
        "superres",
        *TINY,
        "options.overlap=1",
        "alignment={name: repa, size: 32, layer: 1}",
        "-o",
        "runs/aligned",
    )
    assert code == 0, err
    assert call("reflow", "--checkpoint", "runs/aligned", "-o", "plain")[0] == 0
    assert call("cache", "verify", "plain")[0] == 0
    code, _, err = call("train", "--task", "superres", "--from", "runs/aligned", "--data", "cache:plain", "-o", "r")
    assert code == 0, err


def test_latents_keep_their_starts() -> None:
    latent = Latent(torch.arange(6.0).view(3, 2), start=torch.arange(6.0).view(3, 2) + 10)
    chosen = latent.rows(torch.tensor([2, 0])).to("cpu").start
    assert chosen is not None
    assert chosen.tolist() == [[14.0, 15.0], [10.0, 11.0]]


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        (["reflow", "-o", "pairs"], 2, "Missing option '--checkpoint'"),
        (["reflow", "--checkpoint", "nowhere/at-all", "-o", "pairs"], 2, "there is no folder 'nowhere/at-all'"),
        (["reflow", "--checkpoint", "depth/blocks-full", "-o", "p", "null_rate=0"], 2, "is no data.KEY=VALUE"),
    ],
)
def test_mistakes(call: Call, line: list[str], code: int, told: str) -> None:
    found = call(*line)
    assert found[0] == code
    assert told in found[2]


def test_an_installed_model_is_named_to_start_from(call: Call) -> None:
    code, _, err = call(
        "train", "--task", "depth", "--recipe", "depth/blocks-full", "--from", "depth/blocks-full", "data.size=32",
        "data.held_out=8", "training.steps=1", "training.batch_size=2", "training.evaluate=0", "-o", "runs/more",
    )  # fmt: skip
    assert code == 0, err
    assert "starting from the weights of" in err
