"""Encoder, network and decoder in turn; dtypes; what is told meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bridgeflow.assembly import Assembly
from bridgeflow.bridge import Bridge
from bridgeflow.checkpoints.checkpoint import Checkpoint
from bridgeflow.checkpoints.loading import load_bridge, set_precision
from bridgeflow.errors import BridgeflowError
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.modality import Latent

Make = Callable[..., Pipeline]
Build = Callable[..., Assembly]
Call = tuple[int, int, str]
Save = Callable[..., tuple[Checkpoint, Bridge]]
DIMR = (
    "network={name: dimr, stages: [{kind: transformer, width: 16, hidden: 16, heads: 2, blocks: 3, patch: 2}, "
    "{kind: convnext, width: 8, hidden: 16, blocks: 3, patch: 1}], stage_weights: [1, 1]}"
)
NARROWING = "{{name: narrowing, depth: 1, narrowings: 1, heads: 2, hidden: 16, tail: {}}}"
SETTINGS = {
    **{name: (name,) for name in ("direct", "noisy", "variational", "noise")},
    "unet": ("direct", "network={name: unet, channels: [8, 16], blocks: 1, patch: 1, attention: [1]}"),
    "narrowing-dimr": (NARROWING.format("linear"), DIMR),
    "narrowing-conv": (NARROWING.format("conv"),),
}
"""Source encoders and networks that take different ways through the dtypes."""


def assembly_of(build: Build, name: str) -> Assembly:
    return build(*SETTINGS[name], shape=(4, 8) if name.startswith("narrowing") else (1, 4, 4))


def items(pipeline: Pipeline, count: int) -> list[Tensor]:
    return [pipeline.assembly.source.read(seed) for seed in range(count)]


# -- low memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["generate", "combine", "interpolate", "trajectory"])
def test_low_memory_gives_the_same_bits(pipeline_of: Make, call: str) -> None:
    def results(low_memory: bool) -> list[Tensor]:
        pipeline = pipeline_of("variational", "sampling.batch_size=2", low_memory=low_memory)
        a, b, *more = items(pipeline, 5)
        if call == "trajectory":
            return [state for _, state in pipeline.trajectory(torch.stack([a, *more]), seed=1)]
        if call == "generate":
            own = pipeline.generate([a, b, *more], samples=3, seed=1)
        elif call == "combine":
            own = pipeline.combine([a, *more], [b], samples=2, seed=1)
        else:
            own = pipeline.interpolate([a, *more], b, frames=6, seed=1)
        return [result for each in own for result in each]

    usual, lean = results(False), results(True)
    assert len(usual) >= 8
    assert all(torch.equal(one, other) for one, other in zip(usual, lean, strict=True))


def test_low_memory_frees_each_before_the_next_begins(build: Build, save_random: Save) -> None:
    assembly = build("variational", "sampling.batch_size=2")
    checkpoint, _ = save_random(assembly)
    assembly.target.calls = assembly.source.calls  # type: ignore[assignment]
    calls: list[str] = assembly.source.calls  # type: ignore[assignment]

    def load() -> Bridge:
        calls.append("load")
        return load_bridge(assembly, checkpoint)

    pipeline = Pipeline(assembly, load, low_memory=True)
    assert calls == []
    own = items(pipeline, 3)
    pipeline.generate(own)
    assert calls == ["encode 2", "encode 1", "unload", "load", "decode 2", "decode 1", "unload"]
    assert pipeline.stages._bridge is None
    calls.clear()
    pipeline.generate(own[:1])
    assert calls == ["encode 1", "unload", "load", "decode 1", "unload"]


def test_without_it_batches_flow_and_nothing_is_freed(build: Build, pipeline_of: Make) -> None:
    pipeline = pipeline_of("direct", "sampling.batch_size=2")
    source, target = pipeline.assembly.source, pipeline.assembly.target
    target.calls = source.calls  # type: ignore[assignment]
    pipeline.generate(items(pipeline, 3))
    assert source.calls == ["encode 2", "decode 2", "encode 1", "decode 1"]  # type: ignore[comparison-overlap]


def test_an_item_is_encoded_once_for_all_its_samples_and_frames(pipeline_of: Make) -> None:
    pipeline = pipeline_of("variational")
    a, b = items(pipeline, 2)
    pipeline.generate([a], samples=8)
    pipeline.interpolate([a], b, frames=12)
    # Each end by itself, and both for everything between them.
    assert pipeline.assembly.source.calls == ["encode 1"] * 5  # type: ignore[comparison-overlap]


# -- loading and dtypes ----------------------------------------------------------------------------


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("encoder", ["noisy", "variational", "unet", "narrowing-dimr"])
def test_a_loaded_bridge_is_whole_and_in_float32(build: Build, save_random: Save, encoder: str, low: bool) -> None:
    assembly = assembly_of(build, encoder)
    checkpoint, made = save_random(assembly, low)
    bridge = load_bridge(assembly, checkpoint)
    state = made.state_dict()
    assert bridge.state_dict().keys() == state.keys()
    for name, tensor in bridge.state_dict().items():
        assert tensor.dtype == state[name].dtype, name
        expected = state[name].bfloat16().float() if low and tensor.is_floating_point() else state[name]
        assert torch.equal(tensor, expected), name
    assert not any(tensor.is_meta for tensor in [*bridge.parameters(), *bridge.buffers()])
    assert not bridge.training
    given = Latent(torch.stack([assembly.source.read(1), assembly.source.read(2)]))
    if not low:
        assert torch.equal(bridge.encode(given, sample=False).z0, made.encode(given, sample=False).z0)
    # Positions are no part of a checkpoint, and are computed.
    for (name, buffer), (_, own) in zip(bridge.named_buffers(), made.named_buffers(), strict=True):
        assert low or torch.equal(buffer, own), name


def test_bfloat16_holds_matrices_and_spares_vectors(build: Build, save_random: Save) -> None:
    checkpoint, _ = save_random(build("noisy"))
    bridge = load_bridge(build("noisy"), checkpoint, "bf16")
    products = {f"{name}.weight" for name, m in bridge.named_modules() if isinstance(m, torch.nn.Linear)}
    assert len(products) > 5
    for name, parameter in bridge.named_parameters():
        assert parameter.dtype == (torch.bfloat16 if name in products else torch.float32), name
    assert bridge.source_encoder.encoder.queries.dtype == torch.float32  # type: ignore[union-attr]
    assert {b.dtype for b in bridge.buffers() if b.is_floating_point()} == {torch.float32}
    assert bridge.source_encoder.mean_norm.num_batches_tracked.dtype == torch.int64  # type: ignore[union-attr]


def test_set_precision_goes_both_ways() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to(torch.bfloat16)
    set_precision(net, "fp32")
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert net[1].running_mean.dtype == torch.float32
    set_precision(net, "bf16")
    assert [p.dtype == torch.bfloat16 for p in net.parameters()] == [True, False, False, False]
    assert net[1].num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("encoder", SETTINGS)
def test_bfloat16_is_near_float32(build: Build, save_random: Save, encoder: str) -> None:
    assembly = assembly_of(build, encoder)
    checkpoint, _ = save_random(assembly)
    results = {}
    for precision in ("fp32", "bf16"):
        bridge = load_bridge(assembly, checkpoint, precision)
        pipeline = Pipeline(assembly, bridge, precision=precision)
        (own,) = pipeline.generate(items(pipeline, 1), seed=1)
        results[precision] = own[0]
        states = [state for _, state in pipeline.trajectory(items(pipeline, 1)[0], seed=1)]
        assert {state.dtype for state in states} == {torch.float32}
    gap = (results["fp32"] - results["bf16"]).norm() / results["fp32"].norm()
    assert 0 < float(gap) < 0.05


def test_what_only_training_needs_is_not_held(build: Build, save_random: Save) -> None:
    assembly = build("variational", "encoding={name: cross, weight: 0.1}")
    checkpoint, made = save_random(assembly)
    assert made.encoding_loss is not None
    assert any(name.startswith("encoding_loss.") for name in checkpoint.weights())
    assert load_bridge(assembly, checkpoint).encoding_loss is None


def spans_of(folder: Path) -> list[tuple[int, int]]:
    """Addresses at which files of a folder are mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if str(folder) in line]
    return [(int(low, 16), int(high, 16)) for low, high in spans]


