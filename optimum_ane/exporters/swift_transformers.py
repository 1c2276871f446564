"""The export configuration of language models for swift-transformers: whole rows, without a cache, under its names.

Its road with a cache asks for flexible shapes, which leave the Neural Engine, and hides no token of a prompt from
those before it. Source: `Sources/Models/LanguageModel.swift` of github.com/huggingface/swift-transformers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.decoder import DecoderANEConfig

if TYPE_CHECKING:
    from torch import Tensor

    from optimum_ane.exporters.config import Processor
    from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec
    from optimum_ane.package.form import ExportForm

CLIENT_NAMES = {"input_ids": "inputIds", "attention_mask": "attentionMask"}
"""The client's names of inputs, by ours."""

EXPORTERS = "co.huggingface.exporters"
"""What the names of the metadata of huggingface/exporters begin with, which apps read."""

NAME_ENTRY = f"{EXPORTERS}.name"
"""Metadata that names the repository of the tokenizer, for apps that hand none to the client."""


class SwiftTransformersANEConfig(DecoderANEConfig):
    """One program: `inputIds` and `attentionMask` (1, N) to `logits` (1, N, vocabulary)."""

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """See `ANEConfig.complete`."""
        return super().complete(replace(form, kv_cache=form.kv_cache or "none"), processor)

    def check(self, form: ExportForm) -> None:
        """See `ANEConfig.check`."""
        if form.has_cache:
            raise UnsupportedModelError(
                "with a cache swift-transformers asks for flexible shapes, which leave the Neural Engine; leave "
                "--kv-cache out"
            )
        if len(form.sequence_length) > 1 or form.batch_size != 1:
            raise UnsupportedModelError(
                "swift-transformers takes one row of one length; give one --sequence-length, and no --batch-size"
            )
        super().check(form)

    def programs(self, form: ExportForm) -> tuple[ProgramSpec, ...]:
        """See `ANEConfig.programs`."""
        return tuple(
            replace(
                program,
                functions=tuple(
                    replace(
                        function,
                        inputs=tuple(replace(value, name=CLIENT_NAMES[value.name]) for value in function.inputs),
                    )
                    for function in program.functions
                ),
            )
            for program in super().programs(form)
        )

    @property
    def input_names(self) -> tuple[str, ...]:
        """See `TextANEConfig.input_names`: the client knows these two."""
        return tuple(name for name in super().input_names if name in CLIENT_NAMES)

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `ANEConfig.function_inputs`."""
        return {CLIENT_NAMES[name]: value for name, value in super().function_inputs(function, seed).items()}
