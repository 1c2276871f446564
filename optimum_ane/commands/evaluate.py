"""`optimum-cli ane evaluate`: a package's accuracy on a dataset, beside the original's."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum_ane.commands.base import BaseANECommand
from optimum_ane.commands.dataset_arguments import (
    accuracy_limits_from_args,
    add_dataset_arguments,
    dataset_spec_from_args,
)
from optimum_ane.commands.reference_arguments import add_reference_arguments


class EvaluateCommand(BaseANECommand):
    """Scores a package on a dataset and fails if it is worse than the original by more than is allowed."""

    DESCRIPTION = """\
Measures a package on a dataset, beside the checkpoint that it was made from: the metrics of both, the drop of the
first with its 95 % interval (paired bootstrap), how often they agree, the PSNR of the outputs, and speed. Exits with 1
if the drop is larger than --max-accuracy-drop, or a language model's limits are not kept.

  task                  metrics, the first of which the limit is for
  text-classification   accuracy, or what GLUE has for the dataset
  token-classification  F1, precision and recall of entities (seqeval) and accuracy; accuracy alone for plain tags
  question-answering    F1 and exact match (SQuAD 1.1; 2.0 where questions have no answer)
  feature-extraction    Spearman's and Pearson's correlation of cosines with similarities (STS-B)
  fill-mask             top-1 and top-5 accuracy and pseudo-perplexity of four tokens a text, masked one at a time
  multiple-choice       accuracy
  image-classification  top-1 accuracy, and top-5 of more than five labels
  object-detection      the share of detections that both have; errors of boxes in pixels of the image, and of scores
  image-segmentation    mean IoU with the dataset's masks where it has them; points of the original's class, and mean
                        IoU with the original's map
  zero-shot-image-classification
                        top-1 accuracy of the texts "a photo of a {class}.", and top-5 of more than five classes
  automatic-speech-recognition
                        word and character error rates (WER, CER), in lower case without punctuation, and raw
  text2text-generation, image-to-text
                        BLEU, chrF and exact match with targets or captions; without these with the original
  depth-estimation      the share of depths within a factor of 1.25 of the original's; absolute relative error
  text-generation       top-1 and top-5 accuracy and perplexity of each token of the texts, read as one in windows of
                        the package's context; the KL divergence of the next-token distributions of original and
                        package in nats, and how often their likeliest token is the same

examples:
  optimum-cli ane evaluate out/ --dataset dev.tsv
  optimum-cli ane evaluate out/ --dataset glue --dataset-config sst2 --split validation
  optimum-cli ane evaluate out/ --dataset pairs.csv --text-column title --text-pair-column body --label-column 3
  optimum-cli ane evaluate ner/ --dataset conll.jsonl
  optimum-cli ane evaluate qa/ --dataset rajpurkar/squad --max-samples 500
  optimum-cli ane evaluate llm/ --dataset book.txt --max-perplexity-increase 0.5 --max-kl 0.003
  optimum-cli ane evaluate vit/ --dataset images/ --max-accuracy-drop 0.3
  optimum-cli ane evaluate vit/ --dataset imagenet-1k --max-samples 1000
  optimum-cli ane evaluate detr/ --dataset photos/ --max-box-error 0.5
  optimum-cli ane evaluate wav2vec2/ --dataset recordings/ --max-wer-increase 0.5
  optimum-cli ane evaluate out/ --dataset dev.tsv --no-reference --output report.json"""

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Adds the package, the dataset's options and those of the comparison."""
        parser.add_argument("package", metavar="PACKAGE", help="directory that `optimum-cli export ane` wrote")
        add_dataset_arguments(parser, "--dataset", required=True)
        add_reference_arguments(parser, "score the package alone")
        parser.add_argument(
            "--runtime",
            choices=("auto", "portable", "coreml"),
            default="auto",
            help="what executes the package (default: auto, which is coreml on macOS and portable elsewhere)",
        )
        parser.add_argument("--output", metavar="FILE", help="also write the report as JSON")

    def execute(self) -> None:
        """Evaluates, prints the table, writes the JSON, and then checks the drop.

        Raises:
            ANEError: Anything that the user can mend, a loss beyond the limits included.
        """
        from optimum_ane.errors import DatasetError, ValidationError
        from optimum_ane.evaluation.accuracy import NEEDS_ORIGINAL, AccuracyLimits, check_accuracy
        from optimum_ane.evaluation.report import print_report
        from optimum_ane.evaluation.report_file import check_writable, write_report
        from optimum_ane.workflows.evaluate import evaluate_package

        args = self.args
        limits = accuracy_limits_from_args(args)
        if args.no_reference and limits is not None:
            raise ValidationError(f"{NEEDS_ORIGINAL}; leave out --no-reference")
        if args.output is not None:
            check_writable(args.output)
        spec = dataset_spec_from_args(args)
        if spec is None:
            raise DatasetError("no dataset is named; name one with --dataset")
        report = evaluate_package(
            args.package,
            spec,
            reference=args.reference,
            with_reference=not args.no_reference,
            runtime=args.runtime,
            trust_remote_code=args.trust_remote_code,
        )
        print_report(report)
        if args.output is not None:
            write_report(report, args.output)
        if not args.no_reference:
            check_accuracy(report, limits or AccuracyLimits())
