"""Classifies texts with an exported package, through transformers' own pipeline.

python scripts/predict.py demo/package "the film is never dull"
"""

from __future__ import annotations

import sys

from transformers import AutoTokenizer, pipeline

from optimum_ane import ANEModelForSequenceClassification


def main() -> None:
    """Prints a line for each text."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    package, *texts = sys.argv[1:]
    model = ANEModelForSequenceClassification.from_pretrained(package)
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(package))
    for text, answer in zip(texts, classify(texts, truncation=True), strict=True):
        print(f"{answer['label']} {answer['score']:.4f}  {text}  ({model.runtime} runtime)")


if __name__ == "__main__":
    main()
