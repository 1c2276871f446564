"""Stock decoders over one state: the answers of the model with its own cache, in PyTorch and in a program."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from optimum_ane.analysis.operations import read_program
from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.cached_decoder import CachedDecoder
from optimum_ane.exporters.cached_decoder.attention import cached_attention
from optimum_ane.exporters.cached_decoder.masks import MaskMakers
from optimum_ane.exporters.cached_decoder.rotary import rotary_tables
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import Conversion
from optimum_ane.targets.coreml.metadata import Metadata
from optimum_ane.validation.psnr import psnr

CONTEXT, PREFILL, STEPS, WINDOW = 32, 8, 8, 6
TOKENS = torch.randint(2, 99, (1, PREFILL + STEPS), generator=torch.Generator().manual_seed(1))
SIZES = {
    "hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1, "num_hidden_layers": 3,
    "intermediate_size": 96, "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 1,
}  # fmt: skip
OLD_SIZES = {
    "n_embd": 48,
    "n_head": 3,
    "n_layer": 3,
    "n_positions": 64,
    "vocab_size": 100,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
WINDOWED = ["sliding_attention", "full_attention", "sliding_attention"]
DECODERS = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "qwen3": {"head_dim": 32},
    "gemma2": {"sliding_window": WINDOW, "head_dim": 32},
    "gemma3_text": {"sliding_window": WINDOW, "head_dim": 32, "layer_types": WINDOWED},
    "phi3": {},
    "olmo2": {"num_key_value_heads": 3},
    "smollm3": {},
    "granite": {},
    "gpt_neox": {},
    "falcon": {"num_key_value_heads": None},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 48, "num_key_value_heads": None},
    "gpt_oss": {"sliding_window": WINDOW, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    # Keys and values of several widths in one state.
    "minicpm3": {
        "num_key_value_heads": 3, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
        "v_head_dim": 12,
    },
    # Rotations as complex numbers, and pieces of the text that see nothing before them.
    "llama4_text": {
        "attention_chunk_size": WINDOW, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 1,
        "intermediate_size_mlp": 96, "no_rope_layers": [1, 1, 0],
    },
}  # fmt: skip
OLD_DECODERS = {"gpt2": {}, "bloom": {"hidden_size": 48}, "gptj": {"rotary_dim": 8}}


def make(model_type):
    torch.manual_seed(0)
    sizes = OLD_SIZES | OLD_DECODERS[model_type] if model_type in OLD_DECODERS else SIZES | DECODERS[model_type]
    config = AutoConfig.for_model(model_type, **{name: value for name, value in sizes.items() if value is not None})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape) * 1.2 * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(torch.randn(parameter.shape) * 0.2 + (0 if name.endswith("bias") else 1))
    return model


def mask(position, length):
    rows, queries = torch.arange(CONTEXT), position + torch.arange(length)
    return torch.where(rows <= queries[:, None], 0.0, -3e4)[None, None]


@torch.no_grad()
def answers_of(model):
    """The model with its own cache: a prefill, and steps after it."""
    answer = model(TOKENS[:, :PREFILL], use_cache=True)
    logits = [answer.logits]
    for step in range(PREFILL, PREFILL + STEPS):
        answer = model(TOKENS[:, step : step + 1], past_key_values=answer.past_key_values, use_cache=True)
        logits.append(answer.logits)
    return torch.cat(logits, 1).numpy()


@torch.no_grad()
def answers_over_state(model):
    decoder = CachedDecoder(model, CONTEXT)
    decoder.kv_cache.fill_(7.0)  # rows of a text before
    logits = [decoder(TOKENS[:, :PREFILL], torch.tensor([0]), mask(0, PREFILL))]
    for step in range(PREFILL, PREFILL + STEPS):
        logits.append(decoder(TOKENS[:, step : step + 1], torch.tensor([step]), mask(step, 1)))
    return torch.cat(logits, 1).numpy()


@pytest.mark.parametrize("model_type", [*DECODERS, *OLD_DECODERS])
def test_a_decoder_over_a_state_answers_as_with_its_own_cache(model_type):
    model = make(model_type)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    implementation = model.config._attn_implementation
    assert psnr(answers_of(model), answers_over_state(model)) >= 120
    # Nothing of ours is left in the model.
    assert psnr(answers_of(model), answers_of(make(model_type))) == float("inf")
    assert model.config._attn_implementation == implementation
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_that_slices_its_own_mask_answers_otherwise():
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "num_heads": 3, "hidden_size": 48, "vocab_size": 100, "max_position_embeddings": 64}
    config = AutoConfig.for_model("gpt_neo", attention_types=[[["global", "local"], 1]], window_size=WINDOW, **sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    assert psnr(answers_of(model), answers_over_state(model)) < 60


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2"])
def test_programs_of_float16_share_a_state(model_type, tmp_path):
    expected = answers_of(make(model_type))
    sessions = {}
    for name, length in (("prefill", PREFILL), ("infer", 1)):
        inputs = {
            "input_ids": TOKENS[:, :length].int(),
            "position": torch.tensor([3]).int(),
            "causal_mask": mask(3, length),
        }
        make_module = partial(CachedDecoder, make(model_type), CONTEXT)
        shape = make_module().kv_cache.shape
        path = tmp_path / f"{name}.mlpackage"
        build_program(
            [ConvertibleFunction("main", make_module, inputs, ["logits"], states={"kv_cache": shape})],
            path,
            precision="float16",
            minimum_deployment_target="iOS18",
            class_labels=None,
            metadata=Metadata("A decoder.", "somebody", "mit", "1", {}),
            conversion=Conversion("trace", is_stock=True, engine_layout=True),
        )
        sessions[name] = PortableSession(path)
        counts = Counter(operation.type for operation in read_program(path).operations)
        # The heads stay in one tensor, as they lie in the state.
        assert counts["einsum"] == 0
        assert counts["matmul"] == 2 * 3
        if model_type == "llama":
            # Queries, keys and values are moved in, and what is mixed of them out: of one token in one step each.
            moved = counts["transpose"] + counts["reshape"] + counts["squeeze"]
            assert moved <= (5 if name == "infer" else 9) * 3 + 3
    state = sessions["infer"].make_state()

    def run(name, first, length):
        values = {"input_ids": TOKENS[:, first : first + length].numpy().astype(np.int32)}
        values |= {"position": np.array([first], np.int32), "causal_mask": mask(first, length).numpy()}
        return sessions[name].predict(values, state)["logits"]

    logits = [run("prefill", 0, PREFILL), *(run("infer", step, 1) for step in range(PREFILL, PREFILL + STEPS))]
    assert psnr(expected, np.concatenate(logits, 1)) >= 60


def test_what_an_attention_does_not_understand_is_refused():
    heads = torch.zeros(1, 3, 1, 16)
    with pytest.raises(UnsupportedModelError, match="Linear hands its attention what is not understood: tree"):
        cached_attention(nn.Linear(1, 1), heads, heads, heads, torch.zeros(1, 1, 1, 1), tree=1)
    with pytest.raises(UnsupportedModelError, match="no mask"):
        cached_attention(nn.Linear(1, 1), heads, heads, heads, None)


def test_masks_of_other_kinds_are_refused():
    makers = MaskMakers(mask(0, 1), torch.tensor([0]))
    with pytest.raises(UnsupportedModelError, match="changed by or_mask_function"):
        makers.create_causal_mask(PreTrainedConfig(), or_mask_function=print)


def test_a_model_that_makes_no_mask_is_refused():
    class Silent(nn.Module):
        def get_input_embeddings(self):
            return None

        get_output_embeddings = get_input_embeddings

        def forward(self, input_ids, attention_mask, past_key_values, use_cache):
            return type("Answer", (), {"logits": torch.zeros(1, 1, 100)})

    decoder = CachedDecoder(make("llama"), CONTEXT)
    decoder.model = Silent()
    with pytest.raises(UnsupportedModelError, match="Silent asks transformers for no causal mask"):
        decoder(TOKENS[:, :1], torch.tensor([0]), mask(0, 1))


def test_angles_that_change_with_the_length_are_refused():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    config = AutoConfig.for_model("llama", **SIZES, rope_parameters=rope)
    model = AutoModelForCausalLM.from_config(config).eval()
    with (
        pytest.raises(UnsupportedModelError, match="longer than 64 tokens, and a context of 65"),
        rotary_tables(model, 65),
    ):
        pass
    with rotary_tables(model, 64):
        pass
