"""Where `run --interpolate` puts its frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bridgeflow.cli.inputs import Input
from bridgeflow.cli.output import emit
from bridgeflow.cli.results import ResultWriter


class FrameWriter(ResultWriter):
    """Writes each frame of an interpolation as `ResultWriter` writes a result, numbered, and all as a GIF.

    Where the output is a GIF, the frames lie in a folder beside it. Results that are text have no GIF.
    """

    def __init__(
        self, target: Any, output: str | None, many: bool, as_json: bool, facts: dict[str, Any], frames: int
    ) -> None:
        """frames: of each input. For the others see `ResultWriter`. Raises UsageError for a GIF of text."""
        super().__init__(target, output, many, as_json, facts)
        self.frames = frames
        self.moving = self.output is not None and not self.into_folder and self.output.suffix.lower() == ".gif"
        if self.moving and target.textual:
            raise click.UsageError(
                f"--output {output!r} is a picture, but the results of task {facts['task']!r} are text: give a .txt "
                "file or a folder."
            )
        self.animations: list[dict[str, Any]] = []
        self._frames = self._gif = Path()

    def add(self, entry: Input, results: list[Any]) -> None:
        """Writes or prints the frames of one input, and draws them as a GIF."""
        self._choose_paths(entry)
        super().add(entry, results)
        if self.target.textual:
            return
        from bridgeflow.inference.pictures import save_gif

        labelled = [
            (f"a = {self._place(number)['at']:.3f}", self.target.preview(result))
            for number, result in enumerate(results)
        ]
        save_gif(labelled, self._gif)
        self.animations.append({"input": entry.name, "file": str(self._gif)})
        if not self.as_json:
            emit(self._gif, flush=True)

    def finish(self) -> None:
        """As `ResultWriter.finish`; JSON lists the GIFs too."""
        if self.animations:
            self.facts = {**self.facts, "animations": self.animations}
        super().finish()

    def _choose_paths(self, entry: Input) -> None:
        """Sets the GIF and the frame that the numbered frames lie beside, such as NAME.gif and NAME.png."""
        if self.output is None or self.into_folder:
            folder, ending = self.output or Path("."), self.target.writes
            self._frames = unused_frames(folder, self._name(entry), ending)
            self._gif = self._frames.with_suffix(".gif")
            return
        number = len(self.records) // self.frames + 1
        named = self.output.with_stem(f"{self.output.stem}-{number:02d}") if self.many else self.output
        self._gif, self._frames = named.with_suffix(".gif"), named
        if self.moving:
            self._frames = named.with_name(f"{named.stem}-frames") / f"{named.stem}{self.target.writes}"

    def _place(self, number: int) -> dict[str, Any]:
        return {"frame": number + 1, "at": number / (self.frames - 1)}

    def _path(self, entry: Input, number: int, samples: int) -> Path:
        return self._frames.with_stem(f"{self._frames.stem}-{number + 1:0{max(2, len(str(samples)))}d}")


def unused_frames(folder: Path, name: str, ending: str) -> Path:
    """A path in a folder of which neither the numbered frames nor the GIF are there."""
    taken = {path.stem for path in folder.glob(f"{name}*")} if folder.is_dir() else set()
    candidate, number = name, 2
    while any(stem == candidate or stem.startswith(f"{candidate}-0") for stem in taken):
        candidate, number = f"{name}-{number}", number + 1
    return folder / f"{candidate}{ending}"
