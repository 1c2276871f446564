import math

import evaluate
import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from optimum_ane.evaluation.glue_metric import GLUE_CONFIGS, METRIC_CONFIGS, GlueMetric

# tp 3, fp 1, fn 2, tn 4 of 10
LABELS = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
PREDICTIONS = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]


def test_is_one_of_evaluates_metrics():
    assert isinstance(GlueMetric("sst2"), evaluate.Metric)


@pytest.mark.parametrize("config", ["sst2", "mnli", "mnli_matched", "mnli_mismatched", "qnli", "rte", "wnli", "hans"])
def test_accuracy_by_hand(config):
    assert GlueMetric(config).compute(predictions=PREDICTIONS, references=LABELS) == {"accuracy": 0.7}


@pytest.mark.parametrize("config", ["mrpc", "qqp"])
def test_accuracy_and_f1_by_hand(config):
    scores = GlueMetric(config).compute(predictions=PREDICTIONS, references=LABELS)
    assert list(scores) == ["accuracy", "f1"]
    assert scores["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert scores["f1"] == f1_score(LABELS, PREDICTIONS)


def test_matthews_by_hand():
    scores = GlueMetric("cola").compute(predictions=PREDICTIONS, references=LABELS)
    expected = (3 * 4 - 1 * 2) / math.sqrt((3 + 1) * (3 + 2) * (4 + 1) * (4 + 2))
    assert scores == {"matthews_correlation": pytest.approx(expected)}
    assert scores["matthews_correlation"] == pytest.approx(matthews_corrcoef(LABELS, PREDICTIONS))


def test_correlations_by_hand():
    # predictions 1 2 4 3 against 1 2 3 4: one swap of neighbours, d² = 2, Spearman 1 − 6·2/(4·15) = 0.8
    scores = GlueMetric("stsb").compute(predictions=[1.0, 2.0, 4.0, 3.0], references=[1.0, 2.0, 3.0, 4.0])
    assert scores == {"pearson": pytest.approx(0.8), "spearmanr": pytest.approx(0.8)}
    left, right = np.random.default_rng(0).normal(size=(2, 50))
    scores = GlueMetric("regression").compute(predictions=left, references=right)
    assert scores["pearson"] == pytest.approx(pearsonr(left, right).statistic)
    assert scores["spearmanr"] == pytest.approx(spearmanr(left, right).statistic)


def test_correlation_with_a_constant_is_not_defined():
    scores = GlueMetric("stsb").compute(predictions=[1.0, 1.0], references=[1.0, 2.0])
    assert all(math.isnan(score) for score in scores.values())


def test_several_labels_by_hand():
    # one of two rows is wholly right; micro: tp 2, fp 1, fn 1
    scores = GlueMetric("multilabel").compute(predictions=[[1, 0, 1], [0, 1, 0]], references=[[1, 0, 1], [1, 0, 0]])
    assert scores == {"accuracy": 0.5, "f1_micro": pytest.approx(2 / 3)}


def test_every_config_names_its_primary_metric_first():
    assert {name: config.primary for name, config in GLUE_CONFIGS.items()} == {
        "cola": "matthews_correlation", "stsb": "pearson", "sst2": "accuracy", "mrpc": "accuracy", "qqp": "accuracy",
        "mnli": "accuracy", "mnli_matched": "accuracy", "mnli_mismatched": "accuracy", "qnli": "accuracy",
        "rte": "accuracy", "wnli": "accuracy", "hans": "accuracy",
    }  # fmt: skip
    for name, config in METRIC_CONFIGS.items():
        labels = [[1, 0], [0, 1]] if name == "multilabel" else [0, 1]
        assert tuple(GlueMetric(name).compute(predictions=labels, references=labels)) == config.metrics


def test_unknown_config():
    with pytest.raises(ValueError, match="no metric for 'sst3'; there is one for each of: cola, sst2"):
        GlueMetric("sst3")
