"""Kills at every step of the file system: what stands then, and whether the next run mends it."""

from __future__ import annotations

import gc
import random
import shutil
import tempfile
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
import transformers

from optimum_ane import export
from optimum_ane.compression.recipes import get_recipe
from optimum_ane.errors import OutputError, PackageError
from optimum_ane.hub.contents import LocalFile, LocalPackage, read_package
from optimum_ane.hub.page import PageRequest, compose
from optimum_ane.hub.remote import Remote, RemoteFile
from optimum_ane.modeling import ANEModelForSequenceClassification
from optimum_ane.package import file_operations
from optimum_ane.package.file_writing import write_file
from optimum_ane.package.files import hash_file, verify_files
from optimum_ane.package.manifest import Manifest
from optimum_ane.package.staging import find_foreign
from optimum_ane.workflows import stages
from optimum_ane.workflows.compress import Original, compress_package
from verification.faults import KILLED, count_points, run_copy
from verification.row import Row

_LENGTH = 8


@dataclass(frozen=True)
class Workflow:
    """Something that writes to disk, on a tiny package.

    Attributes:
        name: For people.
        run: Does it, in a folder; from its start, or after it was killed.
        outputs: The packages that it makes, in the folder.
        before: What is in the folder at first: copies of the tiny package, by name.
        kept: What it only reads, which no fault may change.
        has_exchange: Whether folders can change places; where not, an output may be absent until the next run.
    """

    name: str
    run: Callable[[Path], object]
    outputs: Sequence[str] = ("out",)
    before: Sequence[str] = ()
    kept: Sequence[str] = ()
    has_exchange: bool = True


@dataclass
class Result:
    """What came of one workflow.

    Attributes:
        points: At how many points it has.
        tried: At how many of them it was killed.
        found: How often each thing was found that must not be: "loss", "absent", "rerun failed", "litter".
    """

    points: int = 0
    tried: int = 0
    found: Tally[str] = field(default_factory=Tally)


def measure(folder: Path) -> Iterator[Row]:
    """Kills each workflow at every point, looks at what stands, and runs it again."""
    tiny = TinyPackage(folder / "tiny")
    for workflow in workflows(tiny):
        result = kill_everywhere(workflow, tiny, folder / "places")
        absent = "" if workflow.has_exchange else ", absent until the next run where folders cannot change places"
        counts = {what: result.found[what] for what in ("loss", "absent", "rerun failed", "litter")}
        at_fault = {what: count for what, count in counts.items() if workflow.has_exchange or what != "absent"}
        yield Row(
            f"killed at every rename, unlink, write and fsync, and at every stage: {workflow.name}",
            f"0 losses, outputs absent, failed reruns, litter{absent}",
            f"{result.tried} points: " + ", ".join(f"{count} {what}" for what, count in counts.items()),
            result.tried == result.points > 0 and not any(at_fault.values()),
        )


