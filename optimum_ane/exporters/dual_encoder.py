"""The export configuration of pairs of encoders, one of texts and one of images, whose vectors are compared: CLIP."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from optimum_ane.errors import ShapeError, UnsupportedModelError
from optimum_ane.exporters.config import check_options
from optimum_ane.exporters.native_resolution import (
    OfWholeImages,
    processor_of_images,
    takes_patches,
    usual_size,
)
from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec, ValueSpec
from optimum_ane.exporters.stock import StockANEConfig, original_class
from optimum_ane.exporters.stock_image import PIXEL_VALUES, StockImageANEConfig
from optimum_ane.exporters.stock_module import StockModule
from optimum_ane.exporters.stock_text import StockTextANEConfig
from optimum_ane.package.form import DEFAULT_LENGTH
from optimum_ane.tasks import Modality

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

    from optimum_ane.exporters.config import Processor
    from optimum_ane.package.form import ExportForm
    from optimum_ane.package.manifest import Manifest

TEXT, IMAGE = "text", "image"
"""The programs."""
_OUTPUTS = {TEXT: "text_embeds", IMAGE: "image_embeds"}
_METHODS = {TEXT: "get_text_features", IMAGE: "get_image_features"}
LOGIT_SCALE, LOGIT_BIAS = "logit_scale", "logit_bias"
_ROWS = 4


class _Texts(StockTextANEConfig):
    """The encoder of texts. Where its tokenizer gives no mask, as SigLIP's, padding counts like any other token."""

    _has_mask = True

    def forward_arguments(self) -> Sequence[str]:
        """See `StockANEConfig.forward_arguments`."""
        return _arguments_of(self._config, self.task, TEXT)

    def limit_inputs(self, available: Collection[str]) -> None:
        """See `ANEConfig.limit_inputs`."""
        super().limit_inputs(available)
        self._has_mask = "attention_mask" in available

    @property
    def input_names(self) -> tuple[str, ...]:
        """See `TextANEConfig.input_names`."""
        return tuple(name for name in super().input_names if self._has_mask or name != "attention_mask")

    def make_inputs(self, batch_size: int, sequence_length: int, seed: int = 0) -> dict[str, Tensor]:
        """See `TextANEConfig.make_inputs`; each text ends with the token of its end, where CLIP looks."""
        values = super().make_inputs(batch_size, sequence_length, seed)
        end = getattr(self.text_config, "eos_token_id", None)
        if isinstance(end, int) and 0 <= end < self.vocab_size:
            values["input_ids"] = self._with_one_end(values["input_ids"], values["attention_mask"])
        return {name: values[name] for name in self.input_names}


class _Tower(StockModule):
    """One of the two encoders: a vector of length 1 for each row."""

    def __init__(
        self, model: nn.Module, inputs: Sequence[str], program: str, prepare: Mapping[str, nn.Module]
    ) -> None:
        super().__init__(model, inputs, [_OUTPUTS[program]], prepare=prepare)
        self.constants = {}
        self._encode = getattr(model, _METHODS[program])

    def call(self, *values: Tensor) -> Any:
        """See `StockModule.call`."""
        features = self._encode(**self.arguments(values))
        vectors = getattr(features, "pooler_output", features)
        return {self.outputs[0]: vectors / vectors.norm(p=2, dim=-1, keepdim=True)}


