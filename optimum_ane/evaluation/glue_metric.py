"""GLUE's metrics, shipped: nothing is fetched or executed from the Hub to score."""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from optimum_ane.package.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL, ProblemType


@dataclass(frozen=True)
class MetricConfig:
    """What is measured on one kind of dataset.

    Attributes:
        metrics: Names of the metrics; the first is the primary one, whose drop the gate limits.
        problem_type: What a checkpoint must predict to be scored so.
    """

    metrics: tuple[str, ...]
    problem_type: ProblemType = SINGLE_LABEL

    @property
    def primary(self) -> str:
        """Name of the metric whose drop the gate limits."""
        return self.metrics[0]


_ACCURACY = MetricConfig(("accuracy",))
_ACCURACY_AND_F1 = MetricConfig(("accuracy", "f1"))
_CORRELATIONS = MetricConfig(("pearson", "spearmanr"), REGRESSION)

GLUE_CONFIGS: dict[str, MetricConfig] = {
    "cola": MetricConfig(("matthews_correlation",)),
    "sst2": _ACCURACY,
    "mrpc": _ACCURACY_AND_F1,
    "qqp": _ACCURACY_AND_F1,
    "stsb": _CORRELATIONS,
    "mnli": _ACCURACY,
    "mnli_matched": _ACCURACY,
    "mnli_mismatched": _ACCURACY,
    "qnli": _ACCURACY,
    "rte": _ACCURACY,
    "wnli": _ACCURACY,
    "hans": _ACCURACY,
}
"""GLUE's own choice of metrics (https://gluebenchmark.com/tasks)."""

METRIC_CONFIGS: dict[str, MetricConfig] = {
    **GLUE_CONFIGS,
    "accuracy": _ACCURACY,
    "regression": _CORRELATIONS,
    "multilabel": MetricConfig(("accuracy", "f1_micro"), MULTI_LABEL),
}
"""Every config of `GlueMetric`."""

DEFAULT_CONFIGS: dict[ProblemType, str] = {
    SINGLE_LABEL: "accuracy",
    REGRESSION: "regression",
    MULTI_LABEL: "multilabel",
}
"""The config for a dataset that is none of GLUE's."""

_DESCRIPTION = "The metrics of the GLUE benchmark, over scikit-learn and scipy, with none of the Hub's code."

_CITATION = """\
@inproceedings{wang2019glue,
  title={{GLUE}: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding},
  author={Wang, Alex and Singh, Amanpreet and Michael, Julian and Hill, Felix and Levy, Omer and Bowman, Samuel R.},
  booktitle={ICLR},
  year={2019}
}"""

_INPUTS = """
Args:
    predictions: Predicted label ids; for stsb and regression numbers; for multilabel lists of one 0 or 1 a label.
    references: The true ones, in the same form.
Returns:
    A dictionary of the config's metrics as fractions: accuracy, f1 (of label 1), f1_micro, matthews_correlation,
    pearson, spearmanr. A correlation with a constant is NaN.
"""


class GlueMetric(evaluate.Metric):
    """GLUE's metric for one task, offline: `GlueMetric("sst2").compute(predictions=…, references=…)`.

    Beside GLUE's task names there are three configs for other data: `accuracy`, `regression` (Pearson and Spearman
    correlation) and `multilabel` (the share of rows with every label right, and micro-averaged F1).
    """

    def __init__(self, config_name: str = "accuracy") -> None:
        """Makes the metric of one config, one of `METRIC_CONFIGS`.

        Raises:
            ValueError: There is no such config.
        """
        if config_name not in METRIC_CONFIGS:
            raise ValueError(f"no metric for {config_name!r}; there is one for each of: {', '.join(METRIC_CONFIGS)}")
        super().__init__(config_name=config_name, keep_in_memory=True)

    def _build_data_dir(self) -> str:
        # evaluate makes a cache directory in the home even when all is kept in memory; a home may be read-only.
        return str(self._data_dir_root)

    def _info(self) -> evaluate.MetricInfo:
        problem_type = METRIC_CONFIGS[self.config_name].problem_type
        value = datasets.Value("float64" if problem_type == REGRESSION else "int64")
        feature = datasets.List(value) if problem_type == MULTI_LABEL else value
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": feature, "references": feature}),
            reference_urls=["https://gluebenchmark.com"],
            format=None if problem_type == MULTI_LABEL else "numpy",  # evaluate has numpy for flat features alone
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        names = METRIC_CONFIGS[self.config_name].metrics
        return {name: _measure(name, np.asarray(predictions), np.asarray(references)) for name in names}


def _measure(name: str, predictions: np.ndarray, references: np.ndarray) -> float:
    match name:
        case "accuracy":
            return float(accuracy_score(references, predictions))
        case "f1":
            return float(f1_score(references, predictions, zero_division=0))
        case "f1_micro":
            return float(f1_score(references, predictions, average="micro", zero_division=0))
        case "matthews_correlation":
            return float(matthews_corrcoef(references, predictions))
        case "pearson" | "spearmanr":
            return _correlation(name, predictions, references)
        case _:
            raise ValueError(f"no metric is named {name!r}")


def _correlation(name: str, predictions: np.ndarray, references: np.ndarray) -> float:
    if len(references) < 2 or np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return float("nan")  # as scipy says, without its warning or, for one row, its exception
    correlate = pearsonr if name == "pearson" else spearmanr
    return float(correlate(predictions, references).statistic)
