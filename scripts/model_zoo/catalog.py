"""The list of models: what `zoo.yaml` may say, checked before any work is done."""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Iterable
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from model_zoo.strict_yaml import ListError, Section, read_yaml
from optimum_ane.errors import ANEError
from optimum_ane.package.form import GENERATION, ExportForm

NO_COMPRESSION = "none"
REPOSITORY = "{org}/{name}-ane"
_FIELDS = ("org", "name")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_LIST_KEYS = ("defaults", "models")
_EVALUATION_KEYS = (
    "dataset",
    "config",
    "split",
    "text_column",
    "text_pair_column",
    "label_column",
    "audio_column",
    "max_samples",
    "max_accuracy_drop",
)
_OWN_KEYS = ("name", "model", "architecture", "task")
_FORM_FIELDS = tuple(entry for entry in fields(ExportForm) if entry.name not in ("task", "sequence_length"))
_SHARED_KEYS = (
    *(entry.name for entry in _FORM_FIELDS),
    "compress",
    "evaluation",
    "first_at_root",
    "license",
    "psnr_threshold",
    "repository",
    "revision",
    "sequence_lengths",
)


@dataclass(frozen=True)
class Evaluation:
    """A dataset to score the original and the package on; see `DatasetSpec` for all but the last."""

    dataset: str
    config: str | None = None
    split: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    audio_column: str | None = None
    max_samples: int | None = None
    max_accuracy_drop: float | None = None


@dataclass(frozen=True)
class Model:
    """One entry of the list.

    Attributes:
        name: What jobs, folders and the repository are called by.
        model: Hub id or directory of the checkpoint.
        revision: Branch, tag or commit on the Hub; None is the default branch.
        architecture: The checkpoint's `model_type`.
        form: What the packages share of their form; its length is the first of `sequence_lengths`.
        sequence_lengths: One package for each, in tokens; None stands for the only package of models whose rows have
            no length to choose: language models with a cache, images, sounds.
        compress: One package for each recipe of compression; `"none"` stores the weights as they are.
        psnr_threshold: dB; None is the export's own.
        evaluation: A dataset to score on.
        repository: Where to publish, with the fields {org} and {name}.
        first_at_root: Whether the first package stands at the repository's root, so that it loads without a
            subfolder.
        license: For a source that states none.
    """

    name: str
    model: str
    revision: str | None
    architecture: str
    form: ExportForm
    sequence_lengths: tuple[int | None, ...]
    compress: tuple[str, ...]
    psnr_threshold: float | None
    evaluation: Evaluation | None
    repository: str
    first_at_root: bool
    license: str | None


@dataclass(frozen=True)
class Job:
    """One package to be made and published.

    Attributes:
        model: The entry of the list.
        sequence_length: In tokens; None where there is none to choose.
        recipe: Of compression; None for none.
        repository: Where to publish; None for nowhere.
        subfolder: Where in that repository; empty for the root.
    """

    model: Model
    sequence_length: int | None
    recipe: str | None
    repository: str | None
    subfolder: str

    @property
    def form(self) -> ExportForm:
        """What the export is asked for."""
        length = self.sequence_length
        return self.model.form if length is None else replace(self.model.form, sequence_length=(length,))

    @property
    def variant(self) -> str:
        """The package among those of its model: `seq128`, `seq128-int8`, or without a length `float16` and `int8`."""
        length = [] if self.sequence_length is None else [f"seq{self.sequence_length}"]
        recipe = [] if self.recipe is None else [Path(self.recipe).stem]
        return "-".join(length + recipe or [self.model.form.precision])

    @property
    def id(self) -> str:
        """The package among all."""
        return f"{self.model.name}/{self.variant}"


