"""int8 on a trained model: half the size, and the predictions stay."""

import pytest

from optimum_ane import export

ROWS = 218
"""A quarter of SST-2's dev set."""


def test_int8_halves_a_trained_classifier_and_keeps_its_predictions(shared, tmp_path):
    model, dataset = shared / "models" / "distilbert-sst2", shared / "data" / "sst2" / "dev.tsv"
    for path in (model, dataset):
        if not path.exists():
            pytest.skip(f"needs {path}, which is not part of the repository")
    some = tmp_path / "dev.tsv"
    some.write_text("".join(dataset.read_text().splitlines(keepends=True)[::4]))
    result = export(model, tmp_path / "out", sequence_length=64, compress="int8", eval_dataset=str(some), quiet=True)
    assert result.report.compression["ratio_to_float16"] <= 0.51
    assert result.accuracy.rows == ROWS
    assert abs(result.accuracy.package.right - result.accuracy.original.right) <= 1
    assert result.accuracy.original.right >= 0.85 * ROWS
    assert result.accuracy.agreement > 0.99
    assert result.accuracy.psnr > 30
