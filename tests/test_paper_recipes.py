"""The paper's recipes: their sizes and batches are the paper's, they dry-run anywhere, and small copies train."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bridgeflow.assembly import assemble
from bridgeflow.bridge import Bridge
from bridgeflow.cli.main import invoke
from bridgeflow.config import recipe as recipes
from bridgeflow.runtime.console import Progress
from bridgeflow.training import dry_run
from bridgeflow.training.initial import OPTIONAL
from bridgeflow.training.start import train
from bridgeflow_plugins.crossflow.layout import PUBLISHED
from bridgeflow_plugins.crossflow.recipe import recipe_tree
from bridgeflow_plugins.text import TextOptions

pytestmark = pytest.mark.slow

PROCESSES = 8
DOCS = Path(__file__).parents[1] / "docs" / "recipes.md"


@dataclass(frozen=True)
class Paper:
    """parameters: of the velocity network; `exact` where the paper's number is known to the last one."""

    parameters: float
    batch: int
    pairs: float
    exact: bool = False


COCO, KITTI, NYU = 113_287, 23_488, 24_231

PAPER = {
    "t2i/crossflow-256": Paper(950_778_890, 1024, 600_000 * 1024, exact=True),
    "t2i/crossflow-256-t5": Paper(950_778_890, 1024, 600_000 * 1024, exact=True),
    "t2i/crossflow-512": Paper(985_439_246, 1024, 240_000 * 1024, exact=True),
    # FlowTok's XL, 698M, of which the projector from the words has 19M; trained as CrossFlow is.
    "t2i/flowtok-256": Paper(679e6, 1024, 600_000 * 1024),
    "caption/coco-karpathy": Paper(351e6, 256, 100 * COCO),
    "caption/flowtok-256": Paper(679e6, 256, 100 * COCO),
    "depth/kitti": Paper(527e6, 64, 50 * KITTI),
    "depth/nyuv2": Paper(527e6, 64, 50 * NYU),
    "depth/zero-shot": Paper(527e6, 512, 150_000 * 512),
    "superres/imagenet-64-256": Paper(505e6, 512, 1_000_000 * 512),
}

WORDS = ["a", "small", "large", "red", "blue", "cube", "cone"]

TRAINING = [
    "data.held_out=0.25", "training.steps=2", "training.batch_size=2", "training.accumulation=2",
    "training.precision=fp32", "training.workers=0", "training.samples=1", "training.schedule.warmup=1",
    "sampling.solver.steps=2",
]  # fmt: skip
ENCODER = ["source_encoder.depth=1", "source_encoder.heads=2"]
TOWER = [f"encoding.tower.{key}" for key in ("width=32", "heads=2", "depth=1")]


def stages(*patches: int) -> list[str]:
    """A DiMR of the same stages, narrow and short."""
    first = f"{{kind: transformer, width: 32, hidden: 32, heads: 2, blocks: 3, patch: {patches[0]}}}"
    others = [f"{{kind: convnext, width: 16, hidden: 16, blocks: 3, patch: {patch}}}" for patch in patches[1:]]
    return [f"network.stages=[{', '.join([first, *others])}]"]


TEXT = [*TOWER, *ENCODER, "source_encoder.hidden=32", "source_encoder.narrowings=2", "target.size=64"]
DEPTH = [
    *TOWER, *ENCODER, *stages(2, 1), "source_encoder.width=32", "source.size=[32,64]", "target.size=[32,64]",
]  # fmt: skip

TOKENS = ["count=8", "latent_channels=4", "width=16", "depth=1", "heads=2", "steps=2", "batch_size=4"]
SMALL_DIT = [*ENCODER, "source_encoder.width=32", "network.width=32", "network.depth=1", "network.heads=2"]

