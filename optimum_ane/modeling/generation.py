"""What model classes that write texts share: transformers' own generation, over caches of ours of a fixed length."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from optimum_ane.errors import InputError
from optimum_ane.modeling.decoder_cache import ANECache


class ContextEnd(StoppingCriteria):
    """Stops each text of a batch when the context is full.

    Args:
        most_tokens: That a text may have, what it was given to begin with included.
        padding: Of each text, before its first token, (N,); None where there is none.
    """

    def __init__(self, most_tokens: int, padding: Tensor | None = None) -> None:
        self._most_tokens, self._padding = most_tokens, padding
        self.was_reached = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Says for each text, (N,) bool, whether it ends here; beams of one text have its padding."""
        lengths = torch.full((len(input_ids),), input_ids.shape[1], device=input_ids.device)
        if self._padding is not None:
            lengths = lengths - self._padding.repeat_interleave(len(input_ids) // len(self._padding)).to(lengths)
        is_full = lengths >= self._most_tokens
        self.was_reached |= bool(is_full.any())
        return is_full


class ANEGenerationMixin(GenerationMixin):
    """`generate` of transformers for packages."""

    _is_stateful = False

    def _generate_within(
        self,
        context_length: int,
        end: ContextEnd,
        inputs: Tensor | None,
        generation_config: GenerationConfig | None,
        logits_processor: LogitsProcessorList | None,
        stopping_criteria: StoppingCriteriaList | None,
        arguments: dict[str, Any],
    ) -> Any:
        """Writes until the context ends at the latest, with a warning where it does; see `generate`."""
        criteria = StoppingCriteriaList([*(stopping_criteria or []), end])
        written = super().generate(  # type: ignore[misc]
            inputs, generation_config, logits_processor, criteria, **arguments
        )
        if end.was_reached:
            warnings.warn(
                f"generation stopped at the end of the context, {context_length} tokens; export with a larger "
                "--context-length for longer texts",
                stacklevel=3,
            )
        return written

    def _prepare_cache_for_generation(  # type: ignore[override]
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """Puts our cache where `generate` would put one of transformers'."""
        given = model_kwargs.get("past_key_values")
        if given is not None and not isinstance(given, ANECache):
            raise InputError(f"past_key_values is a {type(given).__name__}; this model takes what it returned itself")
        if generation_config.cache_implementation is not None:
            raise InputError(
                f"cache_implementation={generation_config.cache_implementation!r}: the cache is the package's own; "
                "leave it out"
            )
        if generation_config.use_cache is not False and given is None:
            model_kwargs["past_key_values"] = ANECache()

    @contextmanager
    def _optimize_model_for_decode(self) -> Iterator[None]:
        yield

    @classmethod
    def is_remote_code(cls) -> bool:
        """Whether the class comes from a model's repository; it does not."""
        return False
