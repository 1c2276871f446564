"""Packages of language models in EleutherAI's lm-evaluation-harness: the extra `lm-eval`.

Importing this module registers `ane` among the harness's models:

    import optimum_ane.evaluation.lm_eval_model
    from lm_eval import simple_evaluate

    simple_evaluate(model="ane", model_args="pretrained=out/", tasks=["hellaswag"], limit=100)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from torch import Tensor
from tqdm import tqdm
from transformers import StoppingCriteria

from optimum_ane.errors import CheckpointError, DatasetError, UnsupportedModelError
from optimum_ane.evaluation.next_tokens import NextTokens, score_next_tokens
from optimum_ane.evaluation.token_windows import Window, make_windows
from optimum_ane.modeling.package_configuration import load_tokenizer
from optimum_ane.package.layout import package_directory
from optimum_ane.package.manifest import Manifest
from optimum_ane.tasks import TASKS, resolve
from optimum_ane.validation.comparison import Model

_TASK = "text-generation"
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")


class _StopAt(StoppingCriteria):
    """Ends a text that holds one of some strings. transformers' own asks more of tokenizers than all of them give."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], start: int) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._start = start

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Says of each row whether it ends, bool (B,)."""
        texts = self._tokenizer.batch_decode(input_ids[:, self._start :])
        return torch.tensor([any(stop in text for stop in self._stops) for text in texts], device=input_ids.device)


@register_model("ane")
class ANELanguageModel(TemplateLM):
    """A package that answers the harness's requests, one at a time.

    Attributes:
        tokenizer: The package's tokenizer.
        max_length: Most tokens that the model is given at once; of a longer text the beginning is left out.
    """

    def __init__(
        self,
        pretrained: str | Model,
        tokenizer: Any = None,
        runtime: str = "auto",
        max_length: int | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """Opens a package, or takes a model in memory: one of ours or of transformers.

        Args:
            pretrained: Directory of a package, or the model.
            tokenizer: That of a model in memory.
            runtime: Which runtime executes the package: "coreml", "portable" or "auto".
            max_length: Fewer tokens than the package's context, or those of a model in memory.
            max_gen_toks: Tokens that are generated where a task does not say how many.
            batch_size: Is given by the harness and says nothing here: requests go one by one.
            max_batch_size: As `batch_size`.
            device: As `batch_size`: the runtime decides.

        Raises:
            PackageError: The directory is no package.
            UnsupportedModelError: The package is of another task.
            CheckpointError: The tokenizer is missing, or has no mark of beginning or end.
        """
        super().__init__()
        if isinstance(pretrained, str):
            directory = package_directory(pretrained)
            task = Manifest.read(directory).form.task
            if task != _TASK:
                raise UnsupportedModelError(f"{pretrained} is a package for {task}; the harness takes {_TASK}")
            model_class = resolve(f"optimum_ane:{TASKS[_TASK].model_class}")
            self._model: Any = model_class.from_pretrained(directory, runtime=runtime)
            tokenizer = load_tokenizer(directory) if tokenizer is None else tokenizer
            context = self._model.sequence_length
        else:
            self._model = pretrained
            context = getattr(pretrained, "sequence_length", None) or pretrained.config.max_position_embeddings  # type: ignore[attr-defined]
        if tokenizer is None:
            raise CheckpointError("a model in memory needs its tokenizer: ANELanguageModel(model, tokenizer)")
        self.tokenizer = tokenizer
        self.max_length = min(context, max_length or context)
        self._default_new_tokens = max_gen_toks
        first = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), None)
        if first is None:
            raise CheckpointError("the tokenizer has neither a mark of beginning nor one of end to begin a text with")
        self._prefix = int(first)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        ends = self.tokenizer.eos_token_id
        return self._prefix if ends is None else int(ends)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text where nothing else does."""
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """What the harness tells caches of requests apart by."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokenises a text; None adds special tokens as the tokenizer does, unless a template has added them."""
        if add_special_tokens is None:
            mark = self.tokenizer.bos_token
            add_special_tokens = mark is None or not string.startswith(mark)
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Writes a conversation as the checkpoint's chat template does."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Scores continuations: the sum of their tokens' log-probabilities, and whether each is the likeliest."""
        found = []
        windows = [self._window(context, continuation) for _, context, continuation in requests]
        for scores in self._score(windows, "log-likelihoods", disable_tqdm):
            found.append((float(scores.log_probabilities.sum()), bool((scores.ranks == 0).all())))
            self.cache_hook.add_partial("loglikelihood", requests[len(found) - 1][0], found[-1])
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Scores whole texts, each by itself, in windows of the context of which the first begins with the prefix."""
        found = []
        for (text,) in tqdm([request.args for request in requests], "texts", disable=disable_tqdm):
            tokens = [self.prefix_token_id, *self.tok_encode(text, add_special_tokens=False)]
            windows = make_windows([], tokens, self.max_length) if len(tokens) > 1 else []
            scores = self._score(windows, "windows", is_quiet=True)
            found.append(float(sum(part.log_probabilities.sum() for part in scores)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Generates until a text that a task stops at, the end of the text, or as many tokens as it says.

        Raises:
            UnsupportedModelError: The package has no cache, so that it does not generate.
            DatasetError: A task asks for more tokens than the context holds.
        """
        found = []
        for context, settings in tqdm([request.args for request in requests], "texts", disable=disable_tqdm):
            found.append(self._generate(context, settings))
            self.cache_hook.add_partial("generate_until", (context, settings), found[-1])
        return found

    def _generate(self, context: str, settings: Mapping[str, Any]) -> str:
        wanted = normalize_gen_kwargs(dict(settings), default_max_gen_toks=self._default_new_tokens)
        room = self.max_length - wanted["max_gen_toks"]
        if room < 1:
            raise DatasetError(
                f"the task asks for {wanted['max_gen_toks']} new tokens, the context holds {self.max_length}; give a "
                "smaller max_gen_toks"
            )
        ids = torch.tensor([self.tok_encode(context)[-room:]])
        stops = [text for text in wanted["until"] if text]
        chosen = {name: wanted[name] for name in _SAMPLING if wanted["do_sample"] and name in wanted}
        with torch.inference_mode():
            answer = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=wanted["max_gen_toks"],
                do_sample=wanted["do_sample"],
                stopping_criteria=[_StopAt(self.tokenizer, stops, ids.shape[1])],
                **chosen,
            )
        text = self.tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)
        generated: str = postprocess_generated_text(text, stops, None)
        return generated

    def _window(self, context: Sequence[int], continuation: Sequence[int]) -> Window:
        """The last tokens of both together that the model can be given, of which the continuation is scored."""
        if not continuation:
            raise DatasetError("a request has a continuation without a token; there is nothing to score")
        if len(continuation) > self.max_length:
            raise DatasetError(
                f"a continuation has {len(continuation)} tokens, the context holds {self.max_length}; export with a "
                "larger one"
            )
        ids = [*context, *continuation][-self.max_length - 1 :]
        targets = np.asarray(continuation, dtype=np.int64)
        return Window(ids[:-1], np.arange(len(ids) - 1 - len(targets), len(ids) - 1), targets)

    def _score(self, windows: Sequence[Window], what: str, is_quiet: bool) -> Iterator[NextTokens]:
        """Runs windows; what follows the same tokens, as choices of one token do, is looked up in the same answer."""
        logits, answered = torch.empty(0), None
        for window in tqdm(windows, what, disable=is_quiet):
            if window.ids != answered:
                ids = torch.tensor([window.ids])
                with torch.inference_mode():
                    answer: Tensor = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
                logits, answered = answer[0].detach().to("cpu", torch.float32), window.ids
            if int(window.targets.max()) >= logits.shape[-1]:
                raise CheckpointError(
                    f"the tokenizer has a token {window.targets.max()}, the model scores {logits.shape[-1]}; they do "
                    "not belong together"
                )
            yield score_next_tokens(logits[window.positions[0] : window.positions[-1] + 1], window.targets)
