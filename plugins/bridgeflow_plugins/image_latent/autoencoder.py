"""diffusers' AutoencoderKL and AutoencoderTiny as codecs, pretrained or fitted to the data."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Progress
from bridgeflow.settings import Settings
from bridgeflow_plugins.image_latent.codecs import Codec, pixels_of_levels
from bridgeflow_plugins.image_latent.fitting import minimise, reconstruction
from bridgeflow_plugins.image_latent.pretrained import load_autoencoder, weights_digest


class AutoencoderSettings(Settings):
    """What both autoencoders share. With a `path`, only that, `factor` and `scale` matter, and with a `factor`
    `latent_channels` too."""

    path: str | None = None
    """Folder as diffusers saves it, of the model or of a pipeline (its `vae`), or a name on the Hugging Face Hub; none
    means one fitted to the data."""
    factor: PositiveInt | None = None
    """Pixels per position of a pretrained model's latent, along each side (8 for Stable Diffusion's). Given, this and
    `latent_channels` tell the latent's shape, so that the model is read only when it is first needed; one of another
    shape is refused then. None: the model is read at once."""
    scale: float | None = Field(None, gt=0)
    """Factor on the latent; none means the pretrained model's own, or what makes the variance 1."""
    latent_channels: PositiveInt = 4
    """Channels of the latent."""
    steps: PositiveInt = 1000
    """Optimiser steps of fitting."""
    batch_size: PositiveInt = 16
    """Pictures in a step of fitting."""
    learning_rate: float = Field(1e-3, gt=0)
    """First learning rate of Adam; it falls to zero along a cosine."""
    seed: int = 0
    """Seed of the first weights, of the order of the pictures and of the latent's noise in fitting."""

    @model_validator(mode="after")
    def _factor_is_of_a_pretrained_model(self) -> Self:
        if self.factor is not None and self.path is None:
            raise ValueError("factor tells of a pretrained model: give its path too, or leave factor out")
        return self


class KLSettings(AutoencoderSettings):
    """diffusers' AutoencoderKL: the latent has a mean and a standard deviation."""

    name: Literal["kl"] = "kl"
    channels: tuple[PositiveInt, ...] = Field((16, 32, 64), min_length=1)
    """Width of each stage; each stage but the first halves both sides."""
    kl_weight: float = Field(1e-4, ge=0)
    """Weight of the Kullback-Leibler divergence from a unit Gaussian, a mean over the latent's numbers."""

    def build(self) -> KLCodec:
        """The codec, with its pretrained weights, or to be fitted."""
        return KLCodec(self)


class TinySettings(AutoencoderSettings):
    """diffusers' AutoencoderTiny: small and quick; the latent has a mean only."""

    name: Literal["tiny"] = "tiny"
    width: PositiveInt = 32
    """Channels of every stage."""
    stages: PositiveInt = 3
    """Stages; each but the first halves both sides."""

    def build(self) -> TinyCodec:
        """The codec, with its pretrained weights, or to be fitted."""
        return TinyCodec(self)


