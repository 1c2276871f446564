"""Captions of images: exact match with what the original writes, or BLEU and chrF where the dataset has captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.described_files import LISTS, DescribedKind, Files, FolderFiles, open_described
from optimum_ane.evaluation.evaluator import Examples, Scores
from optimum_ane.evaluation.file_columns import FileKind
from optimum_ane.evaluation.image_files import FolderImages, open_images
from optimum_ane.evaluation.images import MAX_BYTES, SUFFIXES, open_image
from optimum_ane.evaluation.preprocessors import TextAndImagePreprocessor
from optimum_ane.evaluation.sound_files import digest_of_files
from optimum_ane.evaluation.written_texts import SourceOfText, WritingEvaluator, WrittenText, reader_of, score_written

_IMAGE_NAMES = ("image", "file_name", "file", "path", "filename", "img", "picture")
_PIXELS = "pixel_values"


@dataclass(frozen=True)
class CaptionedImages(Examples):
    """Images, and captions of each.

    Attributes:
        files: N images.
        captions: N lists of captions that are right; None where the dataset has none.
    """

    files: Files
    captions: list[list[str]] | None

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.files)

    def digest(self) -> str:
        """SHA-256 of the files and of everything else: the same, the same scores. Reads every file."""
        return digest_of_files(self, self.files)


class ImageToText(WritingEvaluator[CaptionedImages]):
    """Scores captions. Columns: the image, its captions; a folder of images alone is scored against the original."""

    task: ClassVar[str] = "image-to-text"
    unit: ClassVar[str] = "images"
    has_tokens: ClassVar[bool] = False

    def load(self, spec: DatasetSpec) -> CaptionedImages:
        """Finds images, and captions where there are some."""
        spec.check_options(self.task, "image_column", "text_column")
        spec.check_config()
        path = Path(spec.dataset).expanduser()
        if spec.is_local and path.is_dir() and not any((path / name).is_file() for name in LISTS):
            images = open_images(spec, self.task, needs_labels=False)
            assert isinstance(images.images, FolderImages)
            files = FolderFiles(images.images.paths, MAX_BYTES)
            return CaptionedImages(images.name, "exact_match", None, files, None)
        file_kind = FileKind("an image", "Image", "--image-column", MAX_BYTES)
        found = open_described(spec, DescribedKind(file_kind, "image", spec.image_column, _IMAGE_NAMES, SUFFIXES))
        return CaptionedImages(found.name, "bleu", None, found.files, found.texts)

    def needs_original(self, examples: CaptionedImages) -> bool:
        """See `Evaluator.needs_original`: where there are no captions."""
        return examples.captions is None

    def source(
        self, preprocessor: TextAndImagePreprocessor, examples: CaptionedImages, row: int, sequence_length: int
    ) -> tuple[SourceOfText, bool]:
        """Makes the processor's numbers of an image.

        Raises:
            DatasetError: It is damaged, or the processor cannot take it.
        """
        place = examples.files.place(row)
        image = open_image(examples.files.read(row), place.name, place.row, place.column)
        try:
            pixels = preprocessor.processor(image, return_tensors="pt")[_PIXELS]
        except Exception as error:  # processors raise whatever an image of odd extents sets off
            raise DatasetError(
                f"{place.name}: the image processor cannot take image {row + 1} ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}); remove it"
            ) from error
        return SourceOfText({_PIXELS: pixels}, row, read=reader_of(preprocessor.tokenizer)), False

    def score(self, examples: CaptionedImages, answers: Sequence[WrittenText]) -> Scores:
        """See `score_written`."""
        return score_written(answers, examples.captions, examples.name)
