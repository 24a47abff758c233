"""Lines of text: token features of a frozen encoder as a source, a fitted word autoencoder as a target."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field
from torch import Tensor

from bridgeflow.data.files import Words, check_file, is_regular
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Latent, LatentSpec, Modality, Progress
from bridgeflow.sentences import bounded, quoted
from bridgeflow.settings import Settings
from bridgeflow_plugins.text.autoencoder import AutoencoderCodec, TextAutoencoder
from bridgeflow_plugins.text.encoder import EncoderCodec, TextEncoder
from bridgeflow_plugins.text.placing import in_place

MAX_CHARACTERS = 10_000
"""Longest text that is read: what is longer is the wrong file or column, not a line that describes it."""
MAX_BYTES = 1 << 20
"""Most bytes of a text, white space and all, that are looked at."""
PREVIEWED = 1200
"""Characters of a text that a preview has room for."""
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
PREVIEW_SIZE = 256
"""Width and height of a preview in pixels."""
ROUND_TRIP = 0.05
"""Of an autoencoder: texts that come back to the word have the very same latent."""


_COLOURS = ("red", "green", "blue", "yellow", "purple", "grey")
_SHAPES = ("cube", "sphere", "cone", "cylinder")
_RELATIONS = ("behind", "in front of", "left of")


class TextOptions(Settings):
    """Options of the text modality."""

    codec: Annotated[EncoderCodec | AutoencoderCodec, Field(discriminator="name")] = EncoderCodec()
    """How a text becomes a latent: `encoder` (as a source) or `autoencoder` (as a target)."""


class Text(Modality):
    """Text on one line. An item is a non-empty str with single spaces.

    With the codec `encoder`, the latent is a sequence (max_length, hidden size) of token features and a mask;
    with `autoencoder`, a sequence (length, channels) that decodes to words.
    """

    summary = "lines of text: features of a frozen encoder, or an autoencoder of words"
    Options = TextOptions
    reads: ClassVar[tuple[str, ...]] = (".txt",)
    writes = ".txt"
    textual = True
    column = "text"
    fit_options = {"codec": {"name": "autoencoder"}}

    def __init__(self, options: TextOptions | None = None) -> None:
        options = options or TextOptions()
        super().__init__(options)
        self.codec: TextEncoder | TextAutoencoder = options.codec.build()
        self.train(False)

    def train(self, mode: bool = True) -> Text:
        """Stays in evaluation mode whatever a parent module asks: the modality is frozen."""
        super().train(False)
        return self

    @property
    def latent(self) -> LatentSpec:
        """A sequence; for an encoder without `width` its shape is read from the encoder's configuration."""
        return self.codec.spec

    # -- items -----------------------------------------------------------------------------------------------

    def read(self, value: Any) -> str:
        """The text of a str, of UTF-8 bytes, or of a UTF-8 file; white space becomes single spaces.

        A `Path`, and a str that names an existing .txt file, are read as files. Raises BridgeflowError for a
        file that cannot be read, is not UTF-8, or holds no text, for more than 10,000 characters, and for
        anything else (a list of captions, say: the task picks one).
        """
        name = "the text"
        is_name = isinstance(value, str) and not isinstance(value, Words) and value[-4:].lower() == ".txt"
        if isinstance(value, Path) or (is_name and is_regular(value)):
            name = f"the text file {str(value)!r}"
            try:
                if Path(value).exists() and not Path(value).is_dir():
                    check_file(Path(value), "a text", MAX_BYTES)
                value = Path(value).read_bytes()
            except OSError as error:
                raise BridgeflowError(f"{name} cannot be read: {error.strerror or error}.") from error
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise BridgeflowError(f"{name} is not UTF-8: save it with that encoding.") from error
        if not isinstance(value, str):
            raise BridgeflowError(
                f"expected a text, not {type(value).__name__}: give a str, bytes or the path of a .txt file."
            )
        if len(value) > MAX_BYTES:
            raise BridgeflowError(f"{name} has {len(value):,} characters: give at most {MAX_CHARACTERS:,}.")
        # A control character has no meaning in a line of text, and would be an order to a terminal that shows it.
        text = " ".join(_CONTROLS.sub(" ", value).split())
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            half = text[error.start]
            raise BridgeflowError(
                f"{name} holds {quoted(half)}, half of a character in UTF-16: save it in UTF-8."
            ) from error
        if not text:
            raise BridgeflowError(f"{name} is empty: give at least one word.")
        if len(text) > MAX_CHARACTERS:
            raise BridgeflowError(
                f"{name} has {len(text):,} characters: give at most {MAX_CHARACTERS:,}, in one text per item."
            )
        return text

    def write(self, item: str, path: Path) -> list[Path]:
        """Writes the text and a line end, as UTF-8. The path must end in .txt."""
        path = Path(path)
        if path.suffix.lower() != ".txt":
            raise UsageError(f"text cannot be written to {str(path)!r}: give a file name that ends in .txt.")
        path.write_text(item + "\n", encoding="utf-8")
        return [path]

    def preview(self, item: str) -> Image.Image:
        """The words in black on white, 256 x 256 pixels, in the largest of a few sizes at which they fit."""
        picture = Image.new("RGB", (PREVIEW_SIZE, PREVIEW_SIZE), "white")
        draw = ImageDraw.Draw(picture)
        margin = PREVIEW_SIZE // 32
        for size in (24, 18, 14, 11, 8):
            font = ImageFont.load_default(size)
            lines = _wrap(bounded(item, PREVIEWED), font, PREVIEW_SIZE - 2 * margin)
            if len(lines) * size * 1.3 <= PREVIEW_SIZE - 2 * margin:
                break
        draw.multiline_text((margin, margin), "\n".join(lines), fill="black", font=font, spacing=size * 0.3)
        return picture

    def example(self, rng: np.random.Generator) -> str:
        """One to three made-up things in words, such as 'a small red cube behind a large blue cone'."""
        things = [
            " ".join(["a", rng.choice(["small", "large"]), rng.choice(_COLOURS), rng.choice(_SHAPES)])
            for _ in range(int(rng.integers(1, 4)))
        ]
        return f" {rng.choice(_RELATIONS)} ".join(things)

    def extremes(self) -> Mapping[str, str]:
        """The shortest text, the longest that is read, one word over and over, and one that is not plain words."""
        return {
            "minimum": "a",
            "maximum": ("a small red cube behind " * MAX_CHARACTERS)[: MAX_CHARACTERS - 1] + "s",
            "constant": " ".join(["cube"] * 40),
            "odd": "Zwölf Boxkämpfer, 3.14159 %$#@! 漢字 🙂 don't—stop",
        }

    # -- latents ---------------------------------------------------------------------------------------------

    @property
    def round_trip(self) -> float | None:  # type: ignore[override]
        """None for an encoder, which is only ever a source."""
        return ROUND_TRIP if isinstance(self.codec, TextAutoencoder) else None

    def collate(self, items: Sequence[str]) -> dict[str, Tensor]:
        """int64: `input_ids`, `attention_mask` (B, max_length), or for an autoencoder `words` (B, max_words)."""
        return self.codec.collate(items)

    def in_place(self, item: str, plus: Sequence[str], minus: Sequence[str]) -> tuple[list[str], list[str]]:
        """Words that the text has are taken away where they stand, and words are added where those were."""
        return in_place(item, plus, minus) if isinstance(self.codec, TextEncoder) else (list(plus), list(minus))

    def advise(self, items: Iterable[str], side: str) -> list[str]:
        """Where texts are longer than the codec reads."""
        return self.codec.advise(items, side)

    @torch.no_grad()
    def encode(self, batch: dict[str, Tensor]) -> Latent:
        """Encoder: features and mask. Autoencoder: the mean only; BridgeflowError before it is fitted."""
        return self.codec.encode(batch)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> list[str]:
        """Texts of latents (B, length, channels); for the autoencoder only, and once it is fitted."""
        if isinstance(self.codec, TextAutoencoder):
            return self.codec.decode(latent)
        raise BridgeflowError(
            "text with the codec 'encoder' cannot be a target, since features do not decode to words: set "
            "codec.name=autoencoder."
        )

    @torch.no_grad()
    def entries(self, place: int) -> Tensor | None:
        """See `TextEncoder.entries`; None for an autoencoder, which decodes."""
        return self.codec.entries(place) if isinstance(self.codec, TextEncoder) else None

    def from_entries(self, numbers: Sequence[Sequence[int]]) -> list[str]:
        """The texts of tokens, see `TextEncoder.from_entries`."""
        assert isinstance(self.codec, TextEncoder)
        return self.codec.from_entries(numbers)

    def unload(self) -> None:
        """Drops an encoder's weights until they are next needed; an autoencoder's stay, being all there is."""
        if isinstance(self.codec, TextEncoder):
            self.codec.unload()

    # -- fitting ---------------------------------------------------------------------------------------------

    @property
    def needs_fit(self) -> bool:
        """True for an autoencoder that has not been fitted."""
        return isinstance(self.codec, TextAutoencoder) and self.codec.network is None

    def fit(self, items: Iterable[str], progress: Progress | None = None) -> dict[str, float]:
        """Fits the autoencoder; see `TextAutoencoder.fit` for the figures."""
        if isinstance(self.codec, TextAutoencoder):
            return self.codec.fit(items, progress)
        return super().fit(items, progress)

    def fitted_state(self) -> dict[str, Tensor]:
        """The autoencoder's tensors and statistics; empty for an encoder."""
        return self.codec.state() if isinstance(self.codec, TextAutoencoder) else {}

    def fitted_facts(self) -> dict[str, Any]:
        """`vocabulary`: the autoencoder's words in order; empty for an encoder."""
        return self.codec.facts() if isinstance(self.codec, TextAutoencoder) else {}

    def restore(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Takes a fitted autoencoder back; its latents are then equal bit for bit."""
        if isinstance(self.codec, TextAutoencoder):
            self.codec.restore(state, facts)
        else:
            super().restore(state, facts)

    def fingerprint(self) -> str:
        """As for every modality; a local encoder's files count too, since a path can hold other weights."""
        base = super().fingerprint()
        if isinstance(self.codec, TextAutoencoder):
            return base
        return hashlib.sha256((base + self.codec.digest()).encode()).hexdigest()[:16]


def _wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines of words no wider than `width` pixels; a word that is too wide by itself is broken."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        lines += [line] if line else []
        while len(word) > 1 and font.getlength(word[: int(width)]) > width:
            fitting, cut = range(1, min(len(word), int(width))), 1
            # The longest beginning that fits, by halves: a word of thousands of letters is measured a few times a line.
            while fitting:
                cut = fitting[len(fitting) // 2]
                wide = font.getlength(word[:cut]) > width
                fitting = range(fitting.start, cut) if wide else range(cut + 1, fitting.stop)
            cut = max(1, fitting.start - 1)
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    return [*lines, line]
