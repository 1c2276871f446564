"""`optimum-cli ane transcribe`: what is said in sound files, written by a package of speech."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum_ane.commands.base import BaseANECommand

_AS_THE_MODEL_HAS_THEM = ""
"""What `--timestamps` holds without a value."""


class TranscribeCommand(BaseANECommand):
    """Writes down what is said in sounds."""

    DESCRIPTION = """\
Writes what is said in sound files with a package of automatic-speech-recognition: of CTC (wav2vec2, HuBERT …) or of
a decoder that writes (Whisper). Core ML runs it on a Mac, the portable runtime on any other machine.

Files are WAV, FLAC, Ogg, MP3, AIFF, AU, CAF or W64, of any rate and number of channels: they are mixed down and
brought to the model's rate, with a note on stderr. Others are converted first: ffmpeg -i a.m4a -ac 1 -ar 16000 a.wav
Sounds longer than the package are read in windows that overlap.

The text of one file goes to stdout; of several, a line each: the file, a tab, the text. Run in the folder of the
files, as below, that is a transcripts.tsv as `ane evaluate` reads it, so that these lines, mended by ear, make a test
set of your own recordings.

examples:
  optimum-cli ane transcribe whisper/ talk.wav
  optimum-cli ane transcribe wav2vec2/ a.wav b.flac c.mp3 > transcripts.tsv
  optimum-cli ane transcribe whisper/ talk.wav --timestamps             (when each segment is said)
  optimum-cli ane transcribe whisper/ talk.wav --timestamps word --json
  optimum-cli ane transcribe whisper/ rede.wav --language german --task translate"""

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Adds the package, the sounds, and what is wanted of them."""
        parser.add_argument("package", metavar="PACKAGE", help="exported directory, or Hub id of a package")
        parser.add_argument("files", metavar="FILE", nargs="+", help="a sound")
        parser.add_argument(
            "--timestamps",
            nargs="?",
            const=_AS_THE_MODEL_HAS_THEM,
            choices=(_AS_THE_MODEL_HAS_THEM, "segment", "word", "char"),
            metavar="segment|word|char",
            help="also when each part is said, in seconds (without a value: segments of Whisper, words of CTC)",
        )
        parser.add_argument(
            "--language", metavar="NAME", help="that is spoken, german or de say (Whisper; default: it finds out)"
        )
        parser.add_argument(
            "--task",
            choices=("transcribe", "translate"),
            help="translate writes in English what is said in another language (Whisper; default: transcribe)",
        )
        parser.add_argument(
            "--json", action="store_true", help="write a list of objects: file, text, seconds, passages …"
        )
        parser.add_argument(
            "--runtime",
            choices=("auto", "coreml", "portable"),
            default="auto",
            help="auto: Core ML on macOS, portable elsewhere (default: %(default)s)",
        )
        parser.add_argument("--revision", metavar="REV", help="branch, tag or commit on the Hub")
        parser.add_argument("--token", help="access token (default: the one that `hf auth login` stored)")

    def execute(self) -> None:
        """Writes texts onto stdout.

        Raises:
            ANEError: Anything that the user can mend.
        """
        from optimum_ane.workflows.transcribe import SpeechOptions, print_transcripts

        args = self.args
        print_transcripts(
            args.package,
            args.files,
            SpeechOptions(args.timestamps, args.language, args.task),
            as_json=args.json,
            runtime=args.runtime,
            revision=args.revision,
            token=args.token,
        )
