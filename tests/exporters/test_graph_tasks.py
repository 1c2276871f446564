"""Which model types go by their graph for which tasks, and what the README says of it."""

import re
from collections import Counter
from pathlib import Path

import optimum_ane.models  # noqa: F401 - registers the architectures
from optimum_ane.exporters.config import get_ane_config_class, graph_tasks
from optimum_ane.tasks import all_rows, task_row

README = Path(__file__).parents[2] / "README.md"


def count_model_types():
    return Counter(
        task_row(task, modality=get_ane_config_class(model_type, task, "graph").MODALITY).model_class
        for model_type, tasks in graph_tasks().items()
        for task in tasks
    )


def test_the_readme_counts_the_model_types_of_each_task():
    row = re.compile(
        r"^\| `([\w-]+)` \| (text|image|sound|image-text|sound-text)s \| `(\w+)` \| (\d+)(?:, [^|]+)? \|$",
        re.MULTILINE,
    )
    rows = row.findall(README.read_text())
    kinds = {"sound": "audio", "sound-text": "audio-text"}
    stated = {(task, kinds.get(kind, kind), model_class): int(count) for task, kind, model_class, count in rows}
    counts = count_model_types()
    assert stated == {(row.name, row.modality, row.model_class): counts[row.model_class] for row in all_rows()}


def test_a_model_type_takes_rows_of_one_kind_for_a_task():
    tasks = graph_tasks()
    kinds = {
        model_type: {get_ane_config_class(model_type, task, "graph").MODALITY for task in tasks[model_type]}
        for model_type in ("llama", "vit", "wav2vec2", "yolos")
    }
    assert kinds == {"llama": {"text"}, "vit": {"image"}, "wav2vec2": {"audio"}, "yolos": {"image"}}
