"""The rows on which a package is run to see what compressing a weight does to its answers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optimum_ane.errors import CompressionError, UnsupportedModelError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import get_evaluator
from optimum_ane.evaluation.preprocessors import load_preprocessor
from optimum_ane.exporters.image_normalization import PIXEL_VALUES
from optimum_ane.modeling.package_configuration import load_config
from optimum_ane.package.manifest import Manifest
from optimum_ane.package.problem_types import SINGLE_LABEL, problem_type_of

DEFAULT_ROWS = 128
"""Sensitivities differ by factors of thousands: what so few rows leave of noise changes few choices."""

_PER_TOKEN = ("start_logits", "end_logits")
_TASKS_OF_CLASSES = ("fill-mask", "text-classification", "text-generation", "token-classification")


@dataclass(frozen=True)
class Calibration:
    """What a package is run on.

    Attributes:
        batches: One array for each input, for each prediction: (B, S), int32, of tokens; (B, channels, height, width),
            float32, of images. B, S, height and width are the package's.
        name: What reports call it.
        digest: SHA-256 of all arrays.
    """

    batches: tuple[dict[str, np.ndarray], ...]
    name: str
    digest: str


def calibration_of_dataset(directory: Path, spec: DatasetSpec, rows: int = DEFAULT_ROWS, seed: int = 0) -> Calibration:
    """Makes inputs of some rows of a dataset as a package takes them. Labels are read to find columns, and not used.

    Args:
        directory: The package's directory, with its tokenizer or image processor.
        spec: The dataset.
        rows: How many rows, drawn at random; all of a smaller dataset.
        seed: Which ones.

    Raises:
        UnsupportedModelError: The task has no datasets, or not for the package's form.
        DatasetError: The dataset is flawed.
    """
    manifest = Manifest.read(directory)
    if manifest.modality == "image-text":
        raise UnsupportedModelError(
            f"a package for {manifest.form.task} has a program of texts and one of images, which no dataset "
            "calibrates in this version; take a recipe that needs no rows, int8 say"
        )
    evaluator = get_evaluator(manifest.form.task, load_config(directory), manifest.modality)
    examples = evaluator.load(spec)
    order = np.random.default_rng(seed).permutation(len(examples))[:rows]
    preprocessor = load_preprocessor(directory, manifest)
    encoded = evaluator.inputs(preprocessor, examples, order.tolist(), manifest.form.longest)
    # A row of the dataset may give several, such as each of its choices.
    count = min(rows, len(next(iter(encoded.values()))))
    given = {name: value[:count].numpy() for name, value in encoded.items()}
    if manifest.modality == "image":
        arrays = _pixels(manifest, given)
    elif manifest.modality == "audio":
        arrays = {entry.name: given[entry.name].astype(entry.dtype) for entry in manifest.functions[0].inputs}
    else:
        arrays = _tokens(manifest, given, count)
    return _batched(arrays, manifest.form.batch_size, f"{count} rows of {examples.name}")


def _tokens(manifest: Manifest, given: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    blank = np.zeros((count, manifest.form.longest), np.int32)
    return {entry.name: given.get(entry.name, blank).astype(np.int32) for entry in manifest.functions[0].inputs}


def _pixels(manifest: Manifest, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Images as the program takes them: of 0 to 255 where it normalises them itself."""
    normalization = None if manifest.image is None else manifest.image.normalization
    pixels = given[PIXEL_VALUES]
    if normalization is not None:
        pixels = normalization.invert(pixels, PIXEL_VALUES)
    arrays = {PIXEL_VALUES: pixels.astype(np.float32)}
    for entry in manifest.functions[0].inputs:
        if entry.name != PIXEL_VALUES:  # a mask: of images that fill the size, all ones
            ones = np.ones((len(pixels), *entry.shape[1:]))
            arrays[entry.name] = given.get(entry.name, ones).astype(np.float32)
    return arrays


def calibration_of_random_tokens(directory: Path, rows: int = DEFAULT_ROWS, seed: int = 0) -> Calibration:
    """Makes rows of random tokens, of every length up to the package's; of images and sounds the export's examples.

    Random tokens are no language: they exercise all of the embedding table alike, and the layers in a way that texts
    do not. They tell robust weights from fragile ones where there is nothing better.

    Args:
        directory: The package's directory.
        rows: How many.
        seed: Which ones.

    Raises:
        CompressionError: The package takes no tokens.
    """
    import optimum_ane.models  # noqa: F401 - registers the architectures
    from optimum_ane.exporters.config import ane_config_of
    from optimum_ane.exporters.stock_rows import StockRowsANEConfig
    from optimum_ane.exporters.text import TextANEConfig

    manifest = Manifest.read(directory)
    checkpoint = load_config(directory)
    ane_config = ane_config_of(manifest, checkpoint)
    if isinstance(ane_config, StockRowsANEConfig):
        inputs, kind = ane_config.program_rows(rows, ane_config.input_shapes(manifest.form), seed), "random numbers"
    elif isinstance(ane_config, TextANEConfig):
        inputs, kind = ane_config.make_inputs(rows, manifest.form.longest, seed), "random tokens"
    else:
        raise CompressionError(f"{manifest.model_type} takes no tokens; give a dataset with --calibration-dataset")
    arrays = {entry.name: inputs[entry.name].numpy() for entry in manifest.functions[0].inputs}
    return _batched(arrays, manifest.form.batch_size, f"{rows} rows of {kind}, seed {seed}")