class DualEncoderANEConfig(StockANEConfig):
    """Two programs, `text` and `image`, each with one vector for a row; the model class multiplies them.

    The vectors leave their programs as float32: apps keep them and compare them with others.

    Attributes:
        texts: What is stated of the encoder of texts.
        images: What is stated of that of images.
    """

    MODALITY: ClassVar[Modality] = "image-text"

    def __init__(self, config: PretrainedConfig, task: str) -> None:
        super().__init__(config, task)
        self.texts, self.images = _Texts(config, task), StockImageANEConfig(config, task)

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Input names and axes of both programs."""
        return {**self.texts.inputs, **self.images.inputs}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Output names and axes of both programs."""
        return {name: {0: "batch_size"} for name in _OUTPUTS.values()}

    def limit_inputs(self, available: Collection[str]) -> None:
        """See `ANEConfig.limit_inputs`."""
        self.texts.limit_inputs(available)

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """See `ANEConfig.complete`: texts are as long as the checkpoint's positions, where nothing else is asked."""
        check_options(form, self.MODALITY)
        lengths = form.sequence_length
        positions = getattr(self.texts.text_config, "max_position_embeddings", None)
        if lengths == (DEFAULT_LENGTH,) and isinstance(positions, int) and 0 < positions < DEFAULT_LENGTH:
            lengths = (positions,)
        if form.image_size is None and processor is None and takes_patches(self._config):
            form = replace(form, image_size=usual_size(self._config))
        completed = self.images.complete(replace(form, sequence_length=(DEFAULT_LENGTH,)), processor)
        return replace(completed, sequence_length=lengths)

    def check(self, form: ExportForm) -> None:
        """See `ANEConfig.check`."""
        for program, taken in ((TEXT, "input_ids"), (IMAGE, PIXEL_VALUES)):
            if taken not in _arguments_of(self._config, self.task, program):
                raise UnsupportedModelError(
                    f"{self._config.model_type} has no {_METHODS[program]} of {taken}, of which its program would be "
                    "made"
                )
        self._check_patches(form)
        self.texts.check_length(form)

    def _check_patches(self, form: ExportForm) -> None:
        if not takes_patches(self._config) or form.image_size is None:
            return
        patch = self._config.vision_config.patch_size
        if any(extent % patch for extent in form.image_size):
            height, width = form.image_size
            raise ShapeError(
                f"images of {height} × {width} pixels are no whole number of patches of {patch}; choose multiples of "
                f"{patch} for --image-size"
            )

    def programs(self, form: ExportForm) -> tuple[ProgramSpec, ...]:
        """See `ANEConfig.programs`."""
        specs = {TEXT: self.texts.programs(form)[0], IMAGE: self.images.programs(form)[0]}
        return tuple(
            replace(
                spec,
                name=name,
                functions=tuple(
                    replace(function, outputs=(ValueSpec(_OUTPUTS[name], None, "float32"),))
                    for function in spec.functions
                ),
            )
            for name, spec in specs.items()
        )

    def adapt_processor(self, processor: Processor | None) -> Processor | None:
        """See `ANEConfig.adapt_processor`."""
        is_of_patches = processor is not None and takes_patches(self._config)
        return processor_of_images(processor, self._config) if is_of_patches else processor

    def part_of(self, original: nn.Module) -> nn.Module:
        """See `ANEConfig.part_of`: models of patches are asked with images, of which patches are made."""
        return OfWholeImages(original) if takes_patches(self._config) else original

    def wrap(self, original: nn.Module, program: ProgramSpec) -> StockModule:
        """See `StockANEConfig.wrap`."""
        names = self.texts.input_names if program.name == TEXT else self.images.input_names
        return _Tower(original, names, program.name, self.prepare(program))

    def prepare(self, program: ProgramSpec) -> Mapping[str, nn.Module]:
        """See `StockANEConfig.prepare`."""
        return self.images.prepare(program)

    def restore(self, manifest: Manifest) -> None:
        """See `ANEConfig.restore`."""
        self.images.restore(manifest)

    def examples(self, form: ExportForm, seed: int = 0) -> tuple[dict[str, Tensor], ...]:
        """See `ANEConfig.examples`: as many texts as images, a batch for each length of texts."""
        (images,) = self.images.examples(form, seed)
        images = {name: value[:_ROWS] for name, value in images.items()}
        return tuple(
            {name: value.long() for name, value in self.texts.make_inputs(_ROWS, length, seed).items()} | images
            for length in reversed(form.sequence_length)
        )

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `ANEConfig.function_inputs`."""
        is_image = function.inputs[0].name == PIXEL_VALUES
        return (self.images if is_image else self.texts).function_inputs(function, seed)

    def host_constants(self, original: nn.Module) -> Mapping[str, float]:
        """See `ANEConfig.host_constants`: what a product of two vectors is multiplied by, and what is added to it."""
        if isinstance(original, OfWholeImages):
            original = original.model
        scale, temperature = (getattr(original, name, None) for name in ("logit_scale", "temperature"))
        bias = getattr(original, "logit_bias", None)
        if scale is None and temperature is None:
            raise UnsupportedModelError(
                f"{type(original).__name__} has neither logit_scale nor temperature, by which products of vectors "
                "become scores"
            )
        factor = math.exp(scale.item()) if scale is not None else 1 / temperature.item()
        return {LOGIT_SCALE: factor, LOGIT_BIAS: 0.0 if bias is None else bias.item()}


def _arguments_of(config: PretrainedConfig, task: str, program: str) -> tuple[str, ...]:
    model_class = original_class(config, task)
    method = getattr(model_class, _METHODS[program], None)
    return () if method is None else tuple(inspect.signature(method).parameters)
