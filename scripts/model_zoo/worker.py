"""One job in a process of its own: `python -m model_zoo.worker`, with the order as a line of JSON on stdin.

The process ends when its stdin does, so it never outlives the one that started it. What it prints is the job's log;
the last line of a failed one is `error: ` and the reason.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from model_zoo.catalog import Evaluation, Job, Model
from model_zoo.records import Published, Record, Workplace, is_exported, is_published, locked, package_hash
from optimum_ane.errors import ANEError, CheckpointError, for_command_line
from optimum_ane.package.file_trees import remove_tree
from optimum_ane.package.form import ExportForm
from optimum_ane.package.recovery import finish_replacing
from optimum_ane.package.signals import unwinding_signals
from optimum_ane.package.working_folders import find_working

if TYPE_CHECKING:
    from optimum_ane.workflows.export import ExportChecks


@dataclass(frozen=True)
class Order:
    """What a worker is told.

    Attributes:
        job: The job.
        output: The output directory.
        key: See `make_key`.
        source: See `source_of`.
        private: Whether a repository that is made is private; None takes the organization's default.
    """

    job: Job
    output: Path
    key: str
    source: str
    private: bool | None = None

    def to_json(self) -> str:
        """The order as one line."""
        return json.dumps(asdict(self) | {"output": str(self.output)})

    @classmethod
    def from_json(cls, line: str) -> Order:
        """Reads what `to_json` wrote."""
        values = json.loads(line)
        job = values["job"]
        model = job["model"]
        evaluation = model["evaluation"]
        model = Model(
            **model
            | {
                "form": ExportForm(**model["form"]),
                "sequence_lengths": tuple(model["sequence_lengths"]),
                "compress": tuple(model["compress"]),
                "evaluation": None if evaluation is None else Evaluation(**evaluation),
            }
        )
        return cls(**values | {"job": Job(**job | {"model": model}), "output": Path(values["output"])})


def carry_out(order: Order) -> None:
    """Exports and publishes as far as that is not done yet.

    Raises:
        ANEError: What went wrong, and what to do.
    """
    job, workplace = order.job, Workplace(order.output)
    package, path = workplace.package(job), workplace.record(job)
    # A run that was killed may have left a worker that is still about to notice.
    with locked(path.with_suffix(".lock")):
        record = Record.read(path)
        if record is None or not is_exported(record, order.key, package):
            record = _export(order, package, path)
        elif record.package is None:
            record = replace(record, package=package_hash(package))
            record.write(path)
        if job.repository is not None and not is_published(record, job, package):
            # Several packages share the repository's card: one after the other.
            with locked(workplace.lock(job.repository)):
                published = _publish(job, job.repository, package, order.private)
            replace(record, published=published).write(path)


def _export(order: Order, package: Path, path: Path) -> Record:
    from optimum_ane.checkpoints.configuration import load_config
    from optimum_ane.checkpoints.hub_options import HubOptions
    from optimum_ane.workflows.export import export_checkpoint

    _remove_leftovers(package)
    job, model = order.job, order.job.model
    record = Record(order.key, replaces=package_hash(package))
    record.write(path)
    start = time.monotonic()
    hub = HubOptions(revision=None if model.model.startswith("/") else order.source)
    model_type = load_config(model.model, hub).model_type
    if model_type != model.architecture:
        raise CheckpointError(
            f"{model.model} is a {model_type}, and the list says {model.architecture}; mend the list"
        )
    export_checkpoint(
        model.model,
        package,
        job.form,
        _checks(model),
        compress=job.recipe,
        overwrite=True,
        hub=hub,
    )
    record = replace(record, package=package_hash(package), seconds=round(time.monotonic() - start, 1))
    record.write(path)
    return record


def _remove_leftovers(package: Path) -> None:
    """Removes what a killed worker has left, on whichever machine: no other may work on the job now."""
    for folder in find_working(package.parent):
        if folder.name.startswith(f".{package.name}."):
            finish_replacing(folder)
            remove_tree(folder)


def _checks(model: Model) -> ExportChecks:
    """What a package of the model must pass."""
    from optimum_ane.evaluation.accuracy import AccuracyLimits
    from optimum_ane.evaluation.datasets import DatasetSpec
    from optimum_ane.workflows.export import ExportChecks

    if model.evaluation is None:
        return ExportChecks(psnr_threshold=model.psnr_threshold)
    settings = asdict(model.evaluation)
    drop = settings.pop("max_accuracy_drop")
    limits = AccuracyLimits() if drop is None else AccuracyLimits(drop)
    return ExportChecks(dataset=DatasetSpec(**settings), limits=limits, psnr_threshold=model.psnr_threshold)


def _publish(job: Job, repository: str, package: Path, private: bool | None) -> Published:
    from optimum_ane.workflows.publish import publish

    publication = publish(
        package, repository, subfolder=job.subfolder, private=private, license=job.model.license, card="keep"
    )
    sent = package_hash(package)
    assert sent is not None
    return Published(repository, job.subfolder, job.model.license, sent, publication.url)


def _end_with_stdin() -> None:
    """Ends the process at the end of stdin, which comes when the starter is gone, however it went."""

    def watch() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    order = Order.from_json(sys.stdin.readline())
    _end_with_stdin()
    try:
        with unwinding_signals():
            carry_out(order)
    except ANEError as error:
        with for_command_line():
            reason = str(error)
    except KeyboardInterrupt:
        reason = "interrupted"
    except Exception as error:  # noqa: BLE001 - whatever it is, the other jobs go on and the reason is told
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
    else:
        return 0
    print(f"error: {' '.join(reason.split())}", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
