"""From a checkpoint to results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch

from bridgeflow import registry
from bridgeflow.assembly import Assembly, assemble
from bridgeflow.bridge import Bridge
from bridgeflow.checkpoints.checkpoint import Checkpoint, open_checkpoint
from bridgeflow.checkpoints.loading import load_bridge
from bridgeflow.conditioned import Conditioned, check_conditions
from bridgeflow.config.keys import SamplingSettings
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.inference.adjusting import check_whole, guided, is_number, with_solver
from bridgeflow.inference.arithmetic import PLAIN, Mixture, between, sums
from bridgeflow.inference.familiarity import Familiarity
from bridgeflow.inference.layouts import check_layouts
from bridgeflow.inference.stages import Job, Piece, Stages
from bridgeflow.modality import Item, Progress
from bridgeflow.runtime.precision import choose_precision

OnProgress = Callable[[int, int], None]
MOST_STEPS = 10_000


class Pipeline:
    """Generates items of a task's target modality from items of its source modality."""

    def __init__(
        self,
        assembly: Assembly,
        bridge: Bridge | Callable[[], Bridge],
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        sampling: SamplingSettings | None = None,
        low_memory: bool = False,
        watch: Progress | None = None,
    ) -> None:
        """bridge: the bridge itself, or what loads it whenever it is needed.

        precision: 'fp32', or 'bf16' for bfloat16 autocast. low_memory: source modality, bridge and target modality
        are in memory one after the other, see `Stages`. watch: called as `watch(done, total, what)` at every
        evaluation of the network and whenever something else begins; total is 0 where it is not known.
        """
        if isinstance(bridge, Bridge):
            bridge.eval()
        self.assembly = assembly
        self.sampling = sampling or assembly.recipe.sampling
        self.knowledge = ""
        """What the model was made for, in a sentence; empty where it is not known."""
        self.stages = Stages(assembly, bridge, torch.device(device), precision, low_memory, watch)

    @classmethod
    def open(
        cls,
        folder: Path,
        device: str | None = None,
        precision: str | None = None,
        low_memory: bool = False,
        watch: Progress | None = None,
    ) -> Pipeline:
        """A pipeline from a checkpoint or the newest checkpoint of a run.

        device: 'cpu', 'cuda', ...; None takes a GPU where there is one. precision: 'fp32', 'bf16' (matrices are held
        and multiplied in bfloat16; the state between steps is float32), or None for bf16 where the model was
        trained so and the device is faster with it. For the others see `__init__`.
        """
        return cls.of(open_checkpoint(folder), device, precision, low_memory, watch)

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        device: str | None = None,
        precision: str | None = None,
        low_memory: bool = False,
        watch: Progress | None = None,
    ) -> Pipeline:
        """A pipeline from an opened checkpoint; see `open`."""
        recipe = checkpoint.recipe(with_data=False)
        assembly = assemble(recipe, checkpoint.codecs(recipe))
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if precision is None:
            trained_in_bf16 = recipe.training.precision == "bf16"
            precision = choose_precision("auto", chosen) if trained_in_bf16 else "fp32"
        number_type = precision

        def load() -> Bridge:
            return load_bridge(assembly, checkpoint, number_type, watch)

        pipeline = cls(assembly, load, chosen, number_type, checkpoint.sampling(), low_memory, watch)
        pipeline.stages.familiarity = Familiarity.read(checkpoint.folder)
        pipeline.knowledge = str(checkpoint.meta.get("exported", {}).get("knowledge", ""))
        return pipeline

    def guide_by(self, weaker: Path) -> None:
        """Guides away from a weaker checkpoint of the same run, such as an early one, by the scale of the guidance:
        autoguidance (Karras et al., arXiv 2406.02507). Runs of their own have source codes of their own, which say
        nothing to one another; only where nothing is learned about the source may they be mixed.

        Raises UsageError for a checkpoint of another kind.
        """
        checkpoint = open_checkpoint(weaker)
        if checkpoint.recipe(with_data=False).tree()["task"] != self.assembly.recipe.tree()["task"]:
            raise UsageError(
                f"the weaker checkpoint {str(weaker)!r} belongs to another task: give an early one of its run."
            )
        try:
            self.stages.weak = load_bridge(self.assembly, checkpoint, self.stages.precision).eval()
        except BridgeflowError as error:
            raise UsageError(
                f"the checkpoint {str(weaker)!r} is no weaker model of this one ({str(error).rstrip('.')}): give an "
                "early checkpoint of the same run."
            ) from error

    @property
    def bridge(self) -> Bridge:
        """The bridge, which is loaded where it is not there."""
        return self.stages.bridge

    def __call__(
        self,
        inputs: Any,
        *,
        conditions: Mapping[str, Any] | None = None,
        samples: int = 1,
        seed: int = 0,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
    ) -> Any:
        """The result of one input, or a list of results for a list (or tuple) of inputs.

            >>> pipeline("a red cube", samples=4, seed=7, steps=20)
            >>> pipeline("scene.png", conditions={"text": "make the cube red"})

        inputs: whatever the source modality reads: a path, words, bytes, an array, a PIL image; or a list of them.
        conditions: for a task that has them, what each of their modalities reads, by name; the same for all inputs. An
            input with conditions of its own is a `bridgeflow.conditioned.Conditioned`.
        samples: results for each input; above 1 they are a list for each. seed: of whatever is drawn.
        steps, solver, guidance: as in `adjusted`, for this call alone.

        A result is an item of the target modality, such as an array of uint8 (H, W, 3) for a picture, or a str.
        Raises BridgeflowError, naming it, for an input that cannot be read, and UsageError for a wrong number.
        """
        check_whole("samples", samples)
        check_whole("seed", seed)
        if samples < 1:
            raise UsageError(f"samples should be at least 1, not {samples}.")
        once = copy(self)
        once.sampling = self.adjusted(steps, solver, guidance)
        many = isinstance(inputs, list | tuple)
        items = [self.read(value, conditions) for value in (inputs if many else [inputs])]
        results = once.generate(items, samples, seed) if items else []
        each = results if samples > 1 else [own[0] for own in results]
        return each if many else each[0]

    def read(self, value: Any, conditions: Mapping[str, Any] | None = None) -> Item:
        """The source item of an input, with the task's conditions; see `__call__`.

        Raises BridgeflowError where it cannot be read, UsageError for a condition that is missing or unknown."""
        source = self.assembly.source
        if isinstance(value, Conditioned) and conditions is None:
            return source.read(value)
        check_conditions(list(source.conditions), conditions or {})
        return source.read(Conditioned(value, conditions) if conditions else value)

    def adjusted(
        self, steps: int | None = None, solver: str | None = None, guidance: float | None = None
    ) -> SamplingSettings:
        """The settings of sampling with another number of steps, solver or scale of the guidance (1 is none).

        Raises UsageError, whose sentence begins with the name of the option, where a value does not fit.
        """
        if steps is not None:
            check_whole("steps", steps)
        if steps is not None and not 1 <= steps <= MOST_STEPS:
            raise UsageError(f"steps {steps} is not within 1 to {MOST_STEPS:,}, as a solver takes.")
        if solver is not None and not (isinstance(solver, str) and registry.offering("solver", solver)):
            names = ", ".join(plugin.name for plugin in registry.installed("solver"))
            raise UsageError(f"solver {solver!r} is none: one of {names} is expected.")
        if guidance is not None and not (is_number(guidance) and math.isfinite(guidance)):
            raise UsageError(f"guidance {guidance!r} is not a number: 1 is none, 2 to 7 are usual.")
        own = self.sampling.guidance
        chosen = own if guidance is None else guided(own, guidance)
        has_null_rows = self.assembly.recipe.keys.null_rate > 0 or self.stages.weak is not None
        if guidance is not None and chosen.is_active and chosen.needs_null_rows and not has_null_rows:
            raise UsageError("guidance needs a model trained with null_rate above 0; this one was trained without.")
        return self.sampling.model_copy(
            update={"solver": with_solver(self.sampling.solver, solver, steps), "guidance": chosen}
        )

    @property
    def out_of_distribution(self) -> set[int]:
        """Numbers of the items of the last call that look like nothing the model was trained on; empty for a model that
        does not know what it was trained on (`bridgeflow export` notes it)."""
        return self.stages.out_of_distribution

    @property
    def evaluations(self) -> int:
        """Evaluations of the network for the last batch (NFE)."""
        return self.stages.evaluations

    def generate(
        self,
        items: Sequence[Item],
        samples: int = 1,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[list[Item]]:
        """`samples` results for each source item.

        A result depends on its item, the seed and the number of its sample, not on the items beside it (with
        dopri5, whose steps follow the whole batch, up to its tolerance).
        `seeds` gives each item a seed of its own. `on_progress(done, total)` counts the pieces that are done.
        """
        jobs = self._jobs(items, samples, seeds or [seed] * len(items))
        return self._results(items, [jobs], samples, on_progress)

    def reverse(self, inputs: Any, **how: Any) -> Any:
        """The sources that targets would have come from, by the flow the other way: words of a picture from a model of
        pictures from words. Called as the pipeline itself; see `reverse.reversed_pipeline` for what it needs."""
        from bridgeflow.inference.reverse import reversed_pipeline

        return reversed_pipeline(self)(inputs, **how)

    def combine(
        self,
        items: Sequence[Item],
        plus: Sequence[Item] = (),
        minus: Sequence[Item] = (),
        samples: int = 1,
        seed: int = 0,
        on_progress: OnProgress | None = None,
    ) -> list[list[Item]]:
        """`samples` results for each item + plus - minus, a sum of the states z0 that the flow starts from.

        z = z_item + sum of z_plus - sum of z_minus, all with the same draws. For a source encoder with a learned
        variance z is then brought to mean 0 and standard deviation 1 over all elements, as the published code does
        (CrossFlow, arXiv 2412.15213, section 4); for any other it is divided by 1 + plus - minus terms, where that is
        above 0. Terms stand in the item as `Modality.in_place` says. Raises BridgeflowError where the flow starts from
        noise, where the terms cancel out, and where they have different numbers of pieces.
        """
        jobs = self._jobs(items, samples, [seed] * len(items), plus, minus, sums(len(plus), len(minus)))
        return self._results(items, [jobs], samples, on_progress)

    def interpolate(
        self,
        starts: Sequence[Item],
        end: Item,
        frames: int = 9,
        seed: int = 0,
        on_progress: OnProgress | None = None,
    ) -> list[list[Item]]:
        """`frames` results on the way from each start to the end, both included.

        z = (1 - a) z_start + a z_end, with the same draws at both ends and a from 0 to 1 in equal steps (CrossFlow,
        arXiv 2412.15213, section 4, interpolation). The first and the last result are those of `generate` of
        that item alone, bit for bit; a task that fits results to their source fits all of them to the start. Raises
        UsageError for fewer than 2 frames, and BridgeflowError as `combine` does.
        """
        if frames < 2:
            raise UsageError(f"an interpolation has at least 2 frames, its ends, not {frames}.")
        groups: list[list[Job]] = []
        last = self._split(end)
        for index, start in enumerate(starts):
            first = self._split(start)
            check_layouts([start, end], [first, last])
            # The ends run apart, as `generate` would run them: a product's last bits change with the rows of a batch.
            groups.append([Job(index, 0, (one,), (seed, 0, place)) for place, one in enumerate(first)])
            groups.append(
                [
                    Job(index, frame, pair, (seed, 0, place), between(frame / (frames - 1)))
                    for frame in range(1, frames - 1)
                    for place, pair in enumerate(zip(first, last, strict=True))
                ]
            )
            groups.append([Job(index, frames - 1, (one,), (seed, 0, place)) for place, one in enumerate(last)])
        return self._results(starts, groups, frames, on_progress)

    def trajectory(
        self, item: Item, seed: int = 0, plus: Sequence[Item] = (), minus: Sequence[Item] = ()
    ) -> list[tuple[float, Item]]:
        """(t, decoded state) at the start and after each step of the flow of one item, or of a sum of `combine`."""
        mixture = sums(len(plus), len(minus)) if plus or minus else PLAIN
        jobs = self._jobs([item], 1, [seed], plus, minus, mixture)
        states: dict[float, list[Item]] = {}
        for batch in self.stages.run([jobs], self.sampling, whole_flow=True):
            for t, decoded in batch.states:
                states.setdefault(t, []).extend(decoded)
        return [(t, self.assembly.task.join(decoded, item)) for t, decoded in sorted(states.items())]

    def check_terms(self, items: Sequence[Item]) -> None:
        """Raises BridgeflowError where items cannot be added or interpolated: their pieces stand in other places."""
        check_layouts(items, [self._split(item) for item in items])

    def _split(self, item: Item) -> list[Piece]:
        return [Piece(piece) for piece in self.assembly.task.split(item)]

    def _jobs(
        self,
        items: Sequence[Item],
        samples: int,
        seeds: Sequence[int],
        plus: Sequence[Item] = (),
        minus: Sequence[Item] = (),
        mixture: Mixture = PLAIN,
    ) -> list[Job]:
        jobs: list[Job] = []
        for index, item in enumerate(items):
            added, taken = self.assembly.source.in_place(item, plus, minus)
            terms = [self._split(own) for own in (item, *added, *taken)]
            check_layouts([item, *added, *taken], terms)
            jobs += [
                Job(index, sample, pieces, (seeds[index], sample, place), mixture)
                for sample in range(samples)
                for place, pieces in enumerate(zip(*terms, strict=True))
            ]
        return jobs

    def _results(
        self,
        items: Sequence[Item],
        groups: Sequence[Sequence[Job]],
        count: int,
        on_progress: OnProgress | None,
    ) -> list[list[Item]]:
        """`count` results for each item."""
        outputs: dict[tuple[int, int], list[Item]] = {}
        done, total = 0, sum(map(len, groups))
        for batch in self.stages.run(groups, self.sampling):
            ((_, decoded),) = batch.states
            for job, result in zip(batch.jobs, decoded, strict=True):
                outputs.setdefault((job.item, job.result), []).append(result)
            done += len(batch.jobs)
            if on_progress is not None:
                on_progress(done, total)
        join = self.assembly.task.join
        return [[join(outputs[index, number], item) for number in range(count)] for index, item in enumerate(items)]