def read_catalog(path: Path) -> list[Model]:
    """Reads a list of models and checks every entry as far as that is possible without the checkpoints.

    Paths in it that begin with `./`, `../` or `/` are files or directories, relative to the list.

    Raises:
        ListError: The first thing that is wrong: file, line, entry, and what is allowed.
    """
    root = read_yaml(path)
    root.only(_LIST_KEYS)
    defaults = root.section("defaults")
    if defaults is not None:
        defaults.only(_SHARED_KEYS)
    models: dict[str, Model] = {}
    for section in root.sections("models"):
        name = section.text("name")
        section.name = f"model {name!r}"
        section.only((*_OWN_KEYS, *_SHARED_KEYS))
        if name in models:
            raise section.error("another model has this name", "name")
        has_lengths = "sequence_lengths" in section
        whole = section if defaults is None else section.with_defaults(defaults)
        models[name] = _read_model(whole, name, has_lengths)
    return list(models.values())


def make_jobs(models: Iterable[Model], org: str | None) -> list[Job]:
    """Makes a job for each package of each model.

    Args:
        models: Entries of the list.
        org: User or organization to publish under; None publishes nowhere.

    Raises:
        ListError: Two packages would stand at the same place, or a repository's name cannot be one.
    """
    jobs = []
    places: dict[tuple[str, str], str] = {}
    ids: set[str] = set()
    for model in models:
        repository = None if org is None else _expand(model, org)
        variants = [(length, recipe) for length in model.sequence_lengths for recipe in model.compress]
        for number, (length, recipe) in enumerate(variants):
            job = Job(model, length, None if recipe == NO_COMPRESSION else recipe, repository, "")
            if number or not model.first_at_root:
                job = Job(model, length, job.recipe, repository, job.variant)
            if job.id in ids:
                raise ListError(f"{job.id} is there twice: two recipes have the same file name; rename one")
            ids.add(job.id)
            if repository is not None:
                other = places.setdefault((repository, job.subfolder), job.id)
                if other != job.id:
                    place = "/".join(filter(None, (repository, job.subfolder)))
                    raise ListError(f"{other} and {job.id} would both stand at {place}; give one another repository")
            jobs.append(job)
    return jobs


def _expand(model: Model, org: str) -> str:
    repository = model.repository.format(org=org, name=model.name)
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ListError(f"{repository!r} cannot be a repository; check --org and the entry {model.name}") from error
    return repository


def _read_model(section: Section, name: str, has_lengths: bool) -> Model:
    """Reads an entry; `has_lengths` says whether `sequence_lengths` stands in it, and not among the defaults alone."""
    if not _NAME.fullmatch(name):
        raise section.error(f"{name!r} is no name; letters, digits, '.', '_' and '-' make one, 80 at most", "name")
    tasks = _tasks()
    architecture = section.text("architecture")
    if architecture not in tasks:
        near = difflib.get_close_matches(architecture, tasks, 1)
        meant = f"; did you mean {near[0]}?" if near else "; `optimum-cli export ane --list` shows what is"
        raise section.error(f"{architecture!r} is no model type that can be exported{meant}", "architecture")
    task = section.text("task", tasks[architecture])
    lengths: tuple[int | None, ...] = (None,)
    if _takes_lengths(section, architecture, task):
        lengths = section.wholes("sequence_lengths", (128,))
    elif has_lengths:
        raise section.error(f"{architecture} for {task} has no rows of tokens of a length", "sequence_lengths")
    return Model(
        name=name,
        model=_path_or_id(section, "model", section.text("model"), is_directory=True),
        revision=section.optional_text("revision"),
        architecture=architecture,
        form=_form(section, task, lengths),
        sequence_lengths=lengths,
        compress=_recipes(section),
        psnr_threshold=section.number("psnr_threshold"),
        evaluation=_evaluation(section),
        repository=_template(section),
        first_at_root=section.flag("first_at_root", True),
        license=section.optional_text("license"),
    )


def _tasks() -> dict[str, tuple[str, ...]]:
    """The tasks of each model type, written by hand or by graph."""
    import optimum_ane.models  # noqa: F401 - registers them
    from optimum_ane.exporters.config import graph_tasks, supported_tasks

    by_hand, by_graph = supported_tasks(), graph_tasks()
    return {
        model_type: tuple(sorted({*by_hand.get(model_type, ()), *by_graph.get(model_type, ())}))
        for model_type in sorted(by_hand.keys() | by_graph.keys())
    }


