"""`ANEModelForX`: an exported package behind the interface of a transformers model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from optimum.modeling_base import OptimizedModel
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    ModelOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from optimum_ane.errors import InputError, PackageError, UnsupportedModelError
from optimum_ane.hub.download import fetch_package
from optimum_ane.modeling.rows import run_rows
from optimum_ane.package.file_names import check_files
from optimum_ane.package.layout import ANE_CONFIG, DOCUMENTS, MLPACKAGE
from optimum_ane.package.manifest import PackageConfig
from optimum_ane.package.staging import staged
from optimum_ane.runtimes import Session, open_session


class ANEModel(OptimizedModel):
    """Base of the model classes; use the one of your task.

    The package has one fixed shape. Rows are padded to its length and run `batch_size` at a time; outputs come back
    in the shape of the inputs, so a caller notices neither.

    Attributes:
        config: The checkpoint's own configuration.
        ane_config: What `ane_config.json` says of the package.
        session: The loaded package.
    """

    task: ClassVar[str]
    auto_class_name: ClassVar[str]
    """The transformers auto class with which this class is registered, so that pipelines accept it."""
    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, session: Session, config: PretrainedConfig, ane_config: PackageConfig) -> None:
        super().__init__(session, config)
        self.session = session
        self.ane_config = ane_config
        self.dtype = torch.float32
        self._directory: Path | None = None

    @classmethod
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
        sequence_length: int = 128,
        batch_size: int = 1,
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
            sequence_length: Tokens per row, with `export`.
            batch_size: Rows per prediction, with `export`.

        Raises:
            PackageError: There is no package, it cannot be reached, it is damaged, or it is for another task.
            UnsupportedModelError: An argument for packages was given with `export`.
            RuntimeUnavailableError: The runtime cannot run here.
        """
        if export:
            if subfolder or local_files_only or force_download:
                raise UnsupportedModelError(
                    "subfolder, local_files_only and force_download are for packages; drop them, or drop export=True "
                    "(HF_HUB_OFFLINE=1 keeps an export off the network)"
                )
            return cls._from_checkpoint(
                model_id,
                runtime=runtime,
                compute_units=compute_units,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                trust_remote_code=trust_remote_code,
                sequence_length=sequence_length,
                batch_size=batch_size,
            )
        directory = fetch_package(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            subfolder=subfolder,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        return cls._from_directory(directory, runtime, compute_units)

    @classmethod
    def _from_directory(cls, directory: Path, runtime: str, compute_units: str | None) -> ANEModel:
        ane_config = PackageConfig.read(directory)
        if ane_config.task != cls.task:
            right = MODEL_CLASSES.get(ane_config.task)
            raise PackageError(
                f"{directory} is for {ane_config.task}, not for {cls.task}"
                + (f"; load it with {right.__name__}" if right else "")
            )
        try:
            config = AutoConfig.from_pretrained(directory)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise PackageError(f"{directory} holds no readable config.json; export or download it again") from error
        session = open_session(directory / MLPACKAGE, runtime, compute_units or ane_config.compute_units)
        model = cls(session, config, ane_config)
        model._directory = directory
        return model

    @classmethod
    def _from_checkpoint(
        cls,
        model_id: str | Path,
        *,
        runtime: str,
        compute_units: str | None,
        revision: str | None,
        cache_dir: str | None,
        token: str | None,
        trust_remote_code: bool,
        sequence_length: int,
        batch_size: int,
    ) -> ANEModel:
        from optimum_ane.checkpoints.hub_options import HubOptions
        from optimum_ane.workflows.export import export as export_checkpoint

        # Lives as long as the model: the portable runtime maps the weight file, Core ML compiles from it.
        temporary = tempfile.TemporaryDirectory(prefix="optimum-ane-")
        directory = Path(temporary.name) / "package"
        export_checkpoint(
            model_id,
            directory,
            task=cls.task,
            sequence_length=sequence_length,
            batch_size=batch_size,
            hub=HubOptions(revision, cache_dir, token, trust_remote_code),
        )
        model = cls._from_directory(directory, runtime, compute_units)
        model._temporary = temporary
        return model

    def save_pretrained(
        self,
        save_directory: str | Path,
        push_to_hub: bool = False,
        *,
        repo_id: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        license: str | None = None,
    ) -> None:
        """Copies the whole package to a directory, which must be empty or absent, and publishes it if asked to.

        Args:
            save_directory: Where to.
            push_to_hub: Publish it as well; the arguments below are those of `push_to_hub`.
            repo_id: Where on the Hub; None takes the directory's name, in the token's own account.
            commit_message: See `push_to_hub`, as for the rest.
            private: Whether a new repository is private.
            token: Access token.
            revision: Branch.
            create_pr: Whether to open a pull request.
            license: The licence's id.

        Raises:
            OutputError: The directory is not empty, or cannot be written.
            PackageError: The model was not loaded from a directory.
            PublishError: The Hub refused, or cannot be reached; the directory is written nevertheless.
        """
        with staged(Path(save_directory)) as directory:
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
        with tempfile.TemporaryDirectory(prefix="optimum-ane-") as temporary:
            if any(path.is_symlink() for path in source.rglob("*")):
                # The Hub's cache, whose links lead out of the directory: what publish would refuse.
                source = Path(temporary) / source.name
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
        for name in (*check_files(self.ane_config.files, str(source)), ANE_CONFIG, *DOCUMENTS):
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
    def sequence_length(self) -> int:
        """Tokens per row of the package."""
        return self.ane_config.sequence_length

    @property
    def runtime(self) -> str:
        """Which engine answers: `"coreml"` or `"portable"`."""
        return self.session.runtime

    def to(self, *_: Any, **__: Any) -> ANEModel:
        """Returns the model as it is: the runtime decides where it runs."""
        return self

    def eval(self) -> ANEModel:
        """Returns the model as it is: a package knows no training."""
        return self

    def can_generate(self) -> bool:
        """Encoders generate nothing."""
        return False

    def forward(
        self,
        input_ids: Tensor | np.ndarray,
        attention_mask: Tensor | np.ndarray | None = None,
        token_type_ids: Tensor | np.ndarray | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput:
        """Runs the package over a batch of any size.

        Args:
            input_ids: (N, S), or (N, choices, S) for multiple choice; S up to the package's length.
            attention_mask: Of the same shape, 1 for a token and 0 for padding; None stands for ones.
            token_type_ids: Of the same shape; None stands for zeros. Ignored by packages that take none.
            return_dict: Accepted for transformers' sake; outputs are always an output class.

        Returns:
            transformers' own output class of the task, float32 on the inputs' device.

        Raises:
            InputError: The rows are longer than the package, or the shapes do not fit each other.
        """
        ids = torch.as_tensor(input_ids)
        given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {"input_ids": ids.detach().cpu()}
        for name, value in given.items():
            if value is not None:
                inputs[name] = torch.as_tensor(value).detach().cpu()
        return self._answer(inputs, ids.device)

    def _answer(self, inputs: dict[str, Tensor], device: torch.device) -> ModelOutput:
        outputs = self._run(inputs)
        length = inputs["input_ids"].shape[-1]
        return self._wrap({name: torch.from_numpy(value).to(device) for name, value in outputs.items()}, length)

    def _wrap(self, outputs: Mapping[str, Tensor], length: int) -> ModelOutput:
        """Puts named outputs, padded to the package's length, into the task's output class, cut to `length`."""
        raise NotImplementedError

    def _run(self, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """Runs rows, (N, S) each; float32 arrays by output name, (N, …) each and of the package's length."""
        return run_rows(self.session, self.ane_config, inputs, self.config.pad_token_id or 0)


class ANEModelForFeatureExtraction(ANEModel):
    """Hidden states, or sentence embeddings as `pooler_output` where the package pools."""

    task = "feature-extraction"
    auto_class_name = "AutoModel"

    def _wrap(self, outputs: Mapping[str, Tensor], length: int) -> ModelOutput:
        if self.ane_config.pooling is not None:
            return BaseModelOutputWithPooling(pooler_output=outputs["sentence_embedding"])
        return BaseModelOutput(last_hidden_state=outputs["last_hidden_state"][:, :length])


class ANEModelForMaskedLM(ANEModel):
    """A score for each word of the vocabulary at each position."""

    task = "fill-mask"
    auto_class_name = "AutoModelForMaskedLM"

    def _wrap(self, outputs: Mapping[str, Tensor], length: int) -> ModelOutput:
        return MaskedLMOutput(logits=outputs["logits"][:, :length])


class ANEModelForSequenceClassification(ANEModel):
    """Scores of a whole sequence."""

    task = "text-classification"
    auto_class_name = "AutoModelForSequenceClassification"

    def _wrap(self, outputs: Mapping[str, Tensor], length: int) -> ModelOutput:
        return SequenceClassifierOutput(logits=outputs["logits"])


class ANEModelForTokenClassification(ANEModel):
    """Scores of each token."""

    task = "token-classification"
    auto_class_name = "AutoModelForTokenClassification"

    def _wrap(self, outputs: Mapping[str, Tensor], length: int) -> ModelOutput:
        return TokenClassifierOutput(logits=outputs["logits"][:, :length])


class ANEModelForQuestionAnswering(ANEModel):
    """Start and end of an answer."""

    task = "question-answering"
    auto_class_name = "AutoModelForQuestionAnswering"

    def _wrap(self, outputs: Mapping[str, Tensor], length: int) -> ModelOutput:
        return QuestionAnsweringModelOutput(
            start_logits=outputs["start_logits"][:, :length], end_logits=outputs["end_logits"][:, :length]
        )


class ANEModelForMultipleChoice(ANEModel):
    """One score per choice. The package takes a choice per row, so any number of choices will do."""

    task = "multiple-choice"
    auto_class_name = "AutoModelForMultipleChoice"

    def _answer(self, inputs: dict[str, Tensor], device: torch.device) -> ModelOutput:
        shape = inputs["input_ids"].shape
        if len(shape) != 3:
            raise InputError(f"input_ids has shape {tuple(shape)}; multiple choice takes (N, choices, S)")
        rows = {name: value.reshape(-1, value.shape[-1]) for name, value in inputs.items()}
        scores = torch.from_numpy(self._run(rows)["logits"])
        return MultipleChoiceModelOutput(logits=scores.reshape(shape[:2]).to(device))


MODEL_CLASSES: Mapping[str, type[ANEModel]] = {
    model_class.task: model_class
    for model_class in (
        ANEModelForFeatureExtraction,
        ANEModelForMaskedLM,
        ANEModelForMultipleChoice,
        ANEModelForQuestionAnswering,
        ANEModelForSequenceClassification,
        ANEModelForTokenClassification,
    )
}
"""The model class of each task."""


def _register() -> None:
    """Registers the model classes with transformers, whose pipelines log an error for any that they do not know.

    The key is a configuration class of our own, for the real ones are taken; `model.config` stays the real one.
    """
    for task, model_class in MODEL_CLASSES.items():
        key = type(f"ANE{task.title().replace('-', '')}Config", (PretrainedConfig,), {"model_type": f"ane-{task}"})
        model_class.config_class = key
        getattr(transformers, model_class.auto_class_name).register(key, model_class)


_register()
