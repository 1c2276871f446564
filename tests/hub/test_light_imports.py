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
from optimum_ane.tasks import TASKS

package = read_card_package("package", pathlib.Path(sys.argv[1]))
for task in TASKS:
    form = dataclasses.replace(package.manifest.form, task=task)
    other = dataclasses.replace(package, manifest=dataclasses.replace(package.manifest, form=form))
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
