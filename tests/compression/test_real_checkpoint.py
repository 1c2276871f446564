"""int8 on a trained model: half the size, and the predictions stay."""

import pytest

from optimum_ane import export


def test_int8_halves_a_trained_classifier_and_keeps_its_predictions(shared, tmp_path):
    model, dataset = shared / "models" / "distilbert-sst2", shared / "data" / "sst2" / "dev.tsv"
    for path in (model, dataset):
        if not path.exists():
            pytest.skip(f"needs {path}, which is not part of the repository")
    result = export(
        model, tmp_path / "out", sequence_length=64, compress="int8", eval_dataset=str(dataset), quiet=True
    )
    assert result.report.compression["ratio_to_float16"] <= 0.51
    assert result.accuracy.rows == 872
    assert result.accuracy.package.right >= 774
    assert result.accuracy.agreement > 0.99
    assert result.accuracy.psnr > 30
