"""The options that name a dataset, the same for every command that takes one."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from math import isfinite
from typing import TYPE_CHECKING

from optimum_ane.errors import DatasetError

if TYPE_CHECKING:
    from optimum_ane.evaluation.accuracy import AccuracyLimits
    from optimum_ane.evaluation.datasets import DatasetSpec

_DETAILS = (
    "dataset_config",
    "split",
    "text_column",
    "text_pair_column",
    "label_column",
    "choices_column",
    "max_samples",
    "stride",
    "image_column",
    "audio_column",
)

_LIMITS = (
    "max_accuracy_drop",
    "max_perplexity_increase",
    "max_kl",
    "max_box_error",
    "min_iou",
    "max_depth_error",
    "max_wer_increase",
    "max_bleu_loss",
)

_WHAT_COLUMNS_HOLD = """\
A local file, or a dataset of the Hub; local or not, usual column names are found without an option. The task says
what is read:
  text-classification   text, its partner for pairs, label (an id or a name of the checkpoint's labels); a .tsv or
                        .csv of two columns without a header is text, then label
  token-classification  --text-column the words, --label-column their tags; lists, or texts with spaces between
  question-answering    --text-column the question, --text-pair-column the context, --label-column the answers
  feature-extraction    two texts and their similarity as --label-column; the package has to pool
  fill-mask             the text alone
  text-generation       the text alone; all texts are read as one, with an empty line between them
  multiple-choice       --text-column the context, --text-pair-column what choices start with, --choices-column,
                        --label-column the right choice, from 0
  image-classification  a folder with a folder of images for each class, named as the checkpoint names the class; or
                        --image-column and --label-column of a .parquet file or a Hub dataset
  image-segmentation    a folder with the folders images and masks, of files of equal names; masks are PNGs of class
                        ids. Or images alone, which are scored against the original
  object-detection, depth-estimation
                        images alone, in a folder or as --image-column: both are scored against the original
  zero-shot-image-classification
                        as image-classification; the folders' names, or the labels', are the classes
  automatic-speech-recognition
                        a folder of sounds (WAV, FLAC, Ogg, MP3 …) with a transcripts.tsv or metadata.csv that names
                        each file and what is said in it; or --audio-column and --text-column of such a list, of a
                        .parquet file or of a Hub dataset
  text2text-generation  --text-column the text, --label-column what should be written (default: as the original)
  image-to-text         images alone, or with captions as the sounds above: --image-column, --text-column"""


def add_dataset_arguments(
    parser: ArgumentParser, dataset_flag: str = "--dataset", *, required: bool = False, has_gate: bool = True
) -> None:
    """Adds the options of a dataset, and those that limit what may be lost on it, in a group of their own.

    Args:
        parser: The command's parser.
        dataset_flag: Name of the option that names the dataset; its value is `args.dataset` under any name.
        required: Whether the command cannot do without a dataset.
        has_gate: Whether the limits are among the options.
    """
    group = parser.add_argument_group(
        "dataset",
        _WHAT_COLUMNS_HOLD,
    )
    group.add_argument(
        dataset_flag,
        dest="dataset",
        required=required,
        metavar="FILE|FOLDER|ID",
        help="a .tsv (no quoting), .csv, .jsonl, .parquet or .txt file (of plain text, each paragraph a row), a "
        "folder of images or sounds, or a dataset on the Hub, such as glue or imagenet-1k",
    )
    group.add_argument(
        "--dataset-config",
        metavar="NAME",
        help="config of a Hub dataset, such as sst2; with a file: the GLUE task or the version of SQuAD, squad or "
        "squad_v2, whose metric is used",
    )
    group.add_argument(
        "--split", metavar="NAME", help="split of a Hub dataset (default: validation; mnli: validation_matched)"
    )
    group.add_argument("--text-column", metavar="NAME|NUMBER", help="the text's column; numbers count from 0")
    group.add_argument("--text-pair-column", metavar="NAME|NUMBER", help="the second text's column")
    group.add_argument("--label-column", metavar="NAME|NUMBER", help="the column of what is right")
    group.add_argument(
        "--choices-column",
        metavar="NAME|NUMBER[,…]",
        help="the column of lists of choices, or one column for each choice, with commas between",
    )
    group.add_argument("--image-column", metavar="NAME|NUMBER", help="the column of images")
    group.add_argument("--audio-column", metavar="NAME|NUMBER", help="the column of sounds, or of their files' names")
    group.add_argument(
        "--max-samples",
        type=_positive,
        metavar="N",
        help="use only the first N rows; of a folder, of each class in turn",
    )
    group.add_argument(
        "--stride",
        type=_positive,
        metavar="N",
        help="text-generation: how many tokens further each window of the package's context begins; fewer leave each "
        "token more to go by and take longer (default: the whole context)",
    )
    if has_gate:
        group.add_argument(
            "--max-accuracy-drop",
            type=_not_negative,
            metavar="POINTS",
            help="fail if the package's primary metric is lower than the original's by more than this: percentage "
            "points, hundredths for correlations (default: 1.0)",
        )
        group.add_argument(
            "--max-perplexity-increase",
            type=_not_negative,
            metavar="PERCENT",
            help="text-generation: fail if the package's perplexity is higher than the original's by more than this "
            "(default: 1.0)",
        )
        group.add_argument(
            "--max-kl",
            type=_not_negative,
            metavar="NATS",
            help="text-generation: fail if the next-token distributions are further from the original's: the mean "
            "Kullback-Leibler divergence, 0.01 say (default: no limit)",
        )
        group.add_argument(
            "--max-box-error",
            type=_not_negative,
            metavar="PIXELS",
            help="object-detection: fail if boxes are further from the original's: the mean error of their sides in "
            "pixels of the image, 0.5 say (default: no limit)",
        )
        group.add_argument(
            "--min-iou",
            type=_share,
            metavar="SHARE",
            help="image-segmentation: fail if the mean IoU with the original's map of classes is lower, 0.98 say "
            "(default: no limit)",
        )
        group.add_argument(
            "--max-depth-error",
            type=_not_negative,
            metavar="SHARE",
            help="depth-estimation: fail if depths are further from the original's: the mean absolute relative error, "
            "0.01 say (default: no limit)",
        )
        group.add_argument(
            "--max-wer-increase",
            type=_not_negative,
            metavar="POINTS",
            help="automatic-speech-recognition: fail if the package's word error rate is higher than the original's "
            "by more percentage points (default: as --max-accuracy-drop)",
        )
        group.add_argument(
            "--max-bleu-loss",
            type=_not_negative,
            metavar="POINTS",
            help="text2text-generation, image-to-text: fail if the package's BLEU, 0 to 100, is lower than the "
            "original's by more than this (default: as --max-accuracy-drop, where there are targets)",
        )


def dataset_spec_from_args(args: Namespace) -> DatasetSpec | None:
    """The dataset that the options name, or None if they name none.

    Raises:
        DatasetError: Options that describe a dataset, and no dataset.
    """
    from optimum_ane.evaluation.datasets import DatasetSpec

    if args.dataset is None:
        given = [f"--{name.replace('_', '-')}" for name in _DETAILS if getattr(args, name) is not None]
        if given:
            raise DatasetError(f"{', '.join(given)} says nothing without a dataset; name the dataset too")
        return None
    return DatasetSpec(
        dataset=args.dataset,
        config=args.dataset_config,
        split=args.split,
        text_column=args.text_column,
        text_pair_column=args.text_pair_column,
        label_column=args.label_column,
        max_samples=args.max_samples,
        choices_columns=None if args.choices_column is None else tuple(args.choices_column.split(",")),
        stride=args.stride,
        image_column=args.image_column,
        audio_column=args.audio_column,
    )


def accuracy_limits_from_args(args: Namespace) -> AccuracyLimits | None:
    """What a package may lose on the dataset, as the options say; None if they say nothing."""
    from optimum_ane.evaluation.accuracy import AccuracyLimits

    given = {limit: getattr(args, limit) for limit in _LIMITS if getattr(args, limit) is not None}
    return AccuracyLimits(**given) if given else None


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def _not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not isfinite(number) or number < 0:
        raise ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return number


def _share(text: str) -> float:
    number = _not_negative(text)
    if number > 1:
        raise ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return number
