"""Datasets of the Hugging Face Hub, through `datasets`, which fetches data and never runs a repository's code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from optimum_ane.access_tokens import check_stored_token, tokens_hidden
from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.dataset_errors import dataset_error

GLUE_REPOSITORIES = ("glue", "nyu-mll/glue")

_BATCH_ROWS = 256


class HubTable:
    """One split of a dataset on the Hub, or in the local cache of `datasets`."""

    headed = True

    @tokens_hidden()
    def __init__(self, dataset: str, config: str | None, split: str) -> None:
        """Fetches the split into the cache of `datasets`, if it is not there.

        Raises:
            DatasetError: It does not exist, may not be read, or the Hub cannot be reached.
        """
        import datasets
        from datasets.exceptions import DatasetsError

        self.name = f"{dataset}{f'/{config}' if config else ''}, split {split}"
        check_stored_token(DatasetError)
        try:
            self._data = datasets.load_dataset(dataset, config, split=split)
        except ConnectionError as error:
            what = f"the Hub cannot be reached ({error})"
            remedy = (
                "pass a local file with its suffix (.tsv, .csv, …), or set HF_HUB_OFFLINE=1 to use a cached dataset"
            )
            raise dataset_error(self.name, what, remedy) from error
        except (DatasetsError, OSError, ValueError, RuntimeError) as error:
            what = f"cannot be loaded ({_one_line(error)})"
            remedy = "check --dataset, --dataset-config and --split; for a local file give its path with its suffix"
            raise dataset_error(self.name, what, remedy) from error
        if not isinstance(self._data, datasets.Dataset):
            raise dataset_error(self.name, "is not one table of rows", "name one split with --split")
        if len(self._data) == 0:
            raise dataset_error(self.name, "the split has no rows", "name another one with --split")
        self.columns = tuple(self._data.column_names)

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """Names of the integer classes of a `ClassLabel` column, or of a list of them."""
        feature: Any = self._data.features[column]
        feature = getattr(feature, "feature", feature)
        names = getattr(feature, "names", None)
        return None if names is None else tuple(names)

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        return len(self._data)

    def files(self, column: str, feature: str, option: str) -> Any:
        """The rows with a column of images or sounds as the files that they are, `{"bytes": …, "path": …}`, unopened.

        Args:
            column: The column.
            feature: What `datasets` calls its kind: `"Image"` or `"Audio"`.
            option: The command line's option that names the column.

        Raises:
            DatasetError: The column holds nothing of the kind.
        """
        import datasets

        kind = getattr(datasets, feature)
        if not isinstance(self._data.features[column], kind):
            what = f"the column holds no {'images' if feature == 'Image' else 'sounds'}, as `datasets` declares them"
            raise dataset_error(self.name, what, f"name another one with {option}", column=column)
        return self._data.select_columns([column]).cast_column(column, kind(decode=False))

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yields each row's 1-based number and its values in the order of `columns`."""
        row = 0
        for batch in self._data.select_columns(list(dict.fromkeys(columns))).iter(batch_size=_BATCH_ROWS):
            for record in zip(*(batch[column] for column in columns), strict=True):
                row += 1
                yield row, record


def glue_split(config: str) -> str:
    """GLUE's labelled split for scoring: `validation`, of which MNLI has two."""
    return "validation_matched" if config == "mnli" else "validation"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if not isinstance(error, DatasetError) else text
