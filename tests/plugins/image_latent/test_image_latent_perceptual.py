"""LPIPS, FID and the CLIP score by weights that are named, against independent computations on random networks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional as F

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.image_latent import perceptual
from bridgeflow_plugins.image_latent.perceptual import clip_scores, fid, load_judges, lpips

# Where LPIPS looks (Zhang et al. 2018): the outputs of these ReLUs among torchvision's features.
LAYERS = {"alexnet": (1, 4, 7, 9, 11), "vgg16": (3, 8, 15, 22, 29), "squeezenet1_1": (1, 4, 7, 9, 10, 11, 12)}
SHORT = {"alexnet": "alex", "vgg16": "vgg", "squeezenet1_1": "squeeze"}


def pictures(count: int, seed: int, size: int = 64) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]


def by_hand(name: str, network: torch.nn.Module, a: np.ndarray, b: np.ndarray) -> float:
    """Equation 1 of arXiv 1801.03924, with the linear layers of version 0.1."""
    from torchmetrics.functional.image import lpips as module

    heads = torch.load(Path(module.__file__).parent / "lpips_models" / f"{SHORT[name]}.pth", "cpu", weights_only=True)
    shift, scale = (torch.tensor(own)[:, None, None] for own in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    levels: list[list[Tensor]] = []
    for picture in (a, b):
        x = ((torch.from_numpy(picture.copy()).permute(2, 0, 1) / 127.5 - 1 - shift) / scale)[None]
        found = []
        for index, layer in enumerate(network.features):
            x = layer(x)
            if index in LAYERS[name]:
                found.append(x / x.square().sum(1, keepdim=True).add(1e-8).sqrt())
        levels.append(found)
    total = 0.0
    for index, (own, other) in enumerate(zip(*levels, strict=True)):
        weights = heads[f"lin{index}.model.1.weight"]
        total += float(((own - other).square() * weights).sum(1).mean())
    return total


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_lpips_is_the_papers_on_the_weights_given(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(weights=None).eval()
    place = tmp_path / "weights.pth"
    torch.save(network.state_dict(), place)
    own, truths = pictures(2, 0), pictures(2, 1)
    found = lpips([*own, truths[0]], [*truths, truths[0]], str(place))
    expected = [by_hand(name, network, a, b) for a, b in zip(own, truths, strict=True)]
    assert found[:2] == pytest.approx(expected, rel=1e-4)
    assert found[2] == pytest.approx(0, abs=1e-6)
    assert min(expected) > 1e-3


def test_other_files_are_no_weights(tmp_path: Path) -> None:
    one = pictures(1, 0)
    with pytest.raises(BridgeflowError, match=r"there is no file of weights '.*absent\.pth'"):
        lpips(one, one, str(tmp_path / "absent.pth"))
    words = tmp_path / "words.pth"
    words.write_text("no weights")
    with pytest.raises(BridgeflowError, match="holds no weights that can be read"):
        lpips(one, one, str(words))
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(3, 3)}, other)
    with pytest.raises(BridgeflowError, match="none of the networks of LPIPS: give torchvision's weights"):
        lpips(one, one, str(other))
    harm = tmp_path / "harm.pth"
    torch.save({"a": Path.cwd}, harm)
    with pytest.raises(BridgeflowError, match="holds no weights that can be read"):
        fid(one * 300, one * 300, str(harm))


@torch.no_grad()
def test_fid_is_the_formula_on_the_features_of_inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    monkeypatch.setattr(perceptual, "FEWEST", 4)
    torch.manual_seed(0)
    place, empty = tmp_path / "inception.pth", tmp_path / "empty.pth"
    torch.save({}, empty)
    with monkeypatch.context() as patched:
        patched.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("inception", ["2048"], str(empty))
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            # As they are made, the features are of the order of 1e-8, and so would be every difference.
            torch.nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), place)
    own, truths = pictures(5, 0, 32), [*pictures(3, 1, 32), *pictures(2, 2, 40)]
    found, notes = fid(own, truths, str(place))
    features = [
        torch.cat([network(torch.from_numpy(p.copy()).permute(2, 0, 1)[None])[0] for p in group]).double().numpy()
        for group in (truths, own)
    ]
    (mean_a, mean_b), (off_a, off_b) = (
        [f(x) for x in features] for f in (lambda x: x.mean(0), lambda x: x - x.mean(0))
    )
    # Off their mean the pictures are X and Y, their covariances X'X / (n - 1) and Y'Y / (n - 1), and the eigenvalues of
    # the product of these the squares of the singular values of XY' / (n - 1), of which there are n and not 2048.
    root = np.linalg.svd(off_a @ off_b.T, compute_uv=False).sum() / 4
    spread = sum(np.square(off).sum() for off in (off_a, off_b)) / 4
    expected = float(((mean_a - mean_b) ** 2).sum() + spread - 2 * root)
    assert found["fid"] == pytest.approx(expected, rel=1e-4)
    assert notes == ["fid of 5 pictures is biased upwards, as it is below some 10,000: compare it with one of as many."]
    # Neither the pictures before nor the file are needed again.
    place.unlink()
    monkeypatch.setattr(perceptual, "MANY", 5)
    assert fid(own, truths, str(place)) == ({"fid": pytest.approx(found["fid"], rel=1e-6)}, [])
    assert fid(own[:3], truths[:3], str(place)) == ({}, ["FID needs 4 examples to say something: raise --count."])
    with pytest.raises(BridgeflowError, match="no Inception network as torch-fidelity has it"):
        fid(own, truths, str(empty))


def save_clip(folder: Path) -> transformers.CLIPModel:
    words = ["<pad>", "<unk>", "<s>", "</s>", "a", "red", "blue", "cube"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends: Any = [("<s>", 2), ("</s>", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {
        **sizes,
        "vocab_size": len(words),
        "max_position_embeddings": 8,
        "eos_token_id": 3,
        "bos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {**sizes, "image_size": 16, "patch_size": 4}
    torch.manual_seed(0)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    ).eval()
    model.save_pretrained(folder)
    side = {"height": 16, "width": 16}
    image = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=side)
    transformers.CLIPProcessor(image_processor=image, tokenizer=fast).save_pretrained(folder)
    return model


@torch.no_grad()
def test_the_clip_score_is_the_cosine_of_both_projections(tmp_path: Path) -> None:
    model = save_clip(tmp_path)
    own = pictures(3, 0, 16)
    captions = ["a red cube", "blue", "a red cube " * 6]
    found = clip_scores(own, captions, str(tmp_path))
    numbers = {"a": 4, "red": 5, "blue": 6, "cube": 7}
    mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    for picture, caption, score in zip(own, captions, found, strict=True):
        pixels = (torch.from_numpy(picture / 255).float() - torch.tensor(mean)) / torch.tensor(std)
        tokens = torch.tensor([[2, *[numbers[word] for word in caption.split()][:6], 3]])
        seen = model.visual_projection(model.vision_model(pixels.permute(2, 0, 1)[None]).pooler_output)
        said = model.text_projection(model.text_model(tokens).pooler_output)
        assert score == pytest.approx(100 * float(F.cosine_similarity(seen, said)), abs=0.05)


def test_judges_are_loaded_before_there_is_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other, absent, empty = tmp_path / "other.pth", str(tmp_path / "absent.pth"), tmp_path / "empty"
    torch.save({"features.0.weight": torch.zeros(3, 3)}, other)
    empty.mkdir()
    for weights, told in (
        ({"lpips": absent}, "there is no file of weights"),
        ({"lpips": str(other)}, "holds none of the networks of LPIPS"),
        ({"inception": absent}, "there is no file of weights"),
        ({"inception": str(other)}, "no Inception network as torch-fidelity has it"),
        ({"clip": str(empty)}, "a CLIP cannot be loaded from"),
    ):
        with pytest.raises(BridgeflowError, match=told):
            load_judges(weights)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BridgeflowError, match=r"FID needs torch-fidelity: pip install 'bridgeflow-torch\[fid\]'"):
        load_judges({"inception": str(other)})
    load_judges({"somebody's own": absent})


def test_loaded_judges_stay(tmp_path: Path) -> None:
    folder, place = tmp_path / "clip", tmp_path / "squeeze.pth"
    save_clip(folder)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), place)
    load_judges({"clip": str(folder), "lpips": str(place)})
    place.unlink()
    shutil.rmtree(folder)
    assert lpips(pictures(1, 0), pictures(1, 1), str(place))[0] > 0
    assert -100 <= clip_scores(pictures(1, 0, 16), ["a red cube"], str(folder))[0] <= 100


def test_what_is_no_clip_is_told(tmp_path: Path) -> None:
    with pytest.raises(BridgeflowError, match="a CLIP cannot be loaded from"):
        clip_scores(pictures(1, 0), ["a"], str(tmp_path))
