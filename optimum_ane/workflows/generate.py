"""Text from a package that writes, streamed as it is written: of a prompt, of a conversation, or of a source."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
from transformers import TextStreamer, set_seed

from optimum_ane.errors import InputError, UnsupportedModelError
from optimum_ane.modeling import ANEModelForCausalLM, ANEModelForSeq2SeqLM
from optimum_ane.modeling.decoder_cache import ANECache
from optimum_ane.modeling.package_configuration import load_tokenizer
from optimum_ane.screen import say, visible

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

DEFAULT_NEW_TOKENS = 256


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; what is None is as the package's `generation_config.json` says.

    Attributes:
        max_new_tokens: The most tokens of an answer.
        greedy: Always take the most probable token.
        temperature: Divides the logits before a token is drawn.
        top_p: Draw among the most probable tokens that together have this probability.
        top_k: Draw among so many of the most probable tokens.
        seed: Of what is drawn; None draws anew each time.
        num_beams: Texts that are followed side by side.
        source_language: What a text is in, as the tokenizer of a model of several languages calls it.
        target_language: What is to be written, likewise.
    """

    max_new_tokens: int = DEFAULT_NEW_TOKENS
    greedy: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    num_beams: int | None = None
    source_language: str | None = None
    target_language: str | None = None

    def __post_init__(self) -> None:
        """Refuses what contradicts itself or cannot be.

        Raises:
            InputError: The message names the option.
        """
        drawn = {"temperature": self.temperature, "top-p": self.top_p, "top-k": self.top_k}
        given = [name for name, value in drawn.items() if value is not None]
        if self.greedy and given:
            raise InputError(f"--{given[0]} is of tokens that are drawn, and --greedy draws none; drop one of the two")
        if self.max_new_tokens < 1:
            raise InputError(f"--max-new-tokens is {self.max_new_tokens}; it must be at least 1")
        if self.temperature is not None and not self.temperature > 0:
            raise InputError(f"--temperature is {self.temperature}; it must be above 0, or take --greedy")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"--top-p is {self.top_p}; it must be above 0 and at most 1")
        for name, value in (("top-k", self.top_k), ("num-beams", self.num_beams)):
            if value is not None and value < 1:
                raise InputError(f"--{name} is {value}; it must be at least 1")

    def arguments(self) -> dict[str, Any]:
        """As `generate` takes them."""
        chosen: dict[str, Any] = {"max_new_tokens": self.max_new_tokens}
        if self.num_beams is not None:
            chosen["num_beams"] = self.num_beams
        if self.greedy:
            without: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
            return {"num_beams": 1} | chosen | without
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        given = {name: value for name, value in drawn.items() if value is not None}
        return chosen | given | ({"do_sample": True} if given or self.seed is not None else {})


@dataclass(frozen=True)
class WrittenText:
    """What a model wrote, and how long that took.

    Attributes:
        text: Without special tokens.
        prompt_tokens: Of what it answered to, a source for one.
        read_tokens: Of these, the ones that were not in the cache.
        first_seconds: Until the first token.
        tokens: That were written.
        seconds: From the first token to the last.
    """

    text: str
    prompt_tokens: int
    read_tokens: int
    first_seconds: float
    tokens: int
    seconds: float

    def describe(self, runtime: str) -> str:
        """In a line, for a person."""
        speed = f", {(self.tokens - 1) / self.seconds:.1f} tokens per second after it" if self.tokens > 1 else ""
        kept = self.prompt_tokens - self.read_tokens
        known = f", {kept} of them from the cache" if kept else ""
        where = " on this machine's CPU, which tells nothing of a device" if runtime == "portable" else ""
        return (
            f"[{self.prompt_tokens} tokens read{known}; first token after {self.first_seconds:.2f} s{speed} "
            f"({self.tokens} tokens, {runtime} runtime{where})]"
        )


