"""`optimum-cli ane plan`: whether a language model will do on a device, before anything is downloaded or exported."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError

from optimum_ane.commands.base import BaseANECommand
from optimum_ane.package.form import AS_LIMITS_ALLOW, AUTO


class PlanCommand(BaseANECommand):
    """Plans the export of a decoder from its configuration."""

    DESCRIPTION = """\
Says what a decoder language model would take on a device, and how fast it might be: the size of the weights on disk,
memory against what one app may take, the number of programs, the time to the first token, tokens per second, and a
verdict with its reasons. Only MODEL's config.json is read; no weights are downloaded and nothing is run.

Sizes follow from the shapes of the weights. Memory and speed are estimates, the latter by the model that
`ane inspect --chip` uses; docs/decoder-speed.md shows how far it was off published numbers. What an app may take is
what others read on devices: docs/planning.md names them.

MODEL is a Hub id or a directory with a config.json of a causal language model of transformers. Without --compress the
forms that are known to stay on the Neural Engine are planned side by side.

examples:
  optimum-cli ane plan HuggingFaceTB/SmolLM2-135M-Instruct --device "iPhone 15 Pro" --context-length 2048
  optimum-cli ane plan meta-llama/Llama-3.2-1B --device "iPhone 14" --context-length 1024 --compress palette4-g16
  optimum-cli ane plan checkpoint/ --device "MacBook Air M2" --context-length 4096 --chunks 2 --json"""
    INTERRUPTED = "nothing was read to the end. Run the command again to start over"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Adds the model, the device and the form."""
        parser.add_argument("model", metavar="MODEL", help="Hub id, or directory with a config.json")
        parser.add_argument("--device", required=True, metavar="NAME", help='"iPhone 15 Pro", "MacBook Air M2"')
        parser.add_argument(
            "--context-length", type=int, required=True, metavar="N", help="tokens that the cache has room for"
        )
        parser.add_argument(
            "--compress", metavar="RECIPE", help="a recipe's name, a .yaml file, or float16 (default: several)"
        )
        parser.add_argument(
            "--chunks",
            type=_chunks,
            metavar="N|auto",
            help="programs, or auto: as few as hold 15 layers and 950 MB each at most (default: one, or auto where it "
            "were larger than 950 MB)",
        )
        parser.add_argument(
            "--prefill-length",
            type=int,
            default=64,
            metavar="N",
            help="tokens of a block of the prompt (default: %(default)s)",
        )
        parser.add_argument(
            "--prompt-length",
            type=int,
            default=128,
            metavar="N",
            help="tokens of the prompt that the time to the first token is estimated for (default: %(default)s)",
        )
        parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")
        parser.add_argument("--revision", metavar="REVISION", help="of MODEL on the Hub: branch, tag or commit")
        parser.add_argument("--cache-dir", metavar="DIR", help="where downloads are kept")
        parser.add_argument("--token", metavar="TOKEN", help="access token of the Hub; never printed")
        parser.add_argument("--trust-remote-code", action="store_true", help="run the repository's own Python code")

    def execute(self) -> None:
        """Makes the plans and prints them.

        Raises:
            ANEError: Anything that the user can mend.
        """
        from optimum_ane.analysis.devices import get_device
        from optimum_ane.analysis.plan import PlanRequest
        from optimum_ane.analysis.plan_tables import print_plans
        from optimum_ane.checkpoints.hub_options import HubOptions
        from optimum_ane.workflows.plan import make_plans

        args = self.args
        request = PlanRequest(
            get_device(args.device), args.context_length, args.prefill_length, args.prompt_length, args.chunks
        )
        hub = HubOptions(args.revision, args.cache_dir, args.token, args.trust_remote_code)
        made = make_plans(args.model, request, args.compress, hub)
        if args.json:
            import json

            print(json.dumps(made.to_dict(), indent=2, allow_nan=False))
        else:
            print_plans(made.model, made.decoder, made.request, made.plans)


def _chunks(text: str) -> int:
    if text == AUTO:
        return AS_LIMITS_ALLOW
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is neither a whole number above 0 nor {AUTO}")
    return int(text)
