"""Where `run` puts results, and what it says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bridgeflow.cli.inputs import Input
from bridgeflow.cli.output import emit, stream
from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import printable_lines


class ResultWriter:
    """Writes results as files or prints them, as the target modality and the user's wishes have it."""

    def __init__(self, target: Any, output: str | None, many: bool, as_json: bool, facts: dict[str, Any]) -> None:
        self.target = target
        self.output = Path(output) if output is not None else None
        self.many = many
        self.as_json = as_json
        self.facts = facts
        self.records: list[dict[str, Any]] = []
        bare = self.output is not None and not self.output.suffix
        self.into_folder = self.output is not None and (
            self.output.is_dir() or str(output).endswith("/") or (bare and (many or not target.textual))
        )

    def add(self, entry: Input, results: list[Any]) -> None:
        """Writes or prints the results of one input. Raises BridgeflowError where a file cannot be written."""
        for number, result in enumerate(results):
            record = {"input": entry.name, **self._place(number)}
            if self.target.textual:
                record["result"] = result
            if self.target.textual and self.output is None and not self.as_json:
                emit(_shown(f"{entry.name}\t{result}" if self.many else result))
            elif not self.target.textual or self.into_folder:
                path = self._path(entry, number, len(results))
                path.parent.mkdir(parents=True, exist_ok=True)
                paths = self.target.write(result, path)
                missing = [path for path in paths if not path.is_file()]
                if missing:
                    raise BridgeflowError(
                        f"{missing[0]} was not written, though {type(self.target).__name__} says so: name an ending "
                        f"that it writes, such as {self.target.writes}, or fix its `write`."
                    )
                record["files"] = [str(path) for path in paths]
                if not self.as_json:
                    emit("\n".join(map(_shown, record["files"])))
            self.records.append(record)
            stream().flush()

    def finish(self) -> None:
        """Writes what goes out in one piece: JSON, or all lines of a text target in one file."""
        if self.target.textual and self.output is not None and not self.into_folder:
            lines = [f"{r['input']}\t{r['result']}" if self.many else str(r["result"]) for r in self.records]
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
            if not self.as_json:
                emit(self.output)
        if self.as_json:
            emit(json.dumps({**self.facts, "results": self.records}, indent=1, ensure_ascii=False))

    def _place(self, number: int) -> dict[str, Any]:
        """What a record says of the place of a result among those of its input."""
        return {"sample": number}

    def _path(self, entry: Input, number: int, samples: int) -> Path:
        if self.output is not None and not self.into_folder:
            if not self.many:
                return self.output
            return self.output.with_stem(f"{self.output.stem}-{len(self.records) + 1:02d}")
        name = self._name(entry) + (f"-{number + 1:02d}" if samples > 1 else "")
        return unused(self.output or Path("."), name, self.target.writes)

    def _name(self, entry: Input) -> str:
        """A name for the results of an input, without an ending."""
        words = Path(entry.name).stem if isinstance(entry.value, Path) else entry.name
        stem = "-".join("".join(c if c.isalnum() else " " for c in words).split())[:60] or "result"
        return f"{stem}-{self.facts['task']}"


def _shown(line: str) -> str:
    """The line as it is for a program that reads it; what a terminal would take for orders is escaped there."""
    return printable_lines(line) if stream().isatty() else line


def unused(folder: Path, name: str, ending: str) -> Path:
    """A path in a folder that overwrites nothing."""
    taken = {path.stem for path in folder.glob(f"{name}*")} if folder.is_dir() else set()
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}-{number}", number + 1
    return folder / f"{candidate}{ending}"
