"""What the tests of loading do in the process that holds the Hub client."""

from pathlib import Path

TEXT = "the film was very good"


def classify(repo_id, **options):
    """Loads model and tokenizer by the Hub id, and returns label and score of `TEXT`."""
    from transformers import AutoTokenizer, pipeline

    from optimum_ane import ANEModelForSequenceClassification

    model = ANEModelForSequenceClassification.from_pretrained(repo_id, **options)
    options.pop("force_download", None)
    tokenizer = AutoTokenizer.from_pretrained(repo_id, **options)
    (answer,) = pipeline("text-classification", model=model, tokenizer=tokenizer)(TEXT)
    return answer["label"], answer["score"]


def scores(repo_id, texts):
    """The score of each label for each text, by the Hub id alone."""
    from transformers import AutoTokenizer, pipeline

    from optimum_ane import ANEModelForSequenceClassification

    model = ANEModelForSequenceClassification.from_pretrained(repo_id)
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(repo_id))
    return [{entry["label"]: entry["score"] for entry in answer} for answer in classify(texts, top_k=None)]


def save(repo_id, target, **options):
    """Loads a model, saves it, and returns the files of the copy with their content."""
    from optimum_ane import ANEModelForSequenceClassification

    ANEModelForSequenceClassification.from_pretrained(repo_id, **options).save_pretrained(target)
    paths = [path for path in Path(target).rglob("*") if not path.is_dir()]
    assert not any(path.is_symlink() for path in paths)
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in paths}