SHRUNKEN = {
    "t2i/flowtok-256": [
        *TOWER, *SMALL_DIT, *(f"target.codec.{key}" for key in TOKENS), "target.size=64", "source.codec.path=clip",
        "source.codec.width=32",
    ],
    "caption/flowtok-256": [
        *TOWER, *SMALL_DIT, *(f"source.codec.{key}" for key in TOKENS), "source.size=64", "target.codec.length=8",
        "target.codec.channels=8", "target.codec.width=16", "target.codec.layers=1", "target.codec.heads=2",
        "target.codec.steps=3", "target.codec.min_count=1",
    ],
    "t2i/crossflow-256": [*TEXT, *stages(2, 1), "source.codec.path=clip", "source.codec.width=32"],
    "t2i/crossflow-256-t5": [
        *TEXT, *stages(2, 1), "source.codec.path=t5", "source.codec.width=32", "source_encoder.compress=16",
    ],
    "t2i/crossflow-512": [*TEXT, *stages(4, 2, 1), "source.codec.path=clip", "source.codec.width=32"],
    "caption/coco-karpathy": [
        *ENCODER, "source.size=64", "source_encoder.width=32", "network.width=32", "network.depth=1",
        "network.heads=2", "target.codec.length=8", "target.codec.channels=8", "target.codec.width=16",
        "target.codec.layers=1", "target.codec.heads=2", "target.codec.steps=3", "target.codec.min_count=1",
    ],
    "depth/kitti": DEPTH,
    "depth/nyuv2": DEPTH,
    "depth/zero-shot": DEPTH,
    "superres/imagenet-64-256": [*stages(2, 1), "source.size=64", "target.size=64", "options.overlap=2"],
}  # fmt: skip


def test_every_recipe_but_the_small_ones_is_tried_here() -> None:
    small = {
        f"{task}/{name}"
        for task in ("caption", "depth", "superres", "t2i")
        for name in ("blocks", "blocks-full", "folder")
    } | {"recolour/blocks", "recolour/folder", "superres/photos", "t2i/blocks-words"}
    assert set(PAPER) == set(SHRUNKEN) == set(recipes.layers.recipe_names()) - small


@pytest.mark.parametrize("name", list(PAPER))
def test_the_size_the_batch_and_the_length_are_the_papers(name: str) -> None:
    paper, resolved = PAPER[name], recipes.load(name)
    with torch.device("meta"):
        bridge = assemble(resolved).build_bridge()
    count = sum(p.numel() for p in bridge.network.parameters())
    assert count == (paper.parameters if paper.exact else pytest.approx(paper.parameters, rel=0.03))
    training = resolved.training
    batch = training.batch_size * training.accumulation * PROCESSES
    assert batch == paper.batch
    assert batch * training.steps == pytest.approx(paper.pairs, rel=1e-3)


@pytest.mark.parametrize("name", list(PAPER))
def test_the_documented_table_is_that_of_the_recipe(name: str) -> None:
    resolved = recipes.load(name)
    with torch.device("meta"):
        count = sum(p.numel() for p in assemble(resolved).build_bridge().network.parameters())
    kind = {"dimr": "DiMR", "dit": "DiT"}[resolved.network_name]
    row = f"| `{name}` | {kind} {count / 1e6:.1f}M | {PAPER[name].batch} | {resolved.training.steps:,} |"
    assert row in DOCS.read_text(encoding="utf-8")


def test_the_documented_fit_makes_the_codec_that_captions_ask_for() -> None:
    command = DOCS.read_text(encoding="utf-8").partition("bridgeflow fit text")[2].partition("bridgeflow train")[0]
    given = dict(re.findall(r"codec\.(\w+)=(\S+)", command))
    codec = recipes.load("caption/coco-karpathy").target_options.model_dump()["codec"]
    assert {key: float(value) for key, value in given.items()} == {key: codec[key] for key in given}
    usual = TextOptions.model_validate({"codec": {"name": "autoencoder"}}).codec.model_dump()
    assert {key for key in codec if codec[key] != usual[key]} <= set(given)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("t2i/crossflow-256", "256px_clip_dimr"),
        ("t2i/crossflow-256-t5", "256px_t5_dimr"),
        ("t2i/crossflow-512", "512px_clip_dimr"),
    ],
)
def test_published_weights_can_be_the_start(name: str, file: str) -> None:
    with torch.device("meta"):
        ours = assemble(recipes.load(name))
        imported = recipes.resolve(recipe_tree(PUBLISHED[file], "some/encoder", "some/vae", 8), file)
        latents = (ours.source.latent, ours.target.latent)
        start = Bridge(imported.keys, imported.network, *latents).state_dict()
        wanted = ours.build_bridge().state_dict()
    shapes = {key: tensor.shape for key, tensor in wanted.items() if not key.startswith(OPTIONAL)}
    assert shapes == {key: tensor.shape for key, tensor in start.items()}