def has_classes(directory: Path) -> bool:
    """Whether a package answers with scores of classes of which one is right: see `Distance`."""
    task = Manifest.read(directory).form.task
    if task in ("audio-classification", "image-classification", "text-classification"):
        return problem_type_of(load_config(directory)) == SINGLE_LABEL
    return task in _TASKS_OF_CLASSES


def _batched(arrays: dict[str, np.ndarray], batch_size: int, name: str) -> Calibration:
    """Splits rows into predictions; the last is filled up with the rows that came first."""
    digest = hashlib.sha256()
    for key, array in sorted(arrays.items()):
        digest.update(f"{key}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    count = len(next(iter(arrays.values())))
    indices = np.resize(np.arange(count), -(-count // batch_size) * batch_size).reshape(-1, batch_size)
    batches = tuple({key: array[rows] for key, array in arrays.items()} for rows in indices)
    return Calibration(batches, name, digest.hexdigest())


class Distance:
    """How far answers lie from those of the package as it is, in a measure that adds up.

    Scores of classes: the Kullback–Leibler divergence of the probabilities, in nats, averaged over the rows (over the
    tokens, where each has scores of its own). Where the package is sure, an error of the scores weighs little; where
    it wavers, much, and there predictions change. Everything else: the power of the error over that of the answer,
    which is 1e-5 at a PSNR of about 50 dB; averaged over the outputs.

    Both are quadratic in a small error, so that what several weights do adds up as long as their errors are not
    correlated. Positions that hold padding are left out.
    """

    def __init__(
        self, calibration: Calibration, baseline: Sequence[Mapping[str, np.ndarray]], *, of_classes: bool
    ) -> None:
        """Takes the answers of the package as it is.

        Args:
            calibration: What it was run on.
            baseline: Its float32 outputs by name, for each prediction of the calibration.
            of_classes: Whether the last axis of each output holds the scores of classes of which one is right.

        Raises:
            CompressionError: An output is all zeros, or not finite.
        """
        self._masks = [batch.get("attention_mask") for batch in calibration.batches]
        self._of_classes = of_classes
        expected = [self._kept(outputs, mask) for outputs, mask in zip(baseline, self._masks, strict=True)]
        self._power: dict[str, float] = {}
        for name in expected[0]:
            power = float(np.mean([np.mean(outputs[name] ** 2) for outputs in expected]))
            if not np.isfinite(power) or power == 0:
                raise CompressionError(f"output {name!r} is all zeros or not finite; there is nothing to measure")
            self._power[name] = power
        if of_classes:
            expected = [{name: _log_softmax(array) for name, array in outputs.items()} for outputs in expected]
        self._expected = expected

    def __call__(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> float:
        """Measures answers.

        Args:
            outputs: Float32 arrays by output, for each prediction of the calibration.

        Returns:
            The measure, 0 or more; infinite where an answer is not finite.
        """
        total = 0.0
        for expected, answer, mask in zip(self._expected, outputs, self._masks, strict=True):
            kept = self._kept(answer, mask)
            for name, power in self._power.items():
                if not np.isfinite(kept[name]).all():
                    return math.inf
                if self._of_classes:
                    gap = expected[name] - _log_softmax(kept[name])
                    total += float(np.mean((np.exp(expected[name]) * gap).sum(-1)))
                else:
                    total += float(np.mean((kept[name] - expected[name]) ** 2)) / power
        return max(0.0, total / len(self._power) / len(self._expected))

    @staticmethod
    def _kept(outputs: Mapping[str, np.ndarray], mask: np.ndarray | None) -> dict[str, np.ndarray]:
        kept = {name: array.astype(np.float64) for name, array in outputs.items()}
        if mask is None:
            return kept
        tokens = mask.astype(bool)

        def has_tokens(name: str, array: np.ndarray) -> bool:
            # The frames of a sound are fewer than its samples, of which the mask tells.
            return (name in _PER_TOKEN or array.ndim == 3) and array.shape[:2] == tokens.shape

        return {name: array[tokens] if has_tokens(name, array) else array for name, array in kept.items()}


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
