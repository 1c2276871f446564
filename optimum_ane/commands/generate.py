"""`optimum-cli ane generate`: text from a package that writes, streamed as it is written."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterator

from optimum_ane.commands.base import BaseANECommand
from optimum_ane.screen import say

_CONVERSATION = "\0"
"""What `--chat` holds without a text."""


class GenerateCommand(BaseANECommand):
    """Writes text with an exported language model, or of a text with an exported encoder-decoder model."""

    DESCRIPTION = """\
Writes text with a language model that `optimum-cli export ane --task text-generation` exported: Core ML runs it on a
Mac, the portable runtime on any other machine. The text goes to stdout as it is written, its speed to stderr, with the
name of the runtime. With --text, a package of the task text2text-generation writes a text of it: its translation, its
summary, whatever the model was trained for. The portable runtime's speed is that of this machine's CPU, and tells
nothing of a device.

How the next token is chosen is what the package's generation_config.json says, unless an option says otherwise.

examples:
  optimum-cli ane generate out/ --prompt "Once upon a time" --max-new-tokens 64
  optimum-cli ane generate out/ --chat "What is the capital of France?"
  optimum-cli ane generate out/ --chat                    (a conversation; Ctrl-D ends it)
  optimum-cli ane generate out/ --chat --temperature 0.7 --top-p 0.9 --seed 1
  optimum-cli ane generate out/ --text "The house is wonderful." --num-beams 4"""

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Adds the package, what it is to answer, and how tokens are chosen."""
        parser.add_argument("package", metavar="PACKAGE", help="exported directory, or Hub id of a package")
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--prompt", metavar="TEXT", help="write on from this text")
        what.add_argument(
            "--chat",
            nargs="?",
            const=_CONVERSATION,
            metavar="TEXT",
            help="answer this message by the package's chat template; without a text, hold a conversation",
        )
        what.add_argument("--text", metavar="TEXT", help="write a text of this one: translate it, say")
        parser.add_argument("--system", metavar="TEXT", help="what the conversation is to be like, with --chat")
        group = parser.add_argument_group("the text")
        group.add_argument(
            "--max-new-tokens", type=int, default=256, metavar="N", help="the most tokens of an answer (default: 256)"
        )
        group.add_argument("--greedy", action="store_true", help="always take the most probable token")
        group.add_argument("--temperature", type=float, metavar="T", help="divides the logits before a token is drawn")
        group.add_argument(
            "--top-p", type=float, metavar="P", help="draw among the most probable tokens of this probability together"
        )
        group.add_argument("--top-k", type=int, metavar="K", help="draw among so many of the most probable tokens")
        group.add_argument(
            "--num-beams", type=int, metavar="N", help="texts that are followed side by side; the best is written"
        )
        group.add_argument(
            "--source-language", metavar="LANG", help="of --text, as the tokenizer of a model of several calls it"
        )
        group.add_argument("--target-language", metavar="LANG", help="to write in: de_DE of mBART, de of M2M-100")
        group.add_argument("--seed", type=int, metavar="N", help="draw the same tokens each time")
        group = parser.add_argument_group("where it runs")
        group.add_argument(
            "--runtime",
            choices=("auto", "coreml", "portable"),
            default="auto",
            help="auto: Core ML on macOS, portable elsewhere (default: %(default)s)",
        )
        group.add_argument("--revision", metavar="REV", help="branch, tag or commit on the Hub")
        group.add_argument("--token", help="access token (default: the one that `hf auth login` stored)")

    def execute(self) -> None:
        """Writes text onto stdout.

        Raises:
            ANEError: Anything that the user can mend.
        """
        from optimum_ane.workflows.generate import Sampling, generate

        args = self.args
        generate(
            args.package,
            prompt=args.prompt,
            chat=None if args.chat == _CONVERSATION else args.chat,
            system=args.system,
            text=args.text,
            sampling=Sampling(
                max_new_tokens=args.max_new_tokens,
                greedy=args.greedy,
                temperature=args.temperature,
                top_p=args.top_p,
                top_k=args.top_k,
                seed=args.seed,
                num_beams=args.num_beams,
                source_language=args.source_language,
                target_language=args.target_language,
            ),
            runtime=args.runtime,
            revision=args.revision,
            token=args.token,
            lines=_messages(),
        )


def _messages() -> Iterator[str]:
    """The lines that a person types, or that stand in a file; empty ones are passed over."""
    while True:
        if sys.stdin.isatty():
            say("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
