"""`folder:PATH`: pictures of one's own, with what belongs to them (the imagefolder convention)."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from bridgeflow.data.rows import DataSettings, Rows, Split
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Progress

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
HELD_OUT_FOLDERS = ("held_out", "test", "validation", "val")
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})


class FolderRows:
    """Rows of a folder. `image` and every `NAME_file_name` column hold paths, read when a task pairs the row."""

    def __init__(self, root: Path, records: list[dict[str, Any]], columns: tuple[str, ...] | None = None) -> None:
        self.root = root
        self.records = records
        self.columns = columns or _columns(records)
        digest = hashlib.sha256()
        for record in records:
            digest.update(repr(sorted(record.items())).encode())
        self.fingerprint = digest.hexdigest()[:16]
        self.description = f"{len(records):,} rows in {root}"

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.records[index]


def _columns(records: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column for record in records for column in record))


class Folder(DataSettings):
    """A folder of pictures: alone, or with metadata.jsonl, .csv or .parquet, with NAME.txt beside NAME.jpg, or
    with depth/NAME.png for image/NAME.jpg."""

    summary: ClassVar[str] = "folder:PATH, pictures of your own with metadata.jsonl|csv|parquet"
    at_hand: ClassVar[bool] = True
    path: str
    """The folder."""
    held_out: float = Field(default=0.05, ge=0, lt=1)
    """Share of rows held out, at least one of two, chosen by name; unused where there is a folder for them
    (train/ beside test/, validation/, val/ or held_out/)."""

    @classmethod
    def at(cls, location: str) -> dict[str, Any]:
        """`folder:PATH`."""
        return {"path": location}

    def open(self, split: Split, progress: Progress | None = None) -> Rows:
        """Raises BridgeflowError where there is no folder, no picture or a metadata file that cannot be read."""
        root = Path(os.path.expanduser(self.path))
        if not root.is_dir():
            raise BridgeflowError(f"there is no folder {self.path!r}: give one that holds pictures, as folder:PATH.")
        own = [root / name for name in HELD_OUT_FOLDERS if (root / name).is_dir()]
        if (root / "train").is_dir() and own:
            chosen = root / "train" if split == "train" else own[0]
            return FolderRows(chosen, _records_below(chosen, root))
        records = _records(root)
        keys = {id(record): hashlib.sha256(_key(record, root).encode()).digest() for record in records}
        records.sort(key=lambda record: keys[id(record)])
        count = 0
        if self.held_out and len(records) > 1:
            count = min(max(1, round(self.held_out * len(records))), len(records) - 1)
        # Several rows of one picture stay on one side.
        while 0 < count < len(records) and keys[id(records[count - 1])] == keys[id(records[count])]:
            count -= 1
        return FolderRows(root, records[count:] if split == "train" else records[:count], _columns(records))


def _key(record: dict[str, Any], root: Path) -> str:
    first = record.get("image") or next(iter(record.values()), "")
    return first.relative_to(root).as_posix() if isinstance(first, Path) else str(first)


def _records(root: Path) -> list[dict[str, Any]]:
    found = sorted(path for name in METADATA for path in root.glob(f"**/{name}") if not _hidden(path, root))
    if found:
        records = [record for path in found for record in _from_metadata(path, root)]
        if not records:
            raise BridgeflowError(f"{found[0]} lists nothing: a row with a file_name is expected for each picture.")
        return records
    records = _from_pictures(root)
    if not records:
        raise BridgeflowError(
            f"the folder {str(root)!r} holds no pictures ({', '.join(sorted(PICTURES))}) and no "
            f"{' or '.join(METADATA)}: put some there, name another folder, "
            'or list files of another kind in metadata.jsonl, as {"NAME_file_name": "file"} for a column NAME.'
        )
    return records


def _records_below(folder: Path, root: Path) -> list[dict[str, Any]]:
    """Records of a split's folder; from the metadata of the root where it is there that they are listed."""
    if any((root / name).is_file() for name in METADATA):
        records = [r for r in _records(root) if any(isinstance(v, Path) and folder in v.parents for v in r.values())]
        if records:
            return records
    return _records(folder)


def _hidden(path: Path, root: Path) -> bool:
    """Whether a file is put there by an operating system or an editor, as .cache/a.png or __MACOSX/._a.png."""
    return any(part.startswith((".", "__")) for part in path.relative_to(root).parts)


def _from_pictures(root: Path) -> list[dict[str, Any]]:
    for name in ("image", "images"):
        if (root / name).is_dir() and (root / "depth").is_dir():
            depths = {path.stem: path for path in sorted((root / "depth").iterdir()) if path.is_file()}
            pictures = [path for path in sorted((root / name).iterdir()) if path.suffix.lower() in PICTURES]
            return [
                {"image": path, **({"depth": depths[path.stem]} if path.stem in depths else {})} for path in pictures
            ]
    records = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in PICTURES and path.is_file() and not _hidden(path, root):
            words = path.with_suffix(".txt")
            records.append({"image": path, **({"text": words} if words.is_file() else {})})
    return records


def _from_metadata(path: Path, root: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(_metadata_rows(path), 1):
        record: dict[str, Any] = {}
        for column, value in row.items():
            if value is None or value == "":
                if column == "file_name":
                    raise BridgeflowError(f"{path}, row {number}: the file_name is empty: every row names its file.")
            elif column == "file_name":
                record["image"] = _inside(value, path, root, number)
            elif column.endswith("_file_name"):
                record[column.removesuffix("_file_name")] = _inside(value, path, root, number)
            else:
                record[column] = value
        yield record


def _inside(value: Any, metadata: Path, root: Path, number: int) -> Path:
    if not isinstance(value, str) or "\0" in value:
        raise BridgeflowError(f"{metadata}, row {number}: {value!r} is no file name: a path in the folder is expected.")
    path = metadata.parent / value
    if not path.resolve().is_relative_to(root.resolve()):
        raise BridgeflowError(f"{metadata}, row {number}: {value!r} lies outside the folder {str(root)!r}: copy it in.")
    return path


_FORMATS = {".parquet": "Parquet", ".csv": "CSV in UTF-8", ".jsonl": "JSON lines in UTF-8"}


def _metadata_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            yield from pyarrow.parquet.ParquetFile(path).read().to_pylist()
            return
        with path.open(encoding="utf-8-sig", newline="") as lines:
            if path.suffix == ".csv":
                yield from _csv_rows(lines, path)
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _json_row(line, path, number)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BridgeflowError(f"{path} cannot be read ({first}): it must be {_FORMATS[path.suffix]}.") from error


def _csv_rows(lines: Iterable[str], path: Path) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(lines)
    for row in reader:
        if row.get(None):
            raise BridgeflowError(
                f"{path}, line {reader.line_num} has more cells than the heading: put a text with a comma in quotes."
            )
        yield row


def _json_row(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise BridgeflowError(
            f"{path}, line {number} is not JSON ({error.msg}): one object a line is expected."
        ) from error
    if not isinstance(row, dict):
        raise BridgeflowError(f'{path}, line {number} is not a JSON object: {{"file_name": ..., ...}} is expected.')
    return row
