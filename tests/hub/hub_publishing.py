"""What the tests of publishing do in the process that holds the Hub client."""

import os
import sys


def command(*arguments, token=None):
    """`optimum-cli ane publish`, whose output becomes the answer's; returns the exit code.

    A `token` takes HF_TOKEN's place; an empty one stands for none.
    """
    from optimum.commands.optimum_cli import main

    before = sys.argv, os.environ["HF_TOKEN"]
    sys.argv = ["optimum-cli", "ane", "publish", *map(str, arguments)]
    os.environ["HF_TOKEN"] = before[1] if token is None else token
    try:
        main()
    except SystemExit as stop:
        return stop.code
    finally:
        sys.argv, os.environ["HF_TOKEN"] = before
    return 0


def push(package, repo_id, target):
    """Pushes a loaded package, and what was loaded from there, in all ways; returns the URLs."""
    from optimum_ane import ANEModelForSequenceClassification as Model

    first = Model.from_pretrained(package).push_to_hub(repo_id, private=True, license="mit", commit_message="by hand")
    model = Model.from_pretrained(repo_id)
    second = model.push_to_hub(f"{repo_id}-copy", license="mit", subfolder="inside")
    model.save_pretrained(target, push_to_hub=True, repo_id=f"{repo_id}-saved", license="mit")
    return [first, second]
