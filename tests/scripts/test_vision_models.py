"""Some of the vision models that `make verify` measures: as the originals, and on the engine but for the edges."""

import pytest
from verification.vision import measure_model
from verification.vision_models import VISION_MODELS

MODELS = {model.name: model for model in VISION_MODELS}


@pytest.mark.parametrize(
    ("name", "most_operations"),
    [("beit, feature-extraction", 62), ("detr, object-detection", 139), ("dinov2, image-classification", 61)],
)
def test_models_answer_as_the_originals_in_the_engines_layout(name, most_operations, tmp_path):
    found = measure_model(MODELS[name], tmp_path)
    assert found.exact >= 100
    assert found.half >= 50
    # Relative positions, sines of places and enlarged tables are constants; nothing cuts the engine's work.
    assert found.share == 1.0
    assert (found.regions, found.rank) == (2, 4)
    assert found.operations <= most_operations
