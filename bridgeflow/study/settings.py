"""What a study declares."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from bridgeflow.config import layers
from bridgeflow.config import recipe as recipes
from bridgeflow.config.recipe import Recipe
from bridgeflow.config.validation import validated
from bridgeflow.data.files import is_regular
from bridgeflow.errors import UsageError
from bridgeflow.settings import Settings

ARM_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class ArmSettings(Settings):
    """One way to train, different from the others in what it is about."""

    change: dict[str, Any] = {}
    """Keys of a recipe, laid over the study's."""
    recipe: str | None = None
    """Another recipe than the study's."""
    seeds: tuple[int, ...] | None = None
    """Other seeds than the study's."""
    guidance: tuple[float, ...] | None = None
    """Other scales of guidance than the study's."""
    weak_step: int | None = Field(default=None, ge=1)
    """Step of the run at which its weights are put aside, to guide away from when it is scored (autoguidance)."""


class ClaimSettings(Settings):
    """That one arm is better than another, at a setting of sampling."""

    says: str
    """The claim, in a sentence."""
    better: str
    """Arm that is to be better."""
    than: str
    """Arm that it is held against."""
    steps: int | None = None
    """Solver steps at which they are held against each other; null takes each arm's best."""
    paper: str = ""
    """What the paper found, with its table."""


class ScoringSettings(Settings):
    """How every run is scored."""

    count: int = Field(default=500, ge=16)
    """Held-out examples."""
    solver: str = "euler"
    """Solver of all."""
    steps: tuple[int, ...] = Field(default=(1, 2, 5, 10, 25, 50), min_length=1)
    """Numbers of solver steps."""
    guidance: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    """Scales of guidance, of which the best counts at each number of steps; 1 is none. Models that were trained without
    guidance have 1 alone."""


class StudySettings(Settings):
    """A study: arms, each trained with every seed, scored alike; and claims about them."""

    title: str
    """What it is about."""
    recipe: str
    """Recipe that every arm starts from."""
    change: dict[str, Any] = {}
    """Keys of a recipe, laid over it for all arms."""
    seeds: tuple[int, ...] = Field(default=(0, 1), min_length=1)
    """Seeds; all arms have the first before any has the second."""
    metric: str | None = None
    """Figure that decides, one of the task's `better`; its first by default."""
    scoring: ScoringSettings = ScoringSettings()
    """How runs are scored."""
    arms: dict[str, ArmSettings] = Field(min_length=1)
    """Ways to train by name, the most telling first."""
    claims: tuple[ClaimSettings, ...] = ()
    """What is claimed of them."""

    @field_validator("arms")
    @classmethod
    def _names_are_file_names(cls, arms: dict[str, ArmSettings]) -> dict[str, ArmSettings]:
        for name in arms:
            if not ARM_NAME.fullmatch(name):
                raise ValueError(f"an arm is named by small letters, digits, dots and dashes, not {name!r}")
        return arms

    @model_validator(mode="after")
    def _claims_name_arms(self) -> StudySettings:
        for claim in self.claims:
            for name in (claim.better, claim.than):
                if name not in self.arms:
                    raise ValueError(f"a claim is about arm {name!r}, but the arms are {', '.join(self.arms)}")
            if claim.steps is not None and claim.steps not in self.scoring.steps:
                raise ValueError(f"a claim is about {claim.steps} steps, which scoring.steps does not have")
        return self

    def runs(self) -> Iterator[tuple[str, int]]:
        """(arm, seed) of every run, in the order in which they are trained."""
        longest = max(len(arm.seeds or self.seeds) for arm in self.arms.values())
        for place in range(longest):
            for name, arm in self.arms.items():
                seeds = arm.seeds or self.seeds
                if place < len(seeds):
                    yield name, seeds[place]

    def resolved(self, arm: str, seed: int) -> Recipe:
        """The recipe of a run. Raises UsageError, naming the arm, where its keys do not fit."""
        own = self.arms[arm]
        name = own.recipe or self.recipe
        tree = layers.merge(layers.merge(layers.read(name), self.change), own.change)
        tree = layers.merge(tree, {"training": {"seed": seed}})
        if own.weak_step is not None:
            # The step is one that is saved, and it stays.
            tree = layers.merge(tree, {"training": {"checkpoint_every": own.weak_step, "keep": 10_000}})
        try:
            resolved = recipes.resolve(tree, name)
        except UsageError as error:
            raise UsageError(f"arm {arm!r} of the study: {error}") from error
        if own.weak_step is not None and own.weak_step >= resolved.training.steps:
            raise UsageError(
                f"arm {arm!r} of the study: weak_step={own.weak_step} is no step before the last of "
                f"{resolved.training.steps}: choose an earlier one."
            )
        return resolved

    def scales(self, arm: str, recipe: Recipe) -> tuple[float, ...]:
        """Scales of guidance that an arm is scored with."""
        if recipe.keys.null_rate == 0 and self.arms[arm].weak_step is None:
            return (1.0,)
        return self.arms[arm].guidance or self.scoring.guidance


def read_study(path: Path) -> StudySettings:
    """The study in a YAML file. Raises UsageError, one sentence, where the file is none."""
    if not is_regular(path):
        raise UsageError(f"there is no study {str(path)!r}: give a YAML file.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the study {str(path)!r} cannot be read ({error}): it must be UTF-8 text.") from error
    tree = layers.parse(text, f"study {str(path)!r}")
    if not isinstance(tree, Mapping):
        raise UsageError(f"the study {str(path)!r} is not a mapping of keys to values, such as title: ...")
    mistakes: list[str] = []
    study = validated(StudySettings, tree, f"study {str(path)!r}", mistakes)
    if study is None or mistakes:
        raise UsageError(" ".join(mistakes))
    return study
