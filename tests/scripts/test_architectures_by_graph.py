"""A dozen telling architectures of transformers by their graph, tiny: right, and on the engine."""

import pytest
from coverage_sweep.attempt import check_case, try_case
from coverage_sweep.catalogue import Case

# The group, the least share of the arithmetic predicted on the engine, the most transposes.
ARCHITECTURES = {
    "modernbert": ("text", 0.999, 6),
    "deberta-v2": ("text", 0.999, 13),
    "t5:encoder": ("seq2seq", 0.999, 6),
    "whisper:decoder": ("seq2seq", 0.999, 8),
    "llama": ("decoders", 0.999, 6),
    "gpt_neox": ("decoders", 0.999, 5),
    "vit": ("vision", 0.999, 3),
    "swin": ("vision", 0.999, 29),
    "convnext": ("vision", 0.999, 0),
    "sam_vision_model": ("vision", 0.999, 34),
    "wav2vec2": ("audio", 0.99, 3),
    "whisper:encoder": ("audio", 0.999, 3),
}


def make_case(key):
    model_type, _, part = key.partition(":")
    return Case(model_type, part or "model", ARCHITECTURES[key][0])


@pytest.mark.parametrize("key", ARCHITECTURES)
def test_answers_as_the_original_and_runs_on_the_engine(key):
    _, share, transposes = ARCHITECTURES[key]
    record = try_case(make_case(key))
    assert record.outcome == "accepted", record.attempts
    assert (record.inputs, record.engine_layout) == (3, True)
    assert record.psnr >= 55
    assert record.share >= share
    assert record.transposes <= transposes


def test_a_mixture_of_experts_follows_its_router():
    """Whose experts are others for other tokens: what the capture froze shows with other weights and inputs."""
    case = Case("qwen3_moe", "model", "decoders")
    record = try_case(case)
    assert record.outcome == "accepted", record.attempts
    checked = check_case(case, record)
    assert checked.check is None
    assert checked.checked >= 55
