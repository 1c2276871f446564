"""`ANEModelForX` for text encoders: rows of token ids in, transformers' own output classes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import ModelOutput

from optimum_ane.errors import InputError, PackageError
from optimum_ane.modeling.base import ANEModel
from optimum_ane.modeling.batching import FixedLength, run_rows
from optimum_ane.modeling.input_checks import check_ids, check_mask
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes import Session
from optimum_ane.tasks import POOLED, TASKS, resolve

_IDS_AND_MASK = frozenset(["input_ids", "attention_mask"])
_TABLES = {"input_ids": ("vocab_size", "words"), "token_type_ids": ("type_vocab_size", "token types")}
"""The entry of a configuration that says how many rows the table of an input has, and what they are."""


class ANETextModel(ANEModel):
    """Base of the model classes of text encoders.

    A function has one fixed shape. Each row takes the shortest function that it fits into, is padded to its length,
    and runs with others in batches of its size; outputs come back in the order and the shape of the inputs, so that a
    caller notices none of it.
    """

    main_input_name = "input_ids"
    input_modalities = ("text",)
    _required: ClassVar[frozenset[str]] = _IDS_AND_MASK

    def __init__(self, sessions: Mapping[str, Session], config: PretrainedConfig, manifest: Manifest) -> None:
        super().__init__(sessions, config, manifest)
        session = sessions["model"] if "model" in sessions else next(iter(sessions.values()))
        self._functions = _by_length(session, self._required)

    @property
    def sequence_length(self) -> int:
        """The most tokens that a row may have."""
        return self._functions[-1].length

    def forward(
        self,
        input_ids: Tensor | np.ndarray,
        attention_mask: Tensor | np.ndarray | None = None,
        token_type_ids: Tensor | np.ndarray | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple[Any, ...]:
        """Runs the package over a batch of any size.

        Args:
            input_ids: (N, S), or (N, choices, S) for multiple choice; S tokens that are not padding up to the
                package's length.
            attention_mask: Of the same shape, 1 for a token and 0 for padding; None stands for ones.
            token_type_ids: Of the same shape; None stands for zeros. Ignored by packages that take none.
            output_hidden_states: Also give the embeddings and the output of each layer, (N, S, C) each. Core ML gives
                no values in between, so this needs the portable runtime.
            return_dict: False gives a tuple of the outputs in place of the output class.

        Returns:
            transformers' own output class of the task, float32 on the inputs' device. Where a row took a function that
            is shorter than S, the positions beyond it, which hold padding, are 0.

        Raises:
            InputError: A row has more tokens than the package takes, or none; the shapes do not fit each other; an id
                is no row of its table, or a mask holds something else than 0 and 1.
        """
        ids = torch.as_tensor(input_ids)
        given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {"input_ids": ids.detach().cpu()}
        for name, value in given.items():
            if value is not None:
                inputs[name] = torch.as_tensor(value).detach().cpu()
        outputs, hidden = self._answer(inputs, bool(output_hidden_states))
        fields: dict[str, Any] = {name: torch.from_numpy(value).to(ids.device) for name, value in outputs.items()}
        if output_hidden_states:
            fields["hidden_states"] = tuple(torch.from_numpy(state).to(ids.device) for state in hidden)
        answer = self._output_class(**fields)
        return answer if return_dict is not False else answer.to_tuple()

    @property
    def _output_class(self) -> type[ModelOutput]:
        return resolve(TASKS[self.task].output_class)

    def _answer(
        self, inputs: dict[str, Tensor], with_hidden_states: bool
    ) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        """Runs rows, (N, S) each; float32 arrays by field of the output class."""
        arrays = self._arrays(inputs)
        padding = {"input_ids": getattr(self.config, "pad_token_id", None) or 0}
        per_token = [field.name for field in TASKS[self.task].fields if field.per != "row"]
        return run_rows(self._functions, arrays, padding, per_token, with_hidden_states=with_hidden_states)

    def _arrays(self, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """All that the functions take, int32 (N, S); what is not given is made up."""
        ids = inputs["input_ids"]
        if ids.ndim != 2:
            raise InputError(f"input_ids has shape {tuple(ids.shape)}; expected rows of token ids, (N, S)")
        if ids.shape[0] and not ids.shape[1]:
            raise InputError(f"input_ids has shape {tuple(ids.shape)}: its rows are empty; each needs a token")
        arrays = {}
        for name in self._functions[-1].session.inputs:
            value = inputs.get(name)
            if value is None:
                value = torch.ones_like(ids) if name == "attention_mask" else torch.zeros_like(ids)
            if value.shape != ids.shape:
                raise InputError(
                    f"{name} has shape {tuple(value.shape)}, input_ids {tuple(ids.shape)}; they must be equal"
                )
            self._check(name, value)
            arrays[name] = value.numpy().astype(np.int32)
        return arrays

    def _check(self, name: str, value: Tensor) -> None:
        """Before the cast to int32, which would make a sound id of some that are not."""
        if name == "attention_mask":
            check_mask(value)
            return
        if value.is_floating_point() or value.dtype == torch.bool:
            raise InputError(f"{name} holds {value.dtype}; expected integers")
        table, rows = _TABLES[name]
        check_ids(name, value, getattr(self.config, table, None), rows)


class ANEModelForFeatureExtraction(ANETextModel):
    """Hidden states, or sentence embeddings as `pooler_output` where the package pools."""

    task = "feature-extraction"

    @property
    def _output_class(self) -> type[ModelOutput]:
        if self.manifest.form.pools:
            return resolve("transformers.modeling_outputs:BaseModelOutputWithPooling")
        return super()._output_class

    def _answer(self, inputs: dict[str, Tensor], with_hidden_states: bool) -> Any:
        outputs, hidden = super()._answer(inputs, with_hidden_states)
        if self.manifest.form.pools:
            (field,) = POOLED
            outputs = {field.name: outputs[field.in_package]}
        return outputs, hidden


class ANEModelForMaskedLM(ANETextModel):
    """A score for each word of the vocabulary at each position."""

    task = "fill-mask"


class ANEModelForSequenceClassification(ANETextModel):
    """Scores of a whole sequence."""

    task = "text-classification"


class ANEModelForTokenClassification(ANETextModel):
    """Scores of each token."""

    task = "token-classification"


class ANEModelForQuestionAnswering(ANETextModel):
    """Start and end of an answer."""

    task = "question-answering"


class ANEModelForMultipleChoice(ANETextModel):
    """One score per choice. The package takes a choice per row, so any number of choices will do."""

    task = "multiple-choice"

    def _answer(self, inputs: dict[str, Tensor], with_hidden_states: bool) -> Any:
        shape = inputs["input_ids"].shape
        if len(shape) != 3:
            raise InputError(f"input_ids has shape {tuple(shape)}; multiple choice takes (N, choices, S)")
        rows = {name: value.reshape(-1, value.shape[-1]) for name, value in inputs.items()}
        outputs, hidden = super()._answer(rows, with_hidden_states)
        return {"logits": outputs["logits"].reshape(shape[:2])}, hidden


def _by_length(session: Session, required: frozenset[str] = _IDS_AND_MASK) -> list[FixedLength]:
    """The functions of a program by the length of their rows, ascending."""
    functions = [session if name == session.function_name else session.function(name) for name in session.functions]
    found = []
    for function in functions:
        known = {"attention_mask", *_TABLES}
        if not required <= function.inputs.keys() <= known:
            raise PackageError(
                f"function {function.function_name} takes {', '.join(function.inputs)}; a text encoder takes "
                f"{' and '.join(sorted(required, reverse=True))}, and perhaps {' or '.join(sorted(known - required))}"
            )
        shapes = {spec.shape for spec in function.inputs.values()}
        if len(shapes) > 1 or any(len(shape) != 2 or min(shape) < 1 for shape in shapes):
            raise PackageError(
                f"the inputs of function {function.function_name} have the shapes "
                f"{', '.join(map(str, sorted(shapes)))}; those of a text encoder have one, of rows and tokens"
            )
        found.append(FixedLength(function.inputs["input_ids"].shape[1], function))
    return sorted(found, key=lambda each: each.length)