class LanguageModel:
    """A package with its tokenizer, which writes texts and remembers what it has read.

    Args:
        package: Directory or Hub id.
        runtime: As `ANEModel.from_pretrained` takes it.
        revision: Branch, tag or commit on the Hub.
        token: Access token.

    Raises:
        ANEError: The package is damaged, or cannot write.
    """

    def __init__(
        self, package: str | Path, runtime: str = "auto", revision: str | None = None, token: str | None = None
    ) -> None:
        model = ANEModelForCausalLM.from_pretrained(package, runtime=runtime, revision=revision, token=token)
        assert isinstance(model, ANEModelForCausalLM)
        if not model.can_generate():
            raise UnsupportedModelError(
                f"{package} holds no cache of keys and values, so that it does not write; export with --kv-cache state"
            )
        self.model = model
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(model._package_directory())
        self._cache = ANECache()

    def write(self, ids: Tensor, sampling: Sampling, stream: TextIO) -> WrittenText:
        """Writes on from tokens, onto a stream as it goes.

        Args:
            ids: (1, S), the whole text so far. What it begins with in common with the text before is not read again.
            sampling: How the next token is chosen.
            stream: Where the text goes.

        Raises:
            InputError: The text is longer than the context.
        """
        if sampling.seed is not None:
            set_seed(sampling.seed)
        streamer = _TimedStreamer(self.tokenizer, stream)
        known = min(self._cache.common_length(ids[0].tolist()), ids.shape[1] - 1)
        started = time.perf_counter()
        written = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=self._cache,
            streamer=streamer,
            # A streamer cannot take back what it has shown, whatever the checkpoint's own configuration asks for.
            **{"num_beams": 1} | sampling.arguments(),
        )
        new = written[0, ids.shape[1] :]
        times = streamer.times
        return WrittenText(
            text=str(self.tokenizer.decode(new, skip_special_tokens=True)),
            prompt_tokens=ids.shape[1],
            read_tokens=ids.shape[1] - known,
            first_seconds=times[0] - started,
            tokens=len(new),
            seconds=times[len(new) - 1] - times[0],
        )

    def prompt_ids(self, prompt: str) -> Tensor:
        """The tokens of a text, with the special tokens that the tokenizer puts around one.

        Raises:
            InputError: It has none.
        """
        ids: Tensor = self.tokenizer(prompt, return_tensors="pt")["input_ids"].long()
        if not ids.shape[1]:
            raise InputError("the prompt is empty, and this tokenizer puts no token before a text; give a prompt")
        return ids

    def chat_ids(self, messages: list[dict[str, str]]) -> Tensor:
        """The tokens of a conversation, by the package's own template, which states the special tokens itself.

        Raises:
            InputError: The package has no chat template, or it refuses the messages.
        """
        if not self.tokenizer.chat_template:
            raise InputError(
                "this package has no chat template: its model was not trained to answer messages, or its tokenizer's "
                "files do not say how; use --prompt"
            )
        try:
            answer: Any = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        except Exception as error:  # a template raises whatever it likes
            raise InputError(f"the package's chat template refuses the messages: {error}") from error
        return answer["input_ids"]


def write_of_text(
    package: str | Path,
    text: str,
    sampling: Sampling,
    stream: TextIO,
    *,
    runtime: str = "auto",
    revision: str | None = None,
    token: str | None = None,
) -> tuple[WrittenText, str]:
    """Writes a text of another with a package of the task text2text-generation, onto a stream as it goes.

    Beams are written when they have all ended: until then any may be the best.

    Args:
        package: Directory or Hub id.
        text: The source.
        sampling: How the next token is chosen.
        stream: Where the text goes.
        runtime: As `ANEModel.from_pretrained` takes it.
        revision: Branch, tag or commit on the Hub.
        token: Access token.

    Returns:
        What was written, and the runtime that wrote it.

    Raises:
        ANEError: The package is damaged or for another task, or the source is too long for it.
    """
    model = ANEModelForSeq2SeqLM.from_pretrained(package, runtime=runtime, revision=revision, token=token)
    assert isinstance(model, ANEModelForSeq2SeqLM)
    tokenizer = load_tokenizer(model._package_directory())
    arguments = sampling.arguments() | _languages(tokenizer, sampling)
    inputs = tokenizer(text, return_tensors="pt")
    ids: Tensor = inputs["input_ids"].long()
    if not ids.shape[1]:
        raise InputError("the text is empty, and this tokenizer puts no token around one; give a text")
    if sampling.seed is not None:
        set_seed(sampling.seed)
    has_beams = (arguments.get("num_beams") or model.generation_config.num_beams or 1) > 1
    streamer = None if has_beams else _TimedStreamer(tokenizer, stream)
    started = time.perf_counter()
    mask = inputs["attention_mask"] if "attention_mask" in inputs else torch.ones_like(ids)
    written = model.generate(ids, attention_mask=mask, streamer=streamer, **arguments)[0]
    ended = time.perf_counter()
    answer = str(tokenizer.decode(written, skip_special_tokens=True))
    if streamer is None:
        stream.write(f"{visible(answer)}\n")
    times = [ended] if streamer is None else streamer.times
    told = WrittenText(
        text=answer,
        prompt_tokens=ids.shape[1],
        read_tokens=ids.shape[1],
        first_seconds=times[0] - started,
        tokens=len(times),
        seconds=times[-1] - times[0],
    )
    return told, model.runtime


