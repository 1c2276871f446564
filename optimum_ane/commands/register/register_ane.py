"""What optimum-cli finds: installed as `optimum/commands/register/register_ane.py`.

optimum-cli imports this file at every start, for every command, so it and all that it imports stay free of torch,
transformers and coremltools.
"""

from optimum.commands.export.base import ExportCommand

from optimum_ane.commands.ane import ANECommand
from optimum_ane.commands.export import ANEExportCommand

REGISTER_COMMANDS = [ANECommand, (ANEExportCommand, ExportCommand)]