def test_weights_stay_in_their_file_until_they_are_used(build: Build, save_random: Save) -> None:
    checkpoint, _ = save_random(build("variational"))
    bridge = load_bridge(build("variational"), checkpoint)
    spans = spans_of(checkpoint.folder)
    addresses = [parameter.data_ptr() for parameter in bridge.parameters()]
    assert addresses
    assert all(any(low <= address < high for low, high in spans) for address in addresses)


def test_a_file_whose_number_type_is_not_wanted_is_let_go(build: Build, save_random: Save) -> None:
    checkpoint, _ = save_random(build("noisy"), low=True)
    bridge = load_bridge(build("noisy"), checkpoint)
    assert next(bridge.parameters()).dtype == torch.float32
    assert spans_of(checkpoint.folder) == []


def test_weights_that_do_not_fit_are_refused(build: Build, save_random: Save) -> None:
    checkpoint, _ = save_random(build("variational"))
    with pytest.raises(BridgeflowError, match="do not fit the recipe beside them"):
        load_bridge(build("deterministic"), checkpoint)


def test_open_takes_a_precision_and_low_memory(home: Path) -> None:
    run = home / "runs/t2i-blocks-01"
    usual, lean, low = (
        Pipeline.open(run, "cpu"),
        Pipeline.open(run, "cpu", None, True),
        Pipeline.open(run, "cpu", "bf16"),
    )
    assert usual.bridge.network.head.weight.dtype == torch.float32  # type: ignore[union-attr]
    assert low.bridge.network.head.weight.dtype == torch.bfloat16  # type: ignore[union-attr]
    words = [usual.assembly.source.read(text) for text in ("a red cube", "a cone", "a small blue sphere")]
    for one, other in zip(usual.generate(words, 2), lean.generate(words, 2), strict=True):
        assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert lean.stages._bridge is None


