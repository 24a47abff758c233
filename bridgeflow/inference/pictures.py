"""Pictures for people: grids of source, truth and result, and the flow as a strip or a GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bridgeflow.modality import Item, Modality

CELL = 128
"""Pixels of a cell's longer side."""
GAP = 6
LABEL = 18


def enlarge(image: Image.Image, size: int = CELL) -> Image.Image:
    """The picture with its longer side at `size`: small ones keep their pixels' edges, large ones are reduced."""
    scale = size / max(image.size)
    if scale >= 1:
        scale = max(1, int(scale))
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.convert("RGB").resize(
        (width, height), Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    )


def grid(titles: Sequence[str], rows: Sequence[Sequence[Image.Image]], pairs_across: int = 1) -> Image.Image:
    """A table of pictures: a column for each title, `pairs_across` rows side by side."""
    cells = [[enlarge(image) for image in row] for row in rows]
    width = max((image.width for row in cells for image in row), default=CELL)
    height = max((image.height for row in cells for image in row), default=CELL)
    across = max(1, min(pairs_across, len(cells)))
    down = -(-len(cells) // across)
    block = len(titles) * (width + GAP)
    sheet = Image.new("RGB", (across * block + (across + 1) * GAP, LABEL + down * (height + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for place in range(across):
        for column, title in enumerate(titles):
            draw.text((GAP + place * (block + GAP) + column * (width + GAP), 3), title, fill="black", font=font)
    for index, row in enumerate(cells):
        line, place = divmod(index, across)
        for column, image in enumerate(row):
            sheet.paste(image, (GAP + place * (block + GAP) + column * (width + GAP), LABEL + line * (height + GAP)))
    return sheet


def comparison(
    source: Modality,
    target: Modality,
    sources: Sequence[Item],
    truths: Sequence[Item] | None,
    results: Sequence[Item],
    titles: tuple[str, str] = ("truth", "result"),
) -> Image.Image:
    """A grid of source with its conditions, truth (where there is one) and result."""
    shown = [source.previews(item) for item in sources]
    rows = [[*own.values()] for own in shown]
    for index, row in enumerate(rows):
        row += [target.preview(own[index]) for own in (truths, results) if own is not None]
    names = list(shown[0]) if shown else ["source"]
    return grid([*names, *titles[truths is None :]], rows, pairs_across=2 if len(rows) > 4 else 1)


def stacked(parts: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures one below the other, each under its title."""
    width = max(image.width for _, image in parts)
    sheet = Image.new("RGB", (width, sum(image.height + LABEL for _, image in parts)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    top = 0
    for title, image in parts:
        draw.text((GAP, top + 1), title, fill="black", font=font)
        sheet.paste(image, (0, top + LABEL))
        top += image.height + LABEL
    return sheet


def strip(frames: Sequence[tuple[str, Image.Image]], most: int = 9) -> Image.Image:
    """Labelled frames side by side, with the first and the last and at most `most` of them, evenly chosen."""
    last = len(frames) - 1
    count = min(most, len(frames))
    chosen = [frames[round(place * last / max(1, count - 1))] for place in range(count)]
    return grid([label for label, _ in chosen], [[frame for _, frame in chosen]])


def save_gif(frames: Sequence[tuple[str, Image.Image]], path: Path, seconds: float = 3.0) -> None:
    """Writes labelled frames as a GIF that rests on its last frame."""
    pictures = []
    for label, frame in frames:
        image = enlarge(frame, 256)
        sheet = Image.new("RGB", (max(image.width, 256), image.height + LABEL), "white")
        sheet.paste(image, (0, LABEL))
        ImageDraw.Draw(sheet).text((4, 2), label, fill="black", font=ImageFont.load_default(12))
        pictures.append(sheet)
    pace = max(40, int(1000 * seconds / max(1, len(pictures))))
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        duration=[pace] * (len(pictures) - 1) + [1500],
        loop=0,
    )
