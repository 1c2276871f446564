import subprocess
import sys

import pytest

from optimum_ane.commands.ane import ANECommand

HEAVY = {
    "coremltools", "datasets", "evaluate", "matplotlib", "numpy", "rich", "scipy", "sklearn", "torch", "transformers",
}  # fmt: skip
COMMANDS = [("ane", command.name) for command in ANECommand.SUBCOMMANDS]


@pytest.mark.parametrize("line", [(), ("export",), ("export", "ane"), ("ane",), *COMMANDS], ids=" ".join)
def test_a_help_teaches_and_imports_nothing_heavy(line):
    program = f"""
import sys
from optimum.commands.optimum_cli import main
sys.argv = ["optimum-cli", *{line!r}, "--help"]
try:
    main()
finally:
    print("HEAVY", sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    assert "usage:" in done.stdout
    if line in COMMANDS or line == ("export", "ane"):
        assert f"optimum-cli {' '.join(line)} " in done.stdout.split("examples:")[1]