# -- what is told ----------------------------------------------------------------------------------------


def told(
    pipeline_of: Make, method: str, steps: int, count: int, low_memory: bool = False
) -> list[tuple[int, int, str]]:
    heard: list[tuple[int, int, str]] = []
    options = [f"sampling.solver.name={method}", f"sampling.solver.steps={steps}", "sampling.batch_size=1"]
    pipeline = pipeline_of("direct", *options, low_memory=low_memory, watch=lambda *call: heard.append(call))
    pipeline.generate(items(pipeline, count))
    return heard


def test_every_evaluation_is_told_between_encoding_and_decoding(pipeline_of: Make) -> None:
    one = [(done, 6, "step") for done in (0, 1, 2, 3)]
    two = [(done, 6, "step") for done in (3, 4, 5, 6)]
    assert told(pipeline_of, "euler", 3, 2) == [
        (0, 2, "encoding toy"), *one, (0, 2, "decoding"),
        (1, 2, "encoding toy"), *two, (1, 2, "decoding"),
    ]  # fmt: skip
    assert told(pipeline_of, "ab2", 3, 2, low_memory=True) == [
        (0, 2, "encoding toy"), (1, 2, "encoding toy"), *one, *two, (0, 2, "decoding"), (1, 2, "decoding"),
    ]  # fmt: skip


def test_a_step_of_two_evaluations_is_told_twice(pipeline_of: Make) -> None:
    heard = [call for call in told(pipeline_of, "heun", 2, 1) if call[2] == "evaluation"]
    assert heard == [(done, 4, "evaluation") for done in range(5)]


def test_a_solver_that_chooses_its_steps_tells_how_far_it_is(pipeline_of: Make) -> None:
    heard = [call for call in told(pipeline_of, "dopri5", 5, 2) if call[2] == "flow, per cent"]
    assert all(total == 200 for _, total, _ in heard)
    assert [done for done, _, _ in heard][-1] == 200
    assert {done for done, _, _ in heard} >= {0, 100}


def test_loading_tells_its_size(home: Path) -> None:
    heard: list[Call] = []
    Pipeline.open(home / "runs/t2i-blocks-01", "cpu", watch=lambda *call: heard.append(call))
    ((done, total, what),) = heard
    assert (done, total) == (0, 0)
    assert what.startswith("loading the network (0.")
    assert what.endswith(" MB)")
