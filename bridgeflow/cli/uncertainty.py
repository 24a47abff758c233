"""Where `run --uncertainty` puts the mean of several results and a map of their spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bridgeflow.cli.inputs import Input
from bridgeflow.cli.output import emit
from bridgeflow.cli.results import ResultWriter
from bridgeflow.errors import BridgeflowError


class UncertaintyWriter(ResultWriter):
    """Writes the mean of the results of an input as `ResultWriter` writes a result, and beside it their standard
    deviation: NAME-uncertainty.npy, float32 (H, W) in the item's units, and NAME-uncertainty.png to look at."""

    def add(self, entry: Input, results: list[Any]) -> None:
        """Writes the files of one input. Raises BridgeflowError where the results are the same, or a file cannot be
        written."""
        from bridgeflow.inference.spread import check_drawn, heat, pooled

        own = pooled(self.target, results)
        check_drawn([own.spread], len(results))
        super().add(entry, [own.mean])
        first = Path(self.records[-1]["files"][0])
        values, picture = (first.with_name(f"{first.stem}-uncertainty{ending}") for ending in (".npy", ".png"))
        try:
            np.save(values, own.spread.astype(np.float32))
            heat(own.spread).save(picture)
        except OSError as error:
            raise BridgeflowError(f"cannot write {values}: check that the folder is writable and not full.") from error
        files = [str(values), str(picture)]
        spread = {"mean": float(own.spread.mean()), "largest": float(own.spread.max()), "files": files}
        self.records[-1] |= {"samples": len(results), "uncertainty": spread}
        if not self.as_json:
            emit("\n".join(files), flush=True)

    def _place(self, number: int) -> dict[str, Any]:
        return {}