class TinyPackage:
    """A tiny model, its package, and exports of it that take no conversion."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)  # a copy of a process has no threads but one
        gc.collect()
        gc.freeze()  # each copy would go through all that is imported here
        transformers.logging.disable_progress_bar()
        folder.mkdir(parents=True)
        config = transformers.DistilBertConfig(
            dim=16, n_layers=1, n_heads=2, hidden_dim=32, vocab_size=50, max_position_embeddings=16, num_labels=2
        )
        torch.manual_seed(0)
        self.model = transformers.DistilBertForSequenceClassification(config).eval()
        self.checkpoint = folder / "checkpoint"
        self.model.save_pretrained(self.checkpoint)
        self.package = folder / "package"
        export(self.model, self.package, sequence_length=_LENGTH, validate=False, quiet=True)

    def export(self, output: Path) -> None:
        """Exports it again; the program is a copy of the one that was converted."""

        def copy(functions: object, path: Path, **_: object) -> None:
            shutil.copytree(self.package / "model.mlpackage", path)

        with mock.patch.object(stages, "build_program", copy):
            export(self.model, output, sequence_length=_LENGTH, validate=False, overwrite=True, quiet=True)


def workflows(tiny: TinyPackage) -> list[Workflow]:
    """All that are killed."""

    def stepwise(place: Path) -> None:
        with mock.patch.object(file_operations, "exchange", return_value=False):
            tiny.export(place / "out")

    return [
        Workflow("export", lambda place: tiny.export(place / "out")),
        Workflow("export --overwrite", lambda place: tiny.export(place / "out"), before=["out"]),
        Workflow("export --overwrite without exchange", stepwise, before=["out"], has_exchange=False),
        Workflow("compress --overwrite", _compress, before=["source", "out"], kept=["source"]),
        Workflow("save_pretrained", _save, before=["source"], kept=["source"]),
        Workflow("publish, what is done here", _publish, outputs=[], before=["source", "other"], kept=["source"]),
        Workflow("zoo", lambda place: _run_zoo(tiny, place), outputs=["zoo/packages/tiny/seq8"]),
        Workflow("a report", _write_report, outputs=[], before=["source"], kept=["source"]),
    ]


def kill_everywhere(
    workflow: Workflow, tiny: TinyPackage, folder: Path, most: int | None = None, seed: int = 0
) -> Result:
    """Kills a workflow at each of its points, in a folder of its own each time, and runs it again.

    Args:
        workflow: What.
        tiny: The package that it starts with.
        folder: Where; emptied between.
        most: Kill it at no more than so many points, drawn at random.
        seed: Of the draw.
    """
    usual = _prepare(workflow, tiny, folder)
    points = count_points(lambda: _run_in(workflow, usual))
    expected = _names(usual, workflow)
    chosen = range(1, points + 1)
    if most is not None and most < points:
        chosen = sorted(random.Random(seed).sample(chosen, most))
    result = Result(points)
    for point in chosen:
        place = _prepare(workflow, tiny, folder)
        before = {name: _digest(place / name) for name in (*workflow.outputs, *workflow.kept)}
        code = run_copy(lambda place=place: _run_in(workflow, place), point)
        if code != KILLED:
            raise RuntimeError(f"{workflow.name}: point {point} of {points} was not reached (code {code})")
        result.tried += 1
        result.found.update(_look(workflow, place, before))
        if run_copy(lambda place=place: _run_in(workflow, place)):
            result.found["rerun failed"] += 1
        result.found.update(_look_again(workflow, place, before, expected))
    shutil.rmtree(folder)
    return result


def _prepare(workflow: Workflow, tiny: TinyPackage, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    place = folder / "place"
    (place / "temporary").mkdir(parents=True)
    for name in workflow.before:
        shutil.copytree(tiny.package, place / name)
    return place


def _run_in(workflow: Workflow, place: Path) -> None:
    with mock.patch.object(tempfile, "tempdir", str(place / "temporary")):
        workflow.run(place)


def _look(workflow: Workflow, place: Path, before: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """What is wrong right after the kill."""
    for name in workflow.kept:
        if _digest(place / name) != before[name]:
            yield "loss"
    for name in workflow.outputs:
        found = _digest(place / name)
        if not found and before[name]:
            yield "absent"
            copies = [path.parent for path in place.rglob("ane_config.json") if path.parent != place / name]
            if not any(_digest(path) == before[name] for path in copies):
                yield "loss"
        elif found != before[name] and not _is_whole(place / name):
            yield "loss"


def _look_again(
    workflow: Workflow, place: Path, before: Mapping[str, Mapping[str, str]], expected: set[str]
) -> Iterator[str]:
    """What is wrong after the workflow was run again."""
    for name in workflow.kept:
        if _digest(place / name) != before[name]:
            yield "loss"
    for name in workflow.outputs:
        if not _is_whole(place / name) or _digest(place / name) == before[name]:
            yield "rerun failed"
    if _names(place, workflow) != expected:
        yield "litter"


def _digest(directory: Path) -> dict[str, str]:
    """The SHA-256 of all files below a directory, by name; none where it is not there."""
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): hash_file(path) for path in paths}


def _is_whole(package: Path) -> bool:
    """Whether a package has all its files as it lists them, its documents, and no others."""
    try:
        verify_files(package, Manifest.read(package))
    except PackageError:
        return False
    return not find_foreign(package) and (package / "README.md").read_text(encoding="utf-8").rstrip().endswith("-->")


def _names(place: Path, workflow: Workflow) -> set[str]:
    """All that lies in a place beside what is in the outputs."""
    names = {path.relative_to(place).as_posix() for path in place.rglob("*")}
    return {name for name in names if not name.startswith(tuple(f"{output}/" for output in workflow.outputs))}


def _compress(place: Path) -> None:
    recipe = get_recipe("int8")
    compress_package(
        place / "source", recipe, place / "out", original=Original(wanted="no"), overwrite=True, quiet=True
    )


def _save(place: Path) -> None:
    """Saves a package; is refused where the run before has done so."""
    model = ANEModelForSequenceClassification.from_pretrained(place / "source")
    is_there = (place / "out").exists()
    try:
        model.save_pretrained(place / "out")
    except OutputError:
        if not is_there:
            raise
    if _digest(place / "out") != _digest(place / "source"):
        raise RuntimeError("what was saved is not what was loaded")


def _write_report(place: Path) -> None:
    write_file(place / "report.json", '{"rows": 3}\n' * 100)


@dataclass(frozen=True)
class _Repository(Remote):
    """A repository with one package, as if it had been read from the Hub."""

    directory: Path = Path()

    def read(self, path: str) -> bytes:
        return (self.directory / path).read_bytes()


def _publish(place: Path) -> None:
    """Publishes up to where the Hub would be asked: checks, copies, reads the other package, writes the page."""
    files = {}
    for path in (place / "other").rglob("*"):
        if path.is_file():
            file = LocalFile(path.relative_to(place / "other").as_posix(), path)
            files[f"beside/{file.path}"] = RemoteFile(file.size, file.blob_id, file.sha256)
    repository = place / "temporary" / "repository"
    if not repository.exists():
        repository.mkdir()
        (repository / "beside").symlink_to(place / "other")
    remote = _Repository(None, "me/tiny", "main", "0" * 40, True, files=files, directory=repository)  # type: ignore[arg-type]

    class Publisher:
        def __init__(self, api: object, package: LocalPackage, *_: object) -> None:
            self.package = package

        def run(self, *_: object) -> mock.Mock:
            page = compose(self.package, remote, "", PageRequest(license="mit"))
            if "beside" not in (page.card or ""):
                raise RuntimeError("the card does not list the other package")
            return mock.Mock(url="https://hub")

    model = ANEModelForSequenceClassification.from_pretrained(place / "source")
    with mock.patch("optimum_ane.workflows.publish.Publisher", Publisher):
        model.push_to_hub("me/tiny", license="mit")
    read_package(place / "source")


def _run_zoo(tiny: TinyPackage, place: Path) -> None:
    from model_zoo.catalog import make_jobs, read_catalog
    from model_zoo.records import Workplace
    from model_zoo.run import Outcome, clean_up, make_plans
    from model_zoo.summary import summarize, write_summary
    from model_zoo.worker import carry_out

    listed = place / "list.yaml"
    listed.write_text(
        f"models:\n- {{name: tiny, model: {tiny.checkpoint}, architecture: distilbert, "
        f"task: text-classification, sequence_lengths: [{_LENGTH}], license: mit}}\n"
    )

    def copy(functions: object, path: Path, **_: object) -> None:
        shutil.copytree(tiny.package / "model.mlpackage", path)

    output = place / "zoo"
    outcomes = []
    with mock.patch.object(stages, "build_program", copy):
        plans = make_plans(make_jobs(read_catalog(listed), None), output, None)
        clean_up(plans, Workplace(output))
        for plan in plans:
            if plan.order is None:
                raise RuntimeError(plan.reason)
            carry_out(plan.order)
            outcomes.append(Outcome(plan.job, "done"))
    write_summary(summarize(outcomes, Workplace(output)), Workplace(output))