class AutoencoderCodec(Codec):
    """An autoencoder of diffusers; its latent z becomes (z - shift) * scale."""

    model_class: ClassVar[str]
    round_trip = 0.5
    shift: Tensor

    def __init__(self, settings: AutoencoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.scale = settings.scale or 1.0
        self.model: Any = None
        self._digest = ""
        self._fitted = settings.path is not None
        if settings.path is not None and settings.factor is not None:
            self.channels, self.multiple = settings.latent_channels, settings.factor
        else:
            self.model = self._first_model()
            self.channels, self.multiple = self._shape(self.model.config)
        self.register_buffer("shift", torch.zeros(self.channels, 1, 1))
        if settings.path is not None and self.model is not None:
            self._take_constants(self.model.config)

    def _first_model(self) -> Any:
        if self.settings.path is not None:
            return load_autoencoder(self.model_class, self.settings.path)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.settings.seed)
            return self._new_model().requires_grad_(False).eval()

    @abstractmethod
    def _new_model(self) -> Any:
        """The untrained model of the settings."""

    @abstractmethod
    def _stages(self, config: Mapping[str, Any]) -> int:
        """Stages of a model of this configuration; each but the first halves both sides."""

    @abstractmethod
    def _posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation of the model's own latent."""

    @abstractmethod
    def _loss(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """What fitting minimises."""

    def _shape(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Channels of the latent, and pixels along each side that one position of it stands for."""
        return int(config["latent_channels"]), 2 ** (self._stages(config) - 1)

    def _take_constants(self, config: Mapping[str, Any]) -> None:
        """Scale and shift of a pretrained model."""
        self.scale = self.settings.scale or float(config.get("scaling_factor") or 1.0)
        self.shift.fill_(float(config.get("shift_factor") or 0.0))

    def _loaded(self) -> Any:
        """The model, read from `path` where it is not here, onto the device where the codec lies."""
        if self.model is None and self.settings.path is not None:
            model = load_autoencoder(self.model_class, self.settings.path)
            channels, multiple = self._shape(model.config)
            if (channels, multiple) != (self.channels, self.multiple):
                raise BridgeflowError(
                    f"codec.path: {self.settings.path!r} has {channels} latent channels and {multiple} pixels per "
                    f"position, where {self.channels} and {self.multiple} were declared: set "
                    f"codec.latent_channels={channels} and codec.factor={multiple}, or choose the model that was meant."
                )
            self._take_constants(model.config)
            self.model = model.to(self.shift.device)
        return self.model

    def unload(self) -> None:
        """Drops a pretrained model; it is read again when it is next needed. One fitted here stays."""
        if self.settings.path is not None:
            self.model = None

    @property
    def needs_fit(self) -> bool:
        """True without pretrained weights, until `fit` or `restore`."""
        return not self._fitted

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and, from a KL model, standard deviation of the scaled latent."""
        self._require_fit()
        mean, std = self._posterior(pixels)
        return (mean - self.shift) * self.scale, None if std is None else std * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) of a scaled latent."""
        self._require_fit()
        # Scale and shift are the model's own, so it comes first.
        model = self._loaded()
        return model.decode(latent / self.scale + self.shift).sample

    def fit(self, levels: Tensor, progress: Progress | None = None) -> dict[str, float]:
        """Trains the model on pictures, uint8 (N, 3, H, W), then measures shift and scale.

        Returns `loss`, the mean over the last tenth of the steps.
        """
        if self.settings.path is not None:
            raise BridgeflowError(f"the autoencoder {self.settings.path!r} is pretrained: leave path out to fit one.")
        noise = torch.Generator(self.shift.device).manual_seed(self.settings.seed)

        def loss_of(pixels: Tensor) -> Tensor:
            return self._loss(pixels, noise)

        loss = minimise(self.model, loss_of, levels, self.settings, self.shift.device, progress)
        self._measure(levels[:512])
        self._fitted = True
        return {"loss": loss}

    @torch.no_grad()
    def _measure(self, levels: Tensor) -> None:
        """Shift per channel and one scale, for a latent of zero mean and unit variance on these pictures."""
        chunks = levels.split(self.settings.batch_size)
        latents = torch.cat([self._posterior(pixels_of_levels(c).to(self.shift.device))[0] for c in chunks])
        self.shift.copy_(latents.mean((0, 2, 3))[:, None, None])
        self.scale = self.settings.scale or 1.0 / max(float((latents - self.shift).square().mean().sqrt()), 1e-6)

    def fitted_state(self) -> dict[str, Tensor]:
        """Weights and shift of a model fitted here; empty for a pretrained one."""
        if self.settings.path is not None or not self._fitted:
            return {}
        return {"shift": self.shift, **{f"model.{name}": t for name, t in self.model.state_dict().items()}}

    def fitted_facts(self) -> dict[str, Any]:
        """The scale of a model fitted here; empty for a pretrained one."""
        return {"scale": self.scale} if self.settings.path is None and self._fitted else {}

    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Takes the state and facts of another codec with the same settings."""
        if self.settings.path is not None:
            return super().restore(state, facts)
        own = {"shift": self.shift, **{f"model.{name}": t for name, t in self.model.state_dict().items()}}
        if "scale" not in facts or {k: t.shape for k, t in state.items()} != {k: t.shape for k, t in own.items()}:
            raise BridgeflowError(
                "the autoencoder to restore has other layers than the settings say: use those it had then."
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self.scale = float(facts["scale"])
        self._fitted = True
        return None

    def weights_digest(self) -> str:
        """A digest of configuration and weights of a pretrained model, read for it; empty for one fitted here."""
        if self.settings.path is not None and not self._digest:
            self._digest = weights_digest(self._loaded())
        return self._digest

    def _require_fit(self) -> None:
        if not self._fitted:
            raise BridgeflowError("the image autoencoder has not been fitted to data yet: call fit or restore first.")


class KLCodec(AutoencoderCodec):
    """AutoencoderKL (Kingma and Welling 2013; Rombach et al. 2022, section 3.1)."""

    model_class = "AutoencoderKL"
    settings: KLSettings

    def _new_model(self) -> Any:
        from diffusers import AutoencoderKL

        stages = len(self.settings.channels)
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * stages,
            up_block_types=("UpDecoderBlock2D",) * stages,
            block_out_channels=self.settings.channels,
            latent_channels=self.settings.latent_channels,
            norm_num_groups=math.gcd(8, *self.settings.channels),
            # Attention over the whole picture would bind the model to small sizes.
            mid_block_add_attention=False,
        )

    def _stages(self, config: Mapping[str, Any]) -> int:
        return len(config["block_out_channels"])

    def _posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self._loaded().encode(pixels).latent_dist
        return posterior.mean, posterior.std

    def _loss(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        mean, std = self._posterior(pixels)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        divergence = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
        return reconstruction(self.model.decode(mean + std * noise).sample, pixels) + (
            self.settings.kl_weight * divergence
        )


class TinyCodec(AutoencoderCodec):
    """AutoencoderTiny, the small deterministic autoencoder of diffusers."""

    model_class = "AutoencoderTiny"
    settings: TinySettings

    def _new_model(self) -> Any:
        from diffusers import AutoencoderTiny

        blocks = (1,) + (2,) * (self.settings.stages - 1)
        return AutoencoderTiny(
            encoder_block_out_channels=(self.settings.width,) * self.settings.stages,
            decoder_block_out_channels=(self.settings.width,) * self.settings.stages,
            num_encoder_blocks=blocks,
            num_decoder_blocks=blocks[::-1],
            latent_channels=self.settings.latent_channels,
        )

    def _stages(self, config: Mapping[str, Any]) -> int:
        return len(config["encoder_block_out_channels"])

    def _posterior(self, pixels: Tensor) -> tuple[Tensor, None]:
        return self._loaded().encode(pixels).latents, None

    def _loss(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return reconstruction(self.model.decode(self._posterior(pixels)[0]).sample, pixels)
