"""Loading diffusers' autoencoders from a folder or from the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from bridgeflow.errors import BridgeflowError

WANTED = "give a folder with config.json and diffusion_pytorch_model.safetensors, or a name on the Hub"


def load_autoencoder(model_class: str, path: str) -> Any:
    """The frozen float32 model of class `model_class` of diffusers, on the CPU; safetensors only.

    path: a folder that diffusers saved, a pipeline's folder with `vae` in it, or a name on the Hub. Leaves the global
    random state as it was. Raises BridgeflowError where nothing of the kind can be loaded.
    """
    import diffusers

    folder = Path(path).expanduser()
    local = folder.is_dir()
    if not local and (folder.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1):
        raise BridgeflowError(f"codec.path: there is no folder {path!r}: {WANTED}.")
    if not (folder / "config.json").is_file() and (folder / "vae" / "config.json").is_file():
        folder = folder / "vae"
    cls = getattr(diffusers, model_class)
    where = str(folder) if local else path
    try:
        config = cls.load_config(where, local_files_only=local)
        if config.get("_class_name", model_class) != model_class:
            raise BridgeflowError(
                f"codec.path: {path!r} holds an {config['_class_name']} where {model_class} was expected: "
                "choose the codec that fits it."
            )
        model, report = cls.from_pretrained(
            where, local_files_only=local, use_safetensors=True, output_loading_info=True
        )
    except BridgeflowError:
        raise
    # The Hub's client, safetensors and diffusers raise errors of many kinds; all mean: not to be loaded.
    except Exception as error:
        place = (
            f"the folder {path!r} holds none that can be read"
            if local
            else f"{path!r} is no folder, and the Hub cannot be reached or has no model of that name"
        )
        raise BridgeflowError(f"codec.path: no {model_class} was loaded, since {place}: {WANTED}.") from error
    if report["missing_keys"]:
        raise BridgeflowError(
            f"codec.path: the weights in {path!r} lack tensors of an {model_class}, such as "
            f"{sorted(report['missing_keys'])[0]!r}: save or download the model again."
        )
    if model.config.in_channels != 3 or model.config.out_channels != 3:
        raise BridgeflowError(f"codec.path: {path!r} is not a model of RGB pictures: {WANTED}.")
    return model.requires_grad_(False).eval()


def weights_digest(model: Any) -> str:
    """SHA-256 of a model's configuration and weights, in hexadecimal."""
    digest = hashlib.sha256()
    public = {name: value for name, value in model.config.items() if not name.startswith("_")}
    digest.update(json.dumps(public, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
