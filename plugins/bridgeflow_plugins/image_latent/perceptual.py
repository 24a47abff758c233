"""Figures on the features of networks whose weights the user names: LPIPS, FID and the CLIP score.

None of these weights comes with a package, so `bridgeflow eval --weights NAME=PLACE` says where they lie.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.image_latent.distances import FEWEST
from bridgeflow_plugins.image_latent.pixels import Pixels, to_tensor

BATCH = 16
MANY = 10_000
"""Pictures that the authors of FID ask for at least; with fewer it is biased upwards."""
BACKBONES = ("alex", "vgg", "squeeze")
LPIPS = "lpips: the LPIPS of each pair, by the weights of torchvision's AlexNet, VGG-16 or SqueezeNet 1.1"
INCEPTION = "fid: the FID, by the Inception weights of torch-fidelity (needs pip install 'bridgeflow-torch[fid]')"
CLIP = "clip_score: 100 times the cosine of picture and words, by a CLIP that transformers loads"


def load_judges(weights: Mapping[str, str]) -> None:
    """Loads the networks of `weights`, name (lpips, inception or clip) to place, so that a place that does not suit is
    told before anything is sampled. The figures find them loaded; each stays until another of its kind takes its
    place. Other names are skipped.

    Raises BridgeflowError as the figures do.
    """
    loaders: dict[str, Callable[[str], object]] = {"lpips": _lpips_network, "inception": _inception, "clip": _clip}
    for name, place in weights.items():
        if name in loaders:
            loaders[name](place)


@torch.no_grad()
def lpips(results: Sequence[Pixels], truths: Sequence[Pixels], place: str) -> list[float]:
    """The learned perceptual distance of each pair of pictures, lower is closer (Zhang et al., arXiv 1801.03924,
    version 0.1). `place`: a state dict of torchvision, which tells the network.

    Raises BridgeflowError where there is no such file or it is none of the three networks.
    """
    network = _lpips_network(place)
    found = [network(to_tensor([own]), to_tensor([true])) for own, true in zip(results, truths, strict=True)]
    return [float(value) for value in found]


@lru_cache(maxsize=1)
def _lpips_network(place: str) -> nn.Module:
    from torchmetrics.functional.image.lpips import _LPIPS

    given = _state_of(place)
    for name in BACKBONES:
        # The linear layers come with torchmetrics; the network below them is the user's.
        network = _LPIPS(pretrained=True, net=name, pnet_rand=True, eval_mode=True)  # type: ignore[arg-type]
        wanted = network.net.state_dict()
        named = {key: given.get(re.sub(r"^slices?\.?\d\.", "features.", key)) for key in wanted}
        if all(own is not None and own.shape == wanted[key].shape for key, own in named.items()):
            network.net.load_state_dict({key: own for key, own in named.items() if own is not None})
            return network.eval().requires_grad_(False)
    raise BridgeflowError(
        f"{place!r} holds none of the networks of LPIPS: give torchvision's weights of AlexNet, VGG-16 or SqueezeNet "
        "1.1, such as alexnet-owt-7be5be79.pth."
    )


@torch.no_grad()
def fid(results: Sequence[Pixels], truths: Sequence[Pixels], place: str) -> tuple[dict[str, float], list[str]]:
    """(`fid` between two sets of pictures, notes), by torchmetrics on torch-fidelity's Inception (Heusel et al., arXiv
    1706.08500). `place`: the weights that torch-fidelity publishes. The notes say what is left out, and that an FID of
    fewer than MANY pictures is biased.

    Raises BridgeflowError where the file or torch-fidelity is not there, or the weights do not fit.
    """
    count = min(len(results), len(truths))
    if count < FEWEST:
        return {}, [f"FID needs {FEWEST} examples to say something: raise --count."]
    metric = _inception(place)
    # It still holds the pictures of the FID before.
    metric.reset()
    for pictures, real in ((truths, True), (results, False)):
        for start in range(0, len(pictures), BATCH):
            for same in _of_one_size(pictures[start : start + BATCH]):
                metric.update(torch.from_numpy(np.stack(same)).permute(0, 3, 1, 2), real=real)
    found = {"fid": float(metric.compute())}
    if count >= MANY:
        return found, []
    return found, [
        f"fid of {count:,} pictures is biased upwards, as it is below some {MANY:,}: compare it with one of as many."
    ]


@lru_cache(maxsize=1)
def _inception(place: str) -> Any:
    """A metric of torchmetrics with the Inception of a file in it; to be reset before it is used."""
    if util.find_spec("torch_fidelity") is None:
        raise BridgeflowError("FID needs torch-fidelity: pip install 'bridgeflow-torch[fid]'.")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchmetrics.image.fid import FrechetInceptionDistance

    # torch-fidelity would unpickle whatever the file says; what loads here holds tensors alone.
    _state_of(place)
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=place)
    except (RuntimeError, KeyError) as error:
        raise BridgeflowError(
            f"{place!r} holds no Inception network as torch-fidelity has it: give its file "
            "weights-inception-2015-12-05-6726825d.pth."
        ) from error
    # The network itself and not torchmetrics' copy, which makes pictures larger in a way that published FIDs do not.
    return FrechetInceptionDistance(feature=_Features(network))


class _Features(nn.Module):
    """The features of pictures, uint8 (B, 3, H, W), as torchmetrics asks a network for them."""

    num_features = 2048

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 2048)"""
        features: Tensor = self.network(pictures)[0]
        return features