def _languages(tokenizer: PreTrainedTokenizerBase, sampling: Sampling) -> dict[str, int]:
    """Sets the language of sources, and gives what forces that of the answer, as mBART and M2M-100 take it.

    Raises:
        InputError: The tokenizer knows no languages, or not this one.
    """
    if sampling.source_language is not None:
        if not hasattr(tokenizer, "src_lang"):
            raise InputError(
                f"--source-language is {sampling.source_language!r}, and {type(tokenizer).__name__} knows no "
                "languages; leave it out"
            )
        _language_id(tokenizer, sampling.source_language, "source")  # mBART takes any, as the unknown word
        try:
            tokenizer.src_lang = sampling.source_language
        except (KeyError, ValueError) as error:
            raise InputError(f"--source-language: the tokenizer knows no {sampling.source_language!r}") from error
    if sampling.target_language is None:
        return {}
    return {"forced_bos_token_id": _language_id(tokenizer, sampling.target_language, "target")}


def _language_id(tokenizer: PreTrainedTokenizerBase, language: str, which: str) -> int:
    """The id of a language's token, which is none of the words: `de` is one, and M2M-100's language `__de__`.

    Raises:
        InputError: The tokenizer has no such token; the message names some that it has.
    """
    known: dict[str, int] = dict(tokenizer.get_added_vocab())
    for table in ("lang_code_to_id", "lang_token_to_id"):
        known |= getattr(tokenizer, table, None) or {}
    for name in (f"__{language}__", language):
        if name in known and known[name] != tokenizer.unk_token_id:
            return known[name]
    codes = sorted(name for name in known if not name.startswith(("<", "[")))
    there = f"; it has {', '.join(codes[:8])}{' …' if len(codes) > 8 else ''}" if codes else ", which has none"
    raise InputError(f"--{which}-language: {language!r} is no language of this package's tokenizer{there}")


def generate(
    package: str | Path,
    *,
    prompt: str | None = None,
    chat: str | None = None,
    text: str | None = None,
    system: str | None = None,
    sampling: Sampling | None = None,
    runtime: str = "auto",
    revision: str | None = None,
    token: str | None = None,
    lines: Iterable[str] | None = None,
    stream: TextIO | None = None,
    notes: TextIO | None = None,
) -> list[WrittenText]:
    """Writes on from a prompt, answers a message, holds a conversation, or writes of a source.

    Args:
        package: Directory or Hub id.
        prompt: A text to write on from.
        chat: A message to answer. Without either, each of `lines` is a message of one conversation.
        text: A source that a text is written of, by a package of the task text2text-generation.
        system: What the conversation is to be like, before its first message.
        sampling: How the next token is chosen.
        runtime: As `ANEModel.from_pretrained` takes it.
        revision: Branch, tag or commit on the Hub.
        token: Access token.
        lines: Messages of a conversation.
        stream: Where the texts go; None is stdout.
        notes: Where the speed is told; None is stderr.

    Returns:
        The texts that were written.

    Raises:
        ANEError: What was wrong, and what to do.
    """
    stream, notes, sampling = stream or sys.stdout, notes or sys.stderr, sampling or Sampling()
    if system is not None and (prompt is not None or text is not None):
        given = "prompt" if prompt is not None else "text"
        raise InputError(f"--system is of conversations, and --{given} is none; drop it, or use --chat")
    if text is not None:
        told, engine = write_of_text(package, text, sampling, stream, runtime=runtime, revision=revision, token=token)
        say(told.describe(engine), file=notes, flush=True)
        return [told]
    if sampling.source_language is not None or sampling.target_language is not None:
        raise InputError("--source-language and --target-language are of --text")
    if sampling.num_beams is not None and sampling.num_beams > 1:
        raise InputError("--num-beams is of --text: what goes on as it is written cannot be taken back")
    model = LanguageModel(package, runtime, revision, token)

    def write(ids: Tensor) -> WrittenText:
        written = model.write(ids, sampling, stream)
        say(written.describe(model.model.runtime), file=notes, flush=True)
        return written

    if prompt is not None:
        stream.write(visible(prompt))
        return [write(model.prompt_ids(prompt))]
    messages = [] if system is None else [{"role": "system", "content": system}]
    return _converse(model, messages, [chat] if chat is not None else lines or (), write)


def _converse(
    model: LanguageModel,
    messages: list[dict[str, str]],
    lines: Iterable[str],
    write: Callable[[Tensor], WrittenText],
) -> list[WrittenText]:
    """Answers one message after another, each with all before it."""
    written = []
    for line in lines:
        messages.append({"role": "user", "content": line})
        answer = write(model.chat_ids(messages))
        messages.append({"role": "assistant", "content": answer.text})
        written.append(answer)
    return written


class _TimedStreamer(TextStreamer):
    """Writes text onto a stream when it is certain, and remembers when each token came."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stream: TextIO) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._stream = stream
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        """Takes the prompt, then each token."""
        if not self.next_tokens_are_prompt:
            self.times.append(time.perf_counter())
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Writes what will not change any more."""
        self._stream.write(visible(text) + ("\n" if stream_end else ""))
        self._stream.flush()
