import os
import subprocess
import sys

CODE = """
from optimum_ane.evaluation.entity_metric import EntityMetric
from optimum_ane.evaluation.glue_metric import GlueMetric
from optimum_ane.evaluation.squad_metric import SquadMetric
from optimum_ane.evaluation.transcript_metric import TranscriptMetric
from optimum_ane.evaluation.translation_metric import TranslationMetric

print(GlueMetric("sst2").compute(predictions=[1, 0], references=[1, 1])["accuracy"])
print(EntityMetric().compute(predictions=[["B-PER"]], references=[["B-PER"]])["f1"])
print(SquadMetric("squad_v2").compute(predictions=["", "a b"], references=[[], ["b"]])["f1"])
print(TranscriptMetric().compute(predictions=["a b"], references=["A c"])["wer"])
print(TranslationMetric().compute(predictions=["a b c d"], references=[["a b c d"]])["chrf"])
"""


def test_metrics_write_nothing(tmp_path):
    """With a cache that cannot be made, and no network: scoring works and leaves no file."""
    (tmp_path / "file").touch()
    environment = os.environ | {"HF_HOME": str(tmp_path / "file" / "below"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0.5", "1.0", "1.0", "0.5", "1.0"], done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