@pytest.mark.parametrize("name", list(PAPER))
def test_a_dry_run_needs_neither_data_nor_encoders_nor_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "free_memory", lambda device: 4 * 10**9)
    line = ["train", "--task", name.partition("/")[0], "--recipe", name, "--dry-run", "--device", "cpu", "--json"]
    assert invoke(line) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["mode"], facts["fits"]) == ("meta", False)
    assert "'data'" in facts["data"]
    # The network, its gradient, two moments and an average, and no codec.
    assert sum(facts["parameters"].values()) == facts["trainable_parameters"]
    assert float(facts["memory"]["optimiser"].split()[0]) == pytest.approx(
        facts["trainable_parameters"] * 8e-9, abs=0.05
    )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with words and depth under data/, and tiny random encoders under clip/, t5/ and vae/."""
    folder = tmp_path_factory.mktemp("home")
    save_text_encoders(folder)
    from diffusers import AutoencoderKL

    AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=2,
    ).save_pretrained(folder / "vae")
    data, draw, rows = folder / "data", np.random.default_rng(0), []
    data.mkdir()
    for number in range(4):
        Image.fromarray(draw.integers(0, 255, (72, 80, 3), dtype=np.uint8)).save(data / f"{number}.jpg")
        Image.fromarray(draw.integers(1000, 9000, (72, 80), dtype=np.uint16)).save(data / f"{number}-depth.png")
        text = [f"a {WORDS[number + 1]} cube", f"the {WORDS[number + 1]} cone"]
        rows.append({"file_name": f"{number}.jpg", "text": text, "depth_file_name": f"{number}-depth.png"})
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def save_text_encoders(folder: Path) -> None:
    """A CLIP text encoder of 77 positions and a T5, both of width 32, with a tokenizer of a few words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    numbers = {word: number for number, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    clip = transformers.CLIPTextConfig(
        vocab_size=len(numbers), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    t5 = transformers.T5Config(vocab_size=len(numbers), d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2)
    for name, model in (("clip", transformers.CLIPTextModel(clip)), ("t5", transformers.T5EncoderModel(t5))):
        model.save_pretrained(folder / name)
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
        ).save_pretrained(folder / name)


@pytest.mark.parametrize("name", list(SHRUNKEN))
def test_a_small_copy_trains_samples_and_is_scored(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    overrides = [*TRAINING, *SHRUNKEN[name]]
    for side in ("source", "target"):
        if getattr(recipes.load(name), f"{side}_options").model_dump().get("codec", {}).get("name") == "kl":
            overrides.append(f"{side}.codec.path=vae")
    run = train(recipes.load(name, overrides), str(tmp_path / "run"), device="cpu", console=Progress(quiet=True))
    assert run.outcome.step == 2
    assert run.outcome.unreadable == []
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(lines[-1][f"train/{term}"]) for term in terms_of(name))
    assert (run.folder / "samples" / "000002.png").is_file()
    metric = {"caption": "token_f1", "depth": "abs_rel", "superres": "psnr"}.get(name.partition("/")[0])
    if metric is None:
        assert run.report is None
    else:
        assert run.report is not None
        assert np.isfinite(run.report.json()["figures"][metric])


def terms_of(name: str) -> tuple[str, ...]:
    """The losses that the recipe trains with: all of the paper's where the source is learned."""
    return ("flow",) if name.startswith("superres") else ("flow", "encoding", "kl")
