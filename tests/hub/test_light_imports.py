"""What must start at once imports nothing heavy: the package itself, and making a card."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"coremltools", "datasets", "evaluate", "optimum", "scipy", "sklearn", "torch", "transformers"}
VERSION_1 = Path(__file__).parents[1] / "package" / "fixtures" / "version-1"
CARDS = """
import dataclasses, pathlib, sys
from optimum_ane.hub.card import make_card
from optimum_ane.hub.card_package import read_card_package
from optimum_ane.hub.picture import make_picture
from optimum_ane.package.manifest import FunctionEntry, ImageEntry, ProgramEntry, TensorEntry
from optimum_ane.package.normalization import Normalization
from optimum_ane.tasks import TASKS

package = read_card_package("package", pathlib.Path(sys.argv[1]))
(text,) = package.manifest.programs
outputs = {"logits": (1, 5, 3), "pred_boxes": (1, 5, 4), "predicted_depth": (1, 8, 8), "image_embeds": (1, 4)}
pixels = FunctionEntry(
    "main",
    inputs=(TensorEntry("pixel_values", (1, 3, 8, 8), "float32"),),
    outputs=tuple(TensorEntry(name, shape, "float32") for name, shape in outputs.items()),
)
programs = {
    "image": (ProgramEntry("model", (pixels,)),),
    "image-text": (dataclasses.replace(text, name="text"), ProgramEntry("image", (pixels,))),
}
image = ImageEntry(8, 8, 3, normalization=Normalization("RGB", (1.0,) * 3, (0.0,) * 3))
for name, task in TASKS.items():
    form = dataclasses.replace(package.manifest.form, task=name)
    manifest = dataclasses.replace(
        package.manifest,
        form=form,
        programs=programs.get(task.modality, (text,)),
        image=image if "image" in task.modality else None,
        text=package.manifest.text if "text" in task.modality else None,
        constants={"logit_scale": 1.0, "logit_bias": 0.0},
    )
    other = dataclasses.replace(package, manifest=manifest)
    assert "## Use from Swift" in make_card([other], repo_id=None)
assert make_picture([package]) is not None
"""


@pytest.mark.parametrize("program", ["import optimum_ane; optimum_ane.__version__", CARDS], ids=["package", "cards"])
def test_nothing_heavy_is_imported(program):
    program = f"{program}\nimport sys; print('HEAVY', sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program, str(VERSION_1)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "HEAVY []\n"


def test_the_test_would_see_what_is_heavy():
    program = f"import torch, sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "torch" in done.stdout
