"""Recipes by name and from YAML files: which weights become what, in which order, and what that asks of a system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from optimum_ane.compression.feed_forward import is_feed_forward
from optimum_ane.compression.settings import KINDS, NO_CHANNEL_SCALE, Settings, near_miss, read_settings
from optimum_ane.compression.targets import latest
from optimum_ane.errors import CompressionError
from optimum_ane.package.deployment_targets import TARGETS

_MAX_BYTES = 2**20
_LATER = "it looks at what a package computes: export without it, then `optimum-cli ane compress PACKAGE {} OUTPUT`"
_REFUSED = {
    **dict.fromkeys(("palette4-scale", "palette4-g16-scale"), NO_CHANNEL_SCALE),
    **{name: _LATER.format(name) for name in ("mixed", "int8-activations")},
}
"""Names that people will try, and why they are no recipes of this table."""

_RECIPE_KEYS = ("summary", "psnr", "advice", "residency", "sources", "steps")
_STEP_KEYS = ("kind", "joint", "global", "op_types", "feed_forward", "weights")


@dataclass(frozen=True)
class Step:
    """One pass over the program: one kind of compression.

    What a weight becomes is decided from the particular to the general: its own name, then whether it is of a
    feed-forward layer, then the type of an operation that reads it, then the rest. None leaves a weight to a later
    step, or as it is.

    Attributes:
        kind: `"palettize"`, `"quantize"` or `"prune"`.
        default: For every weight that nothing below names.
        feed_forward: For weights of feed-forward layers; see `feed_forward.is_feed_forward`.
        op_types: By MIL type of the operation that reads the weight; of a weight read by several, the first listed.
        weights: By the weight's name in the program, or a pattern as in a shell; a name goes before patterns, of
            patterns the first that matches counts.
        joint: Compress what an earlier step left compressed once more; without it such weights are passed by.
    """

    kind: str
    default: Settings | None = None
    op_types: Mapping[str, Settings | None] = field(default_factory=dict)
    weights: Mapping[str, Settings | None] = field(default_factory=dict)
    joint: bool = False
    feed_forward: Settings | None = None

    def settings_for(self, name: str, op_types: tuple[str, ...], readers: tuple[str, ...] = ()) -> Settings | None:
        """What this step makes of one weight.

        Args:
            name: The weight's name in the program.
            op_types: Of the operations that read it.
            readers: The names of these operations.
        """
        if name in self.weights:
            return self.weights[name]
        for pattern, settings in self.weights.items():
            if fnmatchcase(name, pattern):
                return settings
        if self.feed_forward is not None and is_feed_forward(name, readers):
            return self.feed_forward
        for op_type, settings in self.op_types.items():
            if op_type in op_types:
                return settings
        return self.default

    @property
    def all_settings(self) -> tuple[Settings, ...]:
        """Every setting that it may apply."""
        every = (self.default, self.feed_forward, *self.op_types.values(), *self.weights.values())
        return tuple(settings for settings in every if settings is not None)


@dataclass(frozen=True)
class Recipe:
    """How the weights of a package are compressed.

    Attributes:
        name: What `ane_config.json` records.
        summary: One line.
        steps: In order.
        psnr: dB that a sound package of this recipe reaches against the original; the export's gate.
        advice: Why one should not take it, if so.
        residency: Where it is known to stay on the Neural Engine.
        sources: Where that is published.
    """

    name: str
    summary: str
    steps: tuple[Step, ...]
    psnr: float
    advice: str | None = None
    residency: str | None = None
    sources: tuple[str, ...] = ()

    @property
    def minimum_deployment_target(self) -> str:
        """The oldest target that reads every format of it."""
        return self._need()[0]

    def _need(self) -> tuple[str, str]:
        needs = [settings.needs for step in self.steps for settings in step.all_settings]
        needs += [("iOS18", "two kinds of compression joined") for step in self.steps if step.joint]
        target = latest(*(target for target, _ in needs))
        return target, next(reason for needed, reason in needs if needed == target)

    def check_target(self, target: str, subject: str) -> None:
        """Refuses a deployment target that cannot read this recipe.

        Args:
            target: One of `targets.TARGETS`.
            subject: What has the target, for the message: `"the package out/"`.

        Raises:
            CompressionError: It is older than the recipe's; the message names the one to export with.
        """
        needed, reason = self._need()
        if TARGETS.index(target) < TARGETS.index(needed):
            raise CompressionError(
                f"recipe {self.name} needs {needed} ({reason}) and {subject} is for {target}; export with "
                f"--minimum-deployment-target {needed}, or choose one of {', '.join(_names_for(target))}"
            )

    def describe(self) -> dict[str, Any]:
        """As the report records it."""
        return {
            "name": self.name,
            "summary": self.summary,
            "minimum_deployment_target": self.minimum_deployment_target,
            "psnr": self.psnr,
            "advice": self.advice,
            "residency": self.residency,
            "sources": list(self.sources),
        }


def recipe_names() -> tuple[str, ...]:
    """The names of the recipes that ship, in the order of the file."""
    return tuple(_shipped())


def get_recipe(name_or_yaml: str | Path) -> Recipe:
    """Looks up a recipe by name, or reads one from a YAML file.

    Args:
        name_or_yaml: A name of `recipe_names`, or the path of a `.yaml` or `.yml` file.

    Raises:
        CompressionError: There is no such recipe, or the file is not a sound one; the message says where.
    """
    if str(name_or_yaml).endswith((".yaml", ".yml")):
        return _read_file(Path(name_or_yaml).expanduser())
    shipped = _shipped()
    if str(name_or_yaml) in _REFUSED:
        raise CompressionError(f"{name_or_yaml} cannot be taken from the table: {_REFUSED[str(name_or_yaml)]}")
    if str(name_or_yaml) not in shipped:
        raise CompressionError(
            f"there is no recipe {str(name_or_yaml)!r}{near_miss(str(name_or_yaml), shipped)} "
            "(a recipe of your own is a path that ends in .yaml)"
        )
    return shipped[str(name_or_yaml)]


def _names_for(target: str) -> list[str]:
    limit = TARGETS.index(target)
    fitting = [r.name for r in _shipped().values() if TARGETS.index(r.minimum_deployment_target) <= limit]
    return fitting or ["none, as coremltools compresses from iOS16 on"]


@cache
def _shipped() -> Mapping[str, Recipe]:
    text = resources.files("optimum_ane.compression").joinpath("recipes.yaml").read_text(encoding="utf-8")
    return {name: _recipe(name, entries, name) for name, entries in _load(text, "recipes.yaml").items()}


def _read_file(path: Path) -> Recipe:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CompressionError(f"cannot read the recipe {path}: {error}") from error
    if len(data) > _MAX_BYTES:
        raise CompressionError(f"the recipe {path} is longer than {_MAX_BYTES} bytes")
    return _recipe(path.stem, _load(text, str(path)), str(path))


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe subset; refuses a key that is there twice, of which PyYAML would keep the last, and aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read in a recipe")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.YAMLError(f"{key!r} is there twice{key_node.start_mark}")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _load(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise CompressionError(f"{where} is not sound YAML: {' '.join(str(error).split())}") from error


def _recipe(name: str, entries: Any, where: str) -> Recipe:
    entries = _mapping(entries, _RECIPE_KEYS, where)
    steps = entries.get("steps")
    if not isinstance(steps, list) or not steps:
        raise CompressionError(f"{where}: steps should be a list of at least one step")
    made = tuple(_step(step, f"{where}: step {number}") for number, step in enumerate(steps, 1))
    if made[0].joint:
        raise CompressionError(f"{where}: step 1 is joint, and there is nothing before it to join")
    psnr = entries.get("psnr", _usual_psnr(made))
    if isinstance(psnr, bool) or not isinstance(psnr, int | float):
        raise CompressionError(f"{where}: psnr is {psnr!r}; it should be a number of dB")
    texts = {key: _text(entries.get(key), f"{where}: {key}") for key in ("summary", "advice", "residency")}
    sources = entries.get("sources", [])
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
        raise CompressionError(f"{where}: sources should be a list of texts")
    return Recipe(
        name=name,
        summary=texts["summary"] or "a recipe of one's own",
        steps=made,
        psnr=float(psnr),
        advice=texts["advice"],
        residency=texts["residency"],
        sources=tuple(sources),
    )


def _step(entries: Any, where: str) -> Step:
    entries = _mapping(entries, _STEP_KEYS, where)
    kind = entries.get("kind")
    if kind not in KINDS:
        raise CompressionError(f"{where}: kind is {kind!r}; it should be one of {', '.join(KINDS)}")
    joint = entries.get("joint", False)
    if not isinstance(joint, bool):
        raise CompressionError(f"{where}: joint is {joint!r}; it should be true or false")
    step = Step(
        kind=kind,
        default=_optional(kind, entries.get("global"), f"{where}: global"),
        op_types=_by_name(kind, entries.get("op_types"), f"{where}: op_types"),
        weights=_by_name(kind, entries.get("weights"), f"{where}: weights"),
        joint=joint,
        feed_forward=_optional(kind, entries.get("feed_forward"), f"{where}: feed_forward"),
    )
    if not step.all_settings:
        raise CompressionError(
            f"{where} compresses nothing; give global, feed_forward, op_types or weights some settings"
        )
    return step


def _optional(kind: str, entries: Any, where: str) -> Settings | None:
    return None if entries is None else read_settings(kind, entries, where)


def _by_name(kind: str, entries: Any, where: str) -> dict[str, Settings | None]:
    if entries is None:
        return {}
    if not isinstance(entries, Mapping) or not all(isinstance(key, str) for key in entries):
        raise CompressionError(f"{where} should be a mapping of names to settings")
    return {key: _optional(kind, value, f"{where}: {key}") for key, value in entries.items()}


def _mapping(entries: Any, known: tuple[str, ...], where: str) -> Mapping[str, Any]:
    if not isinstance(entries, Mapping):
        raise CompressionError(f"{where} should be a mapping with {', '.join(known)}, it is {entries!r:.60}")
    for key in entries:
        if key not in known:
            raise CompressionError(f"{where}: unknown entry {key!r}{near_miss(str(key), known)}")
    return entries


def _text(value: Any, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise CompressionError(f"{where} is {value!r:.60}; it should be a text")
    return value


def _usual_psnr(steps: tuple[Step, ...]) -> float:
    """The gate of a recipe that states none: what shipped recipes of as few bits reach."""
    fewest = min(settings.bits for step in steps for settings in step.all_settings)
    return next(psnr for bits, psnr in ((8, 25.0), (6, 20.0), (4, 10.0), (0, 0.0)) if fewest >= bits)
