"""`python -m bridgeflow_plugins.lowres.photographs FOLDER`: forty photographs from packages of Debian, for training
super-resolution.

The packages hold drawings too; the photographs among them are listed here by name. Each is halved, so that what its
JPEG compression left behind is averaged away, and written as PNG; those held out are made smaller until their longer
side is LONGEST pixels, since at its full size a camera's picture holds little detail at the scale of a pixel. About one
in six is held out, chosen by its name, and cut into tiles that do not overlap, so that every figure is of photographs
of which training saw nothing.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bridgeflow.errors import BridgeflowError
from bridgeflow.runtime.console import Progress
from bridgeflow_plugins.image_latent.pixels import Pixels, fit_image, open_image

LONGEST = 1280
"""Pixels of the longer side of a held-out photograph, at most."""
TILE = 128
"""Pixels of a side of a held-out tile."""
SOURCES = "SOURCES.md"

PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "lomiri-wallpapers-16.04": tuple(
        f"usr/share/backgrounds/{name}.jpg"
        for name in (
            "aitzgorri_by_Aitzol_Berasategi",
            "Bridge_by_Sander_Klootwijk",
            "Dragonfly_by_Bolly",
            "free_by_Peter_Nerlich",
            "friends_by_Aitzol_Berasategi",
            "greentock_by_Peter_Nerlich",
            "life_by_Aitzol_Berasategi",
            "Picture_0B_by_freespace",
            "Picture_1A_by_freespace",
            "picosdeeuropa_by_Aitzol_Berasategi",
            "seeding_by_Clements_Engelhardt",
            "sunset_by_Aitzol_Berasategi",
            "Wine_by_Jakkub_Mede",
        )
    ),
    "lomiri-wallpapers-20.04": ("usr/share/backgrounds/Kleiber_by_Lukas_Baubkus.jpg",),
    "mate-backgrounds": tuple(
        f"usr/share/backgrounds/mate/nature/{name}.jpg"
        for name in (
            "Aqua",
            "Blinds",
            "Dune",
            "FreshFlower",
            "Garden",
            "GreenMeadow",
            "LadyBird",
            "RainDrops",
            "Storm",
            "TwoWings",
            "Wood",
            "YellowFlower",
        )
    ),
    "palapeli-data": tuple(
        f"usr/share/palapeli/collection/{name}.jpg"
        for name in (
            "castle-maintenon",
            "cincinnati-bridge",
            "citrus-fruits",
            "european-honey-bee",
            "panther-chameleon-female",
        )
    ),
    "plasma-workspace-wallpapers": tuple(
        f"usr/share/wallpapers/{name}/contents/images/2560x1600.jpg"
        for name in (
            "BytheWater",
            "ColdRipple",
            "ColorfulCups",
            "DarkestHour",
            "EveningGlow",
            "FallenLeaf",
            "Grey",
            "Kite",
            "OneStandsOut",
            "Path",
            "summer_1am",
        )
    ),
}
"""Packages of Debian 12 and the photographs in them; what is drawn or rendered is left out."""


@dataclass(frozen=True)
class Photograph:
    """One file of a package."""

    package: str
    path: str

    @property
    def name(self) -> str:
        """Its name among all photographs."""
        path = Path(self.path)
        return path.parts[-4] if path.stem == "2560x1600" else path.stem

    @property
    def held_out(self) -> bool:
        """One in six, by its name."""
        return hashlib.sha256(self.name.encode()).digest()[0] % 6 == 0


def photographs() -> Iterator[Photograph]:
    """All photographs, package by package."""
    for package, paths in PHOTOGRAPHS.items():
        yield from (Photograph(package, path) for path in paths)


def halved(image: Pixels) -> Pixels:
    """The means of blocks of 2x2 pixels, uint8 (H // 2, W // 2, 3)."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    blocks = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
    return np.rint(blocks.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)


def reduced(image: Pixels, longest: int = LONGEST) -> Pixels:
    """The picture with a longer side of at most `longest` pixels, by an antialiased bicubic kernel."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    return fit_image(image, (round(image.shape[0] * scale), round(image.shape[1] * scale)), "stretch")


def held_out_tiles(image: Pixels, size: int = TILE) -> Iterator[tuple[str, Pixels]]:
    """(row and column, tile) of the tiles that lie side by side, in the middle of the picture; what is left at the
    edges falls away."""
    rows, columns = image.shape[0] // size, image.shape[1] // size
    top, left = (image.shape[0] - rows * size) // 2, (image.shape[1] - columns * size) // 2
    for row in range(rows):
        for column in range(columns):
            y, x = top + row * size, left + column * size
            yield f"{row:02d}-{column:02d}", image[y : y + size, x : x + size]


def fetch(folder: Path, progress: Progress) -> None:
    """Writes FOLDER/train, FOLDER/held_out and FOLDER/SOURCES.md; a package whose photographs are all there is not
    fetched again. Raises BridgeflowError where a package cannot be had."""
    wanted = list(photographs())
    packages = [name for name in PHOTOGRAPHS if not all(_is_done(folder, p) for p in wanted if p.package == name)]
    copyrights = folder / "copyright"
    for number, package in enumerate(packages):
        progress(number, len(packages), f"fetching {package}", unit="packages")
        with tempfile.TemporaryDirectory() as scratch:
            unpacked = _unpacked(package, Path(scratch))
            for photograph in (p for p in wanted if p.package == package):
                progress.status(f"writing {photograph.name}")
                _write(folder, photograph, unpacked / photograph.path)
            copyrights.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(unpacked / "usr/share/doc" / package / "copyright", copyrights / f"{package}.txt")
    _write_sources(folder, wanted)


def _is_done(folder: Path, photograph: Photograph) -> bool:
    if photograph.held_out:
        return (folder / "held_out" / photograph.name / "complete").is_file()
    return (folder / "train" / f"{photograph.name}.png").is_file()


def _write(folder: Path, photograph: Photograph, path: Path) -> None:
    if not path.is_file():
        raise BridgeflowError(
            f"the package {photograph.package} holds no {photograph.path}: it is made for Debian 12; fetch it there."
        )
    image = halved(open_image(path))
    if photograph.held_out:
        place = folder / "held_out" / photograph.name
        place.mkdir(parents=True, exist_ok=True)
        for name, tile in held_out_tiles(reduced(image)):
            Image.fromarray(tile).save(place / f"{name}.png")
        (place / "complete").touch()
        return
    place = folder / "train" / f"{photograph.name}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.part")
    Image.fromarray(image).save(part, format="PNG", compress_level=1)
    part.replace(place)


def _unpacked(package: str, folder: Path) -> Path:
    """The files of a package of Debian, fetched and unpacked without any rights; nothing is installed."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise BridgeflowError(
                f"{program} is not there, so the package {package} cannot be fetched: run this on Debian or Ubuntu, "
                "or train on photographs of your own with --data folder:PATH."
            )
    _run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package], folder, package)
    (file,) = folder.glob("*.deb")
    _run(["dpkg-deb", "-x", str(file), "unpacked"], folder, package)
    return folder / "unpacked"


