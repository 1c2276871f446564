"""ANEMLL's layout before conversion: what its clients make of the modules, beside transformers' own greedy text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anemll import KINDS, Client, Loaded
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.cached_decoder.anemll import AnemllChunk, AnemllEmbeddings, AnemllHead, count_parts
from optimum_ane.exporters.cached_decoder.chunk_plan import plan_chunks
from optimum_ane.exporters.cached_decoder.chunks import find_decoder_layers

CONTEXT, BATCH, WORDS, LAYERS = 32, 8, 101, 2
SIZES = {
    "hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1, "num_hidden_layers": LAYERS,
    "intermediate_size": 96, "vocab_size": WORDS, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 1,
}  # fmt: skip
GPT2 = {"n_embd": 48, "n_head": 3, "n_layer": LAYERS, "n_positions": 64, "vocab_size": WORDS}
DECODERS = {
    "llama": SIZES,
    "gemma2": SIZES | {"sliding_window": 6, "head_dim": 32},  # windows, and caps on scores and logits
    "granite": SIZES | {"logits_scaling": 3.0},
    "opt": {**SIZES, "ffn_dim": 96, "word_embed_proj_dim": 48},
    "gpt2": GPT2,
}
PROMPT = [int(each) for each in torch.randint(2, WORDS, (13,), generator=torch.Generator().manual_seed(1))]
OTHER = [int(each) for each in torch.randint(2, WORDS, (19,), generator=torch.Generator().manual_seed(2))]


def make(model_type):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, **DECODERS[model_type]), attn_implementation="eager"
    )
    model = model.eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape) * 1.2 * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(torch.randn(parameter.shape) * 0.2 + (0 if name.endswith("bias") else 1))
    return model


class Function:
    """A module behind the interface of a loaded function; its state is the client's."""

    def __init__(self, module, *outputs):
        self._module, self._outputs = module, outputs

    def make_state(self):
        return torch.zeros_like(self._module.kv_cache)

    @torch.no_grad()
    def predict(self, inputs, state=None):
        if state is not None:
            self._module.kv_cache = state
        answer = self._module(*map(torch.from_numpy, inputs.values()))
        values = answer if isinstance(answer, tuple) else (answer,)
        return {name: value.numpy() for name, value in zip(self._outputs, values, strict=True)}


def loaded(model, chunks):
    layers, parts = find_decoder_layers(model), count_parts(WORDS)
    modules = [AnemllChunk(model, layers, chunk, CONTEXT) for chunk in plan_chunks(model, layers, chunks)]
    functions = [Function(module, "output_hidden_states") for module in modules]
    parameters = {
        "context_length": CONTEXT,
        "batch_size": BATCH,
        "split_lm_head": parts,
        "prefill_dynamic_slice": True,
    }
    return Loaded(
        Function(AnemllEmbeddings(model), "hidden_states"),
        [{"infer": each, "prefill": each} for each in functions],
        Function(AnemllHead(model, layers, parts), *(f"logits{index + 1}" for index in range(parts))),
        parameters,
    )


def greedy(model, prompt, count):
    tokens = torch.tensor([prompt])
    written = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=count, do_sample=False, eos_token_id=-1
    )
    return written[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", DECODERS)
def test_clients_write_what_transformers_writes(model_type, kind):
    model = make(model_type)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    client = Client(loaded(model, 2), kind)
    client.turn(OTHER, 10)  # leaves rows of another text behind
    assert client.turn(PROMPT, 12) == greedy(model, PROMPT, 12)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_prompt_of_whole_blocks_and_a_text_to_the_end_of_the_context():
    model = make("llama")
    for kind in KINDS:
        client = Client(loaded(model, 1), kind)
        client.turn(OTHER, CONTEXT)
        assert client.turn(PROMPT[:8], CONTEXT) == greedy(model, PROMPT[:8], CONTEXT - 1 - 8)


def test_without_its_own_mask_the_swift_client_reads_a_row_of_the_text_before():
    """The fault of that client, which a package has to put right; else its text would be another."""
    model = make("llama")
    client = Client(loaded(model, 2), "swift")
    for chunk in client._models.chunks:
        module = chunk["infer"]._module
        forward = module.forward

        def trusting(hidden_states, position_ids, causal_mask, current_pos, forward=forward):
            seen = (causal_mask[0, 0] == 0).sum(-1).to(position_ids.dtype) - 1
            return forward(hidden_states, torch.minimum(seen, torch.tensor(CONTEXT - 1)), causal_mask, current_pos)

        module.forward = trusting
    client.turn(OTHER, 10)
    assert client.turn(PROMPT, 12) != greedy(model, PROMPT, 12)


def test_parts_of_a_head_are_of_one_length_and_what_fills_the_last_is_never_chosen():
    model = make("gemma2")
    hidden = torch.randn(1, 1, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        parts = AnemllHead(model, find_decoder_layers(model), 8)(hidden)
    assert [part.shape for part in parts] == [(1, 1, 13)] * 8
    joined = torch.cat(parts, -1)[0, 0]
    cap = model.config.final_logit_softcapping
    torch.testing.assert_close(joined[:WORDS], torch.tanh(model.lm_head(hidden)[0, 0] / cap) * cap)
    assert (joined[WORDS:] < -1e4).all()


def test_vocabularies_are_cut_into_as_many_parts_as_clients_read():
    assert [count_parts(size) for size in (49152, 128256, 151936, 262144)] == [8, 8, 16, 16]
    with pytest.raises(UnsupportedModelError, match="300000 words is more than 16 outputs"):
        count_parts(300_000)


def test_a_head_that_is_no_linear_layer_is_refused():
    model = make("llama")
    layers, model.lm_head = find_decoder_layers(model), torch.nn.Sequential(model.lm_head)
    with pytest.raises(UnsupportedModelError, match="is a Sequential and no linear layer"):
        AnemllHead(model, layers, 8)


def test_masks_of_minus_infinity_are_made_finite():
    model = make("llama")
    layers = find_decoder_layers(model)
    (chunk,) = plan_chunks(model, layers, 1)
    module = AnemllChunk(model, layers, chunk, CONTEXT)
    mask = np.full((1, 1, 1, CONTEXT), -np.inf, np.float16)
    with torch.no_grad():
        answer = module(torch.randn(1, 1, 48), torch.tensor([3]), torch.from_numpy(mask), torch.tensor([3]))
    assert answer.isfinite().all()
