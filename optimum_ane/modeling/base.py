"""`ANEModel`: an exported package behind the interface of a transformers model."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from optimum.modeling_base import OptimizedModel
from transformers import PretrainedConfig

from optimum_ane.access_tokens import tokens_hidden
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import PackageError, UnsupportedModelError
from optimum_ane.hub.download import fetch_package
from optimum_ane.modeling.interface_check import check_interface
from optimum_ane.modeling.package_configuration import load_config
from optimum_ane.package.file_names import check_files, check_link
from optimum_ane.package.form import CUSTOM, ExportForm, form_from_options
from optimum_ane.package.layout import ANE_CONFIG, CARD_AND_REPORT
from optimum_ane.package.manifest import Manifest
from optimum_ane.package.staging import staged
from optimum_ane.package.working_folders import WorkingFolder
from optimum_ane.runtimes import Session, open_session
from optimum_ane.tasks import TASKS, Modality, task_row


class ANEModel(OptimizedModel):
    """Base of the model classes; use the one of your task.

    Only this class and its subclasses know how inputs of transformers' interface become calls of functions. They
    speak to sessions, one for each program, whichever engine executes it.

    Attributes:
        config: The checkpoint's own configuration.
        manifest: What `ane_config.json` says of the package.
        sessions: The loaded programs, by name.
    """

    task: ClassVar[str]
    modality: ClassVar[Modality] = "text"

    def __init__(self, sessions: Mapping[str, Session], config: PretrainedConfig, manifest: Manifest) -> None:
        super().__init__(sessions, config)
        self.sessions = sessions
        self.manifest = manifest
        self.dtype = torch.float32
        self._directory: Path | None = None

    @classmethod
    @tokens_hidden()
    def from_pretrained(
        cls,
        model_id: str | Path,
        export: bool = False,
        *,
        runtime: str = "auto",
        compute_units: str | None = None,
        revision: str | None = None,
        cache_dir: str | None = None,
        token: str | None = None,
        subfolder: str = "",
        local_files_only: bool = False,
        force_download: bool = False,
        trust_remote_code: bool = False,
        verify: bool = True,
        **form: Any,
    ) -> ANEModel:
        """Loads a package from a directory or from the Hub.

        Args:
            model_id: A directory that `optimum-cli export ane` wrote, or a Hub id of such a package. With `export`,
                a transformers checkpoint.
            export: Export the checkpoint first, into a temporary directory; `save_pretrained` keeps it.
            runtime: `"coreml"`, `"portable"`, or `"auto"`: Core ML on macOS and portable elsewhere.
            compute_units: Where Core ML may run it; None takes what the package recommends.
            revision: Branch, tag or commit on the Hub.
            cache_dir: Where downloads are kept; None is the Hub client's own cache.
            token: Access token for the Hub; None takes the one that `hf auth login` stored.
            subfolder: Folder of the repository or directory that holds the package.
            local_files_only: Do not go to the network.
            force_download: Fetch a package's files even if they are cached.
            trust_remote_code: Whether Python code of a checkpoint's repository may be run, with `export`.
            verify: Whether each file of a directory is compared with its SHA-256 before it is used; 45 MB take a tenth
                of a second. Downloads are verified in any case.
            form: With `export`, any field of `ExportForm`: `sequence_length`, `precision`, `pooling` and so on.

        Raises:
            PackageError: There is no package, it cannot be reached, it is damaged, or it is for another task.
            UnsupportedModelError: An argument for packages was given with `export`, or one of an export without it.
            RuntimeUnavailableError: The runtime cannot run here.
        """
        if export:
            if subfolder or local_files_only or force_download:
                raise UnsupportedModelError(
                    "subfolder, local_files_only and force_download are for packages; drop them, or drop export=True "
                    "(HF_HUB_OFFLINE=1 keeps an export off the network)"
                )
            options = {"task": cls.task, **form} | ({} if compute_units is None else {"compute_units": compute_units})
            return cls._from_checkpoint(
                model_id,
                form_from_options(options, f"{cls.__name__}.from_pretrained()"),
                runtime=runtime,
                hub=HubOptions(revision, cache_dir, token, trust_remote_code),
            )
        if form:
            form_from_options(
                {name: None for name in form if name not in _form_names()}, f"{cls.__name__}.from_pretrained()"
            )
            raise UnsupportedModelError(
                f"{', '.join(form)}: options of an export, and this loads a package that has its form; pass "
                "export=True to export a checkpoint, or leave them out"
            )
        directory = fetch_package(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            subfolder=subfolder,
            local_files_only=local_files_only,
            force_download=force_download,
            verify=verify,
        )
        return cls._from_directory(directory, runtime, compute_units)

    @classmethod
    def _from_directory(cls, directory: Path, runtime: str, compute_units: str | None) -> ANEModel:
        manifest = Manifest.read(directory)
        if (manifest.form.task, manifest.modality) != (cls.task, cls.modality):
            raise PackageError(f"{directory} is {_other(manifest, cls.task, cls.modality)}")
        config = cls._load_config(directory)
        sessions = {
            program.name: open_session(directory / program.path, runtime, compute_units or program.compute_units)
            for program in manifest.programs
        }
        check_interface(manifest, sessions)
        model = cls(sessions, config, manifest)
        model._directory = directory
        return model

    @classmethod
    def _load_config(cls, directory: Path) -> PretrainedConfig:
        return load_config(directory)

    @classmethod
    def _from_checkpoint(
        cls,
        model_id: str | Path,
        form: ExportForm,
        *,
        runtime: str,
        hub: HubOptions,
    ) -> ANEModel:
        from optimum_ane.workflows.export import export_checkpoint

        # Lives as long as the model: the portable runtime maps the weight file, Core ML compiles from it.
        temporary = WorkingFolder.temporary()
        directory = temporary.path / "package"
        export_checkpoint(model_id, directory, form, hub=hub)
        model = cls._from_directory(directory, runtime, None)
        model._temporary = temporary
        return model

    def save_pretrained(
        self,
        save_directory: str | Path,
        push_to_hub: bool = False,
        *,
        overwrite: bool = False,
        repo_id: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        license: str | None = None,
    ) -> None:
        """Copies the whole package to a directory and publishes it if asked to.

        Args:
            save_directory: Where to; empty or absent unless `overwrite`.
            push_to_hub: Publish it as well; the arguments below are those of `push_to_hub`.
            overwrite: Replace a package that is already there.
            repo_id: Where on the Hub; None takes the directory's name, in the token's own account.
            commit_message: See `push_to_hub`, as for the rest.
            private: Whether a new repository is private.
            token: Access token.
            revision: Branch.
            create_pr: Whether to open a pull request.
            license: The licence's id.

        Raises:
            OutputError: The directory is not empty, lies in the package's own, or cannot be written.
            PackageError: The model was not loaded from a directory.
            PublishError: The Hub refused, or cannot be reached; the directory is written nevertheless.
        """
        with staged(Path(save_directory).expanduser(), overwrite, [self._package_directory()]) as directory:
            self._copy_package(directory)
        if push_to_hub:
            from optimum_ane.workflows.publish import publish

            publish(
                save_directory,
                repo_id or Path(save_directory).absolute().name,
                message=commit_message,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                license=license,
            )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        subfolder: str = "",
        license: str | None = None,
        card: str = "ask",
    ) -> str:
        """Publishes the package with its card in one commit, as `optimum-cli ane publish` does.

        Args:
            repo_id: `org/name`, or a name alone for the token's own account. Created if it is not there.
            commit_message: Of the commit.
            private: Whether a new repository is private; None leaves it to the Hub.
            token: Access token; None takes the one that `hf auth login` stored.
            revision: Branch; created from main if it is not there.
            create_pr: Open a pull request in an existing repository instead of committing.
            subfolder: Folder of the repository, so that it can hold several packages.
            license: The licence's id on the Hub, where the package does not know the one of its source.
            card: `"keep"` or `"replace"` a README.md on the Hub that a person wrote; `"ask"` is an error then.

        Returns:
            The URL of the package, or of the pull request.

        Raises:
            PackageError: The model was not loaded from a directory, or the package was changed since.
            PublishError: The Hub refused or cannot be reached, or something would be lost.
        """
        from optimum_ane.workflows.publish import publish

        source = self._package_directory()
        with WorkingFolder.temporary() as temporary:
            if any(path.is_symlink() for path in source.rglob("*")):
                # The Hub's cache, whose links lead out of the directory: what publish would refuse.
                source = temporary / source.name
                self._copy_package(source)
            publication = publish(
                source,
                repo_id,
                message=commit_message,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                subfolder=subfolder,
                license=license,
                card=card,
            )
        return publication.url

    def _copy_package(self, target: Path) -> None:
        """Copies the package alone, as real files: in the Hub's cache it is symlinks, with others beside it."""
        source = self._package_directory()
        names = (*check_files(self.manifest, str(source)), ANE_CONFIG, *CARD_AND_REPORT)
        for name in names:
            check_link(source / name, source)
        for name in names:
            if (source / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, target / name)

    def _package_directory(self) -> Path:
        if self._directory is None:
            raise PackageError("this model was not loaded from a directory, so there is nothing to copy")
        return self._directory

    def _save_pretrained(self, save_directory: str | Path) -> None:
        self.save_pretrained(save_directory)

    @property
    def device(self) -> torch.device:
        """Tensors go in and come out on the CPU, wherever the package runs."""
        return torch.device("cpu")

    @property
    def runtime(self) -> str:
        """Which engine answers: `"coreml"`, `"portable"` or `"torch"`."""
        return next(iter(self.sessions.values())).runtime

    def to(self, *args: Any, **kwargs: Any) -> ANEModel:
        """Returns the model as it is: the runtime decides where it runs, and the package in what precision.

        Warns once where a device other than the CPU is asked for.
        """
        for value in (*args, *kwargs.values()):
            if isinstance(value, bool) or not isinstance(value, str | int | torch.device):
                continue
            # A number stands for an accelerator, and torch refuses to make a device of it where there is none.
            if isinstance(value, int) or torch.device(value).type != "cpu":
                warnings.warn(
                    f"{type(self).__name__} is not moved to {value}: its tensors come and go on the CPU, and the "
                    f"{self.runtime} runtime decides where it runs",
                    stacklevel=2,
                )
        return self

    def cpu(self) -> ANEModel:
        """Returns the model as it is; see `to`."""
        return self

    def cuda(self, device: int | str = "cuda") -> ANEModel:
        """Returns the model as it is; see `to`."""
        return self.to(device)

    def half(self) -> ANEModel:
        """Returns the model as it is: outputs are float32, the package computes in its own precision."""
        return self

    def float(self) -> ANEModel:
        """Returns the model as it is; see `half`."""
        return self

    def eval(self) -> ANEModel:
        """Returns the model as it is: a package knows no training."""
        return self

    def train(self, mode: bool = True) -> ANEModel:
        """Returns the model as it is where `mode` is False.

        Raises:
            UnsupportedModelError: Training was asked for.
        """
        if mode:
            raise UnsupportedModelError("an exported package cannot be trained; train the checkpoint and export it")
        return self

    def __repr__(self) -> str:
        """What it is, in one line: class, architecture, shapes, precision, runtime, and where it comes from."""
        form = self.manifest.form
        return (
            f"{type(self).__name__}({self.manifest.model_type}, {self._extents()} × {form.batch_size} rows, "
            f"{form.precision}, runtime {self.runtime}, from {self.manifest.source.name})"
        )

    def _extents(self) -> str:
        """The extents of a row, for a reader."""
        return f"{', '.join(map(str, self.manifest.form.sequence_length))} tokens"

    def can_generate(self) -> bool:
        """Whether the model generates text; encoders do not."""
        return False


def _other(manifest: Manifest, task: str, modality: str) -> str:
    """What a package is that is not for this task, or not of such rows."""
    given, kind = manifest.form.task, manifest.modality
    right = None
    if given == CUSTOM:
        right = "ANEModelForCustomTasks"
    elif given in TASKS:
        right = task_row(given, modality=kind).model_class
    advice = f"; load it with {right}" if right else ""
    if given != task:
        return f"for {given}, not for {task}{advice}"
    return f"for {given} of {kind}, not of {modality}{advice}"


def _form_names() -> frozenset[str]:
    return frozenset(entry.name for entry in fields(ExportForm))
