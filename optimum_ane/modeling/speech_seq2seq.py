"""`ANEModelForSpeechSeq2Seq`: what was said, written with Whisper's own generation."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from optimum_ane.errors import InputError, PackageError, UnsupportedModelError
from optimum_ane.exporters.cached_decoder.crossed import ALIGNMENT
from optimum_ane.exporters.whisper import AUDIO, FEATURES, MEL, alignment_heads
from optimum_ane.modeling.client_sessions import native_sessions
from optimum_ane.modeling.decoder_cache import ANECache, CachedRow
from optimum_ane.modeling.encoder_decoder import ANEEncoderDecoderModel, EncodedRows
from optimum_ane.modeling.encoder_decoder_programs import CachedText, EncodedSource
from optimum_ane.modeling.input_checks import check_ids, check_mask
from optimum_ane.modeling.rows import check_numbers
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes import Session


class ANEModelForSpeechSeq2Seq(ANEEncoderDecoderModel, WhisperGenerationMixin):
    """Writes what was said in sounds of any length: `generate` as of transformers' Whisper.

    Long sounds are heard in windows, each of which is encoded once; a batch shrinks as its sounds end. Languages,
    tasks, prompts, suppressed tokens, fallback to higher temperatures, timestamps of segments and of words, and beams
    are transformers' own.
    """

    task = "automatic-speech-recognition"
    modality = "audio-text"
    main_input_name = FEATURES
    input_modalities = ("audio",)
    left_out_of_encoder = frozenset({"output_attentions"})  # times of words are made of the decoder's

    def __init__(self, sessions: Mapping[str, Session], config: PretrainedConfig, manifest: Manifest) -> None:
        sessions = native_sessions(sessions, manifest.form.layout, config)
        super().__init__(sessions, config, manifest)
        if self._programs.inputs.keys() != {FEATURES}:
            raise PackageError(
                f"the program encoder takes {', '.join(self._programs.inputs)}; {type(self).__name__} gives it "
                f"{FEATURES}"
            )
        self._window = self._programs.inputs[FEATURES].shape
        # What Whisper's generation reads of the original: how many frames the encoder makes one of.
        first, second = SimpleNamespace(stride=(1,)), SimpleNamespace(stride=(2,))
        self.model = SimpleNamespace(encoder=SimpleNamespace(conv1=first, conv2=second), config=config)
        self._heard: list[tuple[np.ndarray, EncodedSource]] = []

    def _extents(self) -> str:
        return f"{self._window[2]} frames to {self.context_length} tokens"

    def spectrogram(self, audio: Tensor | np.ndarray) -> Tensor:
        """Makes the spectrogram of one window of sound with the package's own program.

        Args:
            audio: (samples,) floating point at the feature extractor's rate, at most as long as a window.

        Returns:
            (1, mels, frames) float32, what the feature extractor gives for the sound filled up with silence.

        Raises:
            InputError: It is longer, or holds NaN or infinity.
        """
        session = self.sessions[MEL]
        (_, samples) = session.inputs[AUDIO].shape
        sound = torch.as_tensor(audio).detach().cpu().float()
        check_numbers(AUDIO, sound)
        if sound.ndim != 1 or len(sound) > samples:
            raise InputError(f"{AUDIO} has shape {tuple(sound.shape)}; a window takes (samples,), {samples} at most")
        filled = torch.nn.functional.pad(sound, (0, samples - len(sound)))[None]
        return torch.from_numpy(np.asarray(session.predict({AUDIO: filled.numpy()})[FEATURES]))

    def encode(
        self, input_features: Tensor | np.ndarray | None = None, attention_mask: Tensor | np.ndarray | None = None
    ) -> EncodedRows:
        """Encodes a batch of windows; those that the call before had are not encoded again.

        Args:
            input_features: (N, mels, frames), as the feature extractor gives them.
            attention_mask: Not looked at, as in the original: silence is a part of the sound.

        Returns:
            `last_hidden_state` (N, positions, C) float32.

        Raises:
            InputError: They have another shape, or hold NaN or infinity.
        """
        if input_features is None:
            raise InputError(f"no {FEATURES} were given")
        features = torch.as_tensor(input_features).detach()
        if features.ndim != 3 or tuple(features.shape[1:]) != self._window[1:]:
            raise InputError(
                f"{FEATURES} has shape {tuple(features.shape)}, and this package takes windows of "
                f"{self._window[1]} × {self._window[2]} (mel bands × frames); generate() cuts longer sounds itself"
            )
        check_numbers(FEATURES, features)
        spec = self._programs.inputs[FEATURES]
        heard: list[tuple[np.ndarray, EncodedSource]] = []
        for row in features.cpu().numpy().astype(spec.dtype):
            known = [encoded for before, encoded in (*heard, *self._heard) if np.array_equal(before, row)]
            heard.append((row, known[0] if known else self._programs.encode({FEATURES: row[None]})))
        self._heard = heard
        return self._encoded([encoded for _, encoded in heard], features.device)

    def forward(
        self,
        input_features: Tensor | np.ndarray | None = None,
        attention_mask: Tensor | np.ndarray | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: ANECache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Gives the logits behind the tokens of texts that are written of windows of sound.

        Args:
            input_features: (N, mels, frames); see `encode`. Not read where there are `encoder_outputs`.
            attention_mask: Not looked at.
            decoder_input_ids: The texts so far, or what follows the cache, (N, Q).
            decoder_attention_mask: (N, tokens of the cache + Q), 1 for a token and 0 for padding before the first.
            encoder_outputs: What `encode` gave.
            past_key_values: What was read before; it is changed. None starts anew.
            use_cache: False keeps what was read out of the answer.
            output_attentions: Also give `cross_attentions`, (N, heads, Q, positions) for each layer, which hold the
                weights of the alignment heads and zeros for all others.
            return_dict: False gives a tuple in place of the output class.

        Returns:
            logits (N, Q, vocabulary), float32 on the device of `decoder_input_ids`, 0 at padding; the cache; and the
            encoder's states.

        Raises:
            InputError: Shapes do not fit each other, a text is too long, or an id is no row of the vocabulary.
            UnsupportedModelError: The package gives no weights of alignment heads.
        """
        if decoder_input_ids is None:
            raise InputError("no decoder_input_ids were given; generate() makes them itself")
        ids = torch.as_tensor(decoder_input_ids)
        if ids.ndim != 2 or not ids.shape[1] or ids.is_floating_point() or ids.dtype == torch.bool:
            raise InputError(f"decoder_input_ids is {ids.dtype} {tuple(ids.shape)}; expected rows of ids, (N, Q)")
        check_ids("decoder_input_ids", ids, self._vocab_size, "words")
        cache = ANECache() if past_key_values is None else past_key_values
        if encoder_outputs is None and not cache.rows:
            encoder_outputs = self.encode(input_features)
        if not cache.rows:
            self._begin(encoder_outputs, None, len(ids), cache)
        if len(cache.rows) != len(ids):
            raise InputError(f"past_key_values is of {len(cache.rows)} rows, and decoder_input_ids has {len(ids)}")
        heads = self._alignment_heads() if output_attentions else None
        logits, weights = self._read(ids.detach().cpu(), self._padding(ids, decoder_attention_mask), cache)
        output = self._output(torch.from_numpy(logits).to(ids.device), cache, encoder_outputs, use_cache, True)
        assert isinstance(output, Seq2SeqLMOutput)
        if heads is not None:
            output["decoder_attentions"] = ()  # Whisper's generation looks at those over the source alone
            output["cross_attentions"] = self._by_layer(heads, weights, ids.device)
        return output if return_dict is not False else output.to_tuple()

    def _padding(self, ids: Tensor, mask: Tensor | None) -> list[int]:
        """How many columns of each row's new tokens are padding, which stands before the first token."""
        if mask is None:
            return [0] * len(ids)
        own = torch.as_tensor(mask).detach().cpu()
        check_mask(own)
        if own.ndim != 2 or len(own) != len(ids) or own.shape[1] < ids.shape[1]:
            raise InputError(
                f"decoder_attention_mask has shape {tuple(own.shape)}, and decoder_input_ids {tuple(ids.shape)}"
            )
        own = own[:, -ids.shape[1] :]
        counts: list[int] = (own == 0).sum(1).tolist()
        if any(own[row, :count].any() for row, count in enumerate(counts)):
            raise InputError("decoder_attention_mask has padding behind tokens; pad texts on the left")
        return counts

    def _read(self, ids: Tensor, padding: list[int], cache: ANECache) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads new tokens; gives the logits behind each, and the weights of the alignment heads, (N, A, Q, T)."""
        logits: np.ndarray | None = None
        weights: np.ndarray | None = None
        for row, tokens in enumerate(ids.tolist()):
            text = cache.rows[row].cache
            assert isinstance(text, CachedText)
            if not text.tokens:
                cache.rows[row] = CachedRow(cache.rows[row].padding + padding[row], text)
            for column, token in enumerate(tokens[padding[row] :], padding[row]):
                answer = self._programs.read(text, token)
                values = np.asarray(answer["logits"])[0, 0]
                if logits is None:
                    logits = np.zeros((*ids.shape, len(values)), np.float32)
                logits[row, column] = values
                if ALIGNMENT in answer:
                    own = np.asarray(answer[ALIGNMENT])[0, :, : self.config.max_source_positions]
                    if weights is None:
                        weights = np.zeros((len(ids), len(own), ids.shape[1], own.shape[1]), np.float32)
                    weights[row, :, column] = own
        if logits is None:
            raise InputError("decoder_input_ids holds padding alone")
        return logits, weights

    def _alignment_heads(self) -> list[tuple[int, int]]:
        if not self._programs.gives(ALIGNMENT):
            raise UnsupportedModelError(
                "this package gives no weights of alignment heads, which times of words are made of; ask for those of "
                "segments, return_timestamps=True"
            )
        return alignment_heads(self.config, self.generation_config)

    def _by_layer(
        self, heads: list[tuple[int, int]], weights: np.ndarray | None, device: torch.device
    ) -> tuple[Tensor, ...]:
        """Weights of the alignment heads where the original has those of all heads."""
        assert weights is not None
        if weights.shape[1] != len(heads):
            raise InputError(
                f"generation_config names {len(heads)} alignment heads, and this package gives {weights.shape[1]}"
            )
        rows, _, length, positions = weights.shape
        shape = (rows, self.config.decoder_attention_heads, length, positions)
        layers = [torch.zeros(shape) for _ in range(self.config.decoder_layers)]
        for index, (layer, head) in enumerate(heads):
            layers[layer][:, head] = torch.from_numpy(weights[:, index])
        return tuple(layer.to(device) for layer in layers)

    def generate(  # type: ignore[override]
        self,
        input_features: Tensor | None = None,
        generation_config: Any = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Writes what was said; see `transformers.WhisperForConditionalGeneration.generate`.

        Args:
            input_features: Spectrograms, (N, mels, frames) of any number of frames.
            generation_config: See there, as for the rest.
            logits_processor: Further ones.
            stopping_criteria: Further ones.
            kwargs: `language`, `task`, `return_timestamps`, `return_token_timestamps`, `prompt_ids`, `num_beams` and
                so on.

        Raises:
            InputError: A spectrogram, or a text that is given to begin with, does not fit into the package.
            UnsupportedModelError: Times of words are asked for, and the package gives no weights to make them of.
        """
        given = kwargs.pop("inputs", None)
        if input_features is None:
            input_features = given
        if kwargs.get("return_token_timestamps"):
            # Where none are stated, Whisper's generation is told which the package has.
            own: Any = self.generation_config
            own.alignment_heads = [list(head) for head in self._alignment_heads()]
        self._heard = []
        try:
            return super().generate(input_features, generation_config, logits_processor, stopping_criteria, **kwargs)
        finally:
            self._heard = []

    def _postprocess_outputs(self, seek_outputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Leaves our cache out, which transformers would take apart by layers."""
        if not isinstance(seek_outputs, Tensor):
            kept = {name: value for name, value in seek_outputs.items() if name != "past_key_values"}
            seek_outputs = type(seek_outputs)(**kept)
        return super()._postprocess_outputs(seek_outputs, *args, **kwargs)