def _run(command: list[str], folder: Path, package: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise BridgeflowError(
            f"the package {package} cannot be fetched ({reason}): run `apt-get update` as root and look whether "
            f"`apt-cache policy {package}` names a version."
        )


def _write_sources(folder: Path, wanted: list[Photograph]) -> None:
    lines = [
        "# Photographs",
        "",
        f"Halved in size; those held out to at most {LONGEST} pixels. Licences and authors: copyright/PACKAGE.txt.",
        "",
        "| photograph | part | package | file |",
        "|---|---|---|---|",
    ]
    for one in wanted:
        part = "held out" if one.held_out else "train"
        lines.append(f"| {one.name} | {part} | {one.package} | {one.path} |")
    (folder / SOURCES).write_text("\n".join(lines) + "\n")


def main(arguments: list[str]) -> int:
    """Fetches into the folder that is named; 0 where all is there."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m bridgeflow_plugins.lowres.photographs FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    try:
        with Progress() as progress:
            fetch(folder, progress)
    except BridgeflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {folder} cannot be written ({error.strerror or error}): name another folder.", file=sys.stderr)
        return 1
    train, tiles = len(list((folder / "train").glob("*.png"))), len(list((folder / "held_out").rglob("*.png")))
    print(f"{folder}: {train} photographs to train on, {tiles} held-out tiles of {TILE} pixels; see {folder / SOURCES}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