def _of_one_size(pictures: Sequence[Pixels]) -> Iterator[list[Pixels]]:
    for shape in dict.fromkeys(own.shape for own in pictures):
        yield [own for own in pictures if own.shape == shape]


@torch.no_grad()
def clip_scores(pictures: Sequence[Pixels], captions: Sequence[str], place: str) -> list[float]:
    """100 times the cosine between each picture and its caption as it stands, in [-100, 100], as torchmetrics counts
    its CLIPScore. That of Hessel et al. (arXiv 2104.08718) is 2.5 max(cosine, 0), with "A photo depicts" before the
    caption, and not this. `place`: a folder of transformers with a CLIP and its processor, or a name on the hub.

    Raises BridgeflowError where no CLIP is there.
    """
    model, processor = _clip(place)
    found: list[float] = []
    longest = model.config.text_config.max_position_embeddings
    for start in range(0, len(pictures), BATCH):
        rows = slice(start, start + BATCH)
        inputs = processor(
            text=list(captions[rows]),
            images=list(pictures[rows]),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=longest,
        )
        given = model(**inputs)
        own, words = (nn.functional.normalize(part, dim=-1) for part in (given.image_embeds, given.text_embeds))
        found += (100 * (own * words).sum(-1)).tolist()
    return found


@lru_cache(maxsize=1)
def _clip(place: str) -> tuple[Any, Any]:
    """(model, processor) of a folder or of a name on the hub."""
    with _telling(f"a CLIP cannot be loaded from {place!r}"):
        from transformers import AutoProcessor, CLIPModel

        local = Path(place).expanduser().is_dir()
        where = str(Path(place).expanduser()) if local else place
        model = CLIPModel.from_pretrained(where, local_files_only=local).eval()
        processor: Any = AutoProcessor.from_pretrained(where, local_files_only=local)
    return model, processor


def _state_of(place: str) -> dict[str, Tensor]:
    """The tensors of a file of weights."""
    file = Path(place).expanduser()
    if not file.is_file():
        raise BridgeflowError(f"there is no file of weights {place!r}: give one that holds a state dict of torch.")
    with _telling(f"{place!r} holds no weights that can be read"):
        given = torch.load(file, map_location="cpu", weights_only=True)
        return {str(name): own for name, own in dict(given).items() if isinstance(own, Tensor)}


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Turns whatever goes wrong with somebody's file into a sentence."""
    try:
        yield
    except BridgeflowError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BridgeflowError(f"{what} ({reason}): give another.") from error