def _takes_lengths(section: Section, architecture: str, task: str) -> bool:
    """Whether the packages have rows of tokens of one length."""
    from optimum_ane.exporters.config import get_ane_config_class

    if task == GENERATION:
        return section.optional_text("kv_cache") == "none"
    return "text" in get_ane_config_class(architecture, task, "auto").MODALITY


def _form(section: Section, task: str, lengths: tuple[int | None, ...]) -> ExportForm:
    """The form of the first package; all of them are checked."""
    options = {entry.name: _option(section, entry) for entry in _FORM_FIELDS}
    given = {name: value for name, value in options.items() if value is not None}
    _check_target(section, given.get("minimum_deployment_target"))
    try:
        form = ExportForm(task=task, **given)
        forms = [form if length is None else replace(form, sequence_length=(length,)) for length in lengths]
    except ANEError as error:
        raise section.error(str(error)) from error
    return forms[0]


def _option(section: Section, entry: Field) -> Any:
    """The value of the key of an option, of the option's type; None where it is not there."""
    if entry.name not in section:
        return None
    if isinstance(entry.default, bool):
        return section.flag(entry.name)
    if entry.metadata.get("several"):
        return section.extents(entry.name)
    is_number = isinstance(entry.default, int) or entry.metadata.get("type") is int
    return section.whole(entry.name) if is_number else section.optional_text(entry.name)


def _check_target(section: Section, name: str | None) -> None:
    from optimum_ane.package.deployment_targets import canonical_target

    try:
        if name is not None:
            canonical_target(name)
    except ANEError as error:
        raise section.error(str(error), "minimum_deployment_target") from error


def _recipes(section: Section) -> tuple[str, ...]:
    from optimum_ane.compression.recipes import get_recipe

    recipes = []
    for name in section.texts("compress", (NO_COMPRESSION,)):
        value = _path_or_id(section, "compress", name)
        recipes.append(value)
        if value == NO_COMPRESSION:
            continue
        try:
            get_recipe(value)
        except ANEError as error:
            raise section.error(f"{error}; {NO_COMPRESSION!r} is allowed too", "compress") from error
    return tuple(recipes)


def _evaluation(section: Section) -> Evaluation | None:
    inner = section.section("evaluation")
    if inner is None:
        return None
    inner.only(_EVALUATION_KEYS)
    return Evaluation(
        dataset=_path_or_id(inner, "dataset", inner.text("dataset")),
        config=inner.optional_text("config"),
        split=inner.optional_text("split"),
        text_column=inner.optional_text("text_column"),
        text_pair_column=inner.optional_text("text_pair_column"),
        label_column=inner.optional_text("label_column"),
        audio_column=inner.optional_text("audio_column"),
        max_samples=inner.whole("max_samples"),
        max_accuracy_drop=inner.number("max_accuracy_drop"),
    )


def _template(section: Section) -> str:
    template = section.optional_text("repository") or REPOSITORY
    try:
        fields = [parts[1:] for parts in string.Formatter().parse(template) if parts[1] is not None]
    except ValueError as error:
        raise section.error(f"{template!r} is no template ({error})", "repository") from error
    if not all(field in _FIELDS and not form and not conversion for field, form, conversion in fields):
        raise section.error(f"{template!r} may use {{org}} and {{name}} alone, as in {REPOSITORY}", "repository")
    return template


def _path_or_id(section: Section, key: str, value: str, is_directory: bool = False) -> str:
    """A path relative to the list becomes absolute; anything else is a name and stays."""
    if not value.startswith(("./", "../", "/")):
        return value
    path = (section.path.parent / value).resolve()
    if not (path.is_dir() if is_directory else path.is_file()):
        raise section.error(f"there is no {'directory' if is_directory else 'file'} {path}", key)
    return str(path)
