"""The Swift of a card for packages of an encoder and a decoder: how their programs are loaded and called in turn."""

from __future__ import annotations

from optimum_ane.hub.card_package import CardPackage

_STATES = """\
import CoreML

// Load encoder.mlpackage once, and decoder.mlpackage twice, with the functionName "begin" and "infer".
// For a source: state = infer.makeState(); begin.prediction(from: the encoder's encoder_hidden_states, using: state).
// For each token, from position 0 on and with the start token first: infer.prediction(from: input_ids, position,
// causal_mask (0 up to position, −3e4 behind), encoder_mask (0 for the source's columns, −3e4 behind), using: state);
// the next token is the best of logits. It ends with an end token, or with the context of {context} tokens."""

_PASSED = """\
import CoreML

// Load encoder.mlpackage and decoder.mlpackage. What the encoder gives goes into the decoder with each token.
// For each token, from position 0 on and with the start token first: decoder.prediction(from: input_ids, position,
// causal_mask (0 up to position, −3e4 behind), encoder_mask (0 for the source's columns, −3e4 behind), kv_cache and
// what the encoder gave); copy new_rows into kv_cache at position; the next token is the best of logits. It ends with
// one of the end tokens, or with the context of {context} tokens."""


def encoder_decoder(package: CardPackage) -> str:
    """Writes how the programs of a package are called."""
    form = package.manifest.form
    return (_STATES if form.kv_cache == "state" else _PASSED).format(context=form.context_length)
