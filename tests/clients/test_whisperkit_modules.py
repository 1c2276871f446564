"""WhisperKit's decoder and encoder over stock Whisper, against the original with a cache of its own."""

import numpy as np
import pytest
import torch
from whisper_models import make_tokenizer, make_whisper

from optimum_ane.exporters.cached_decoder.whisperkit import WhisperKitDecoder, WhisperKitEncoder
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import GRAPH_CONVERSIONS
from optimum_ane.targets.coreml.metadata import Metadata
from optimum_ane.validation.psnr import psnr

COLUMNS = 40
OUTPUTS = ["logits", "key_cache_updates", "value_cache_updates", "alignment_heads_weights"]


def sources(model, count=2):
    generator = torch.Generator().manual_seed(5)
    shape = (1, model.config.max_source_positions, model.config.d_model)
    return [torch.randn(shape, generator=generator).half().float() for _ in range(count)]


def first_inputs(model):
    kept = model.config.decoder_layers * model.config.d_model
    inputs = {
        "input_ids": np.zeros(1, np.int32),
        "cache_length": np.zeros(1, np.int32),
        "key_cache": np.full((1, kept, 1, COLUMNS), 9.0, np.float16),
        "value_cache": np.full((1, kept, 1, COLUMNS), -9.0, np.float16),
        "kv_cache_update_mask": np.zeros((1, COLUMNS), np.float16),
        "encoder_output_embeds": np.zeros((1, model.config.d_model, 1, model.config.max_source_positions), np.float16),
        "decoder_key_padding_mask": np.full((1, COLUMNS), -1e4, np.float16),
    }
    inputs["kv_cache_update_mask"][0, 0], inputs["decoder_key_padding_mask"][0, 0] = 1, 0
    return inputs


def run(predict, inputs, source, tokens):
    """The host's loop; caches are those that the call before has left."""
    inputs["kv_cache_update_mask"][:], inputs["decoder_key_padding_mask"][:] = 0, -1e4
    inputs["encoder_output_embeds"] = source.transpose(1, 2)[:, :, None].numpy().astype(np.float16)
    logits, weights = [], []
    for index, token in enumerate(tokens):
        inputs["input_ids"][0], inputs["cache_length"][0] = token, index
        inputs["kv_cache_update_mask"][0, index - 1] = 0
        inputs["kv_cache_update_mask"][0, index] = 1
        inputs["decoder_key_padding_mask"][0, index] = 0
        answer = predict(inputs)
        logits.append(answer["logits"][0, 0])
        weights.append(answer["alignment_heads_weights"][0])
        inputs["key_cache"][..., index : index + 1] = answer["key_cache_updates"]
        inputs["value_cache"][..., index : index + 1] = answer["value_cache_updates"]
    return np.stack(logits), np.stack(weights)


def expected(model, source, tokens, heads):
    model.set_attn_implementation("eager")
    answer = model(encoder_outputs=(source,), decoder_input_ids=torch.tensor([tokens]), output_attentions=True)
    chosen = torch.stack([answer.cross_attentions[layer][0, head] for layer, head in heads])
    return answer.logits[0].numpy(), chosen.mean(0).numpy()


@pytest.mark.parametrize("heads", [1, 3])
def test_it_answers_as_the_original_over_columns_that_an_earlier_window_has_left(heads):
    model = make_whisper(make_tokenizer(), heads=heads, layers=3)
    chosen = [(0, 0), (2, heads - 1), (1, heads - 1)]
    module = WhisperKitDecoder(model, chosen)

    def predict(inputs):
        values = [torch.from_numpy(value).float() if value.dtype == np.float16 else value for value in inputs.values()]
        return dict(zip(OUTPUTS, (each.numpy() for each in module(*map(torch.as_tensor, values))), strict=True))

    inputs = first_inputs(model)
    inputs = {name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in inputs.items()}
    for source, count in zip(sources(model), (20, 11), strict=True):
        tokens = np.random.default_rng(count).integers(0, len(make_tokenizer()), count).tolist()
        logits, weights = run(predict, inputs, source, tokens)
        wanted, wanted_weights = expected(model, source, tokens, chosen)
        assert psnr(wanted, logits) >= 120
        assert psnr(wanted_weights, weights) >= 120


def test_so_do_the_programs(tmp_path):
    model = make_whisper(make_tokenizer(), layers=2)
    chosen = [(1, 0), (1, 2)]
    inputs = first_inputs(model)
    examples = {name: torch.from_numpy(value) for name, value in inputs.items()}
    decoder = save(WhisperKitDecoder(model, chosen), examples, OUTPUTS, tmp_path / "TextDecoder.mlpackage")
    for source, count in zip(sources(model), (14, 9), strict=True):
        tokens = np.random.default_rng(count).integers(0, len(make_tokenizer()), count).tolist()
        logits, weights = run(decoder.predict, inputs, source, tokens)
        wanted, wanted_weights = expected(model, source, tokens, chosen)
        assert psnr(wanted, logits) >= 60
        assert psnr(wanted_weights, weights) >= 60
    features = torch.randn(1, 80, 1, 2 * model.config.max_source_positions).half()
    name = "melspectrogram_features"
    path = tmp_path / "AudioEncoder.mlpackage"
    encoder = save(WhisperKitEncoder(model), {name: features}, ["encoder_output_embeds"], path)
    hidden = model.model.encoder(features.float().squeeze(2)).last_hidden_state
    embeds = encoder.predict({name: features.numpy()})["encoder_output_embeds"]
    assert embeds.dtype == np.float16
    assert psnr(hidden.transpose(1, 2)[:, :, None].numpy(), embeds) >= 60


def save(module, inputs, outputs, path):
    build_program(
        [ConvertibleFunction("main", lambda: module, inputs, outputs)],
        path,
        precision="float16",
        minimum_deployment_target="iOS16",
        class_labels=None,
        metadata=Metadata("", "", "", ""),
        conversion=GRAPH_CONVERSIONS[0],
    )
    return PortableSession(path)
