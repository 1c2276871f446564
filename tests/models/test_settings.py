"""What a checkpoint's configuration says is obeyed, and each setting that is tried changes the answer."""

import pytest
from changed_settings import assert_each_matters
from tiny_models import ARCHITECTURES, TASKS, answer, least_psnr, make_inputs, make_original

from optimum_ane import convert_to_ane

THRESHOLD = 100.0
PADDING_MATTERS = ("camembert", "roberta", "xlm-roberta")

CLASSIFIES, CHOOSES = "text-classification", "multiple-choice"
SETTINGS = [
    *((name, "feature-extraction", {"num_attention_heads": heads}) for name in ARCHITECTURES for heads in (1, 4)),
    *((name, "feature-extraction", {"intermediate_size": 40}) for name in ARCHITECTURES),
    *((name, "feature-extraction", {"hidden_size": 24}) for name in ARCHITECTURES),
    *((name, "feature-extraction", {"type_vocab_size": 0}) for name in ("deberta-v2:convolution",)),
    ("roberta", "feature-extraction", {"pad_token_id": 0}),
    ("albert", "feature-extraction", {"num_hidden_groups": 1}),
    ("albert", "feature-extraction", {"num_hidden_groups": 3}),
    ("albert", "feature-extraction", {"inner_group_num": 1}),
    ("albert", "fill-mask", {"embedding_size": 16}),
    ("electra", "fill-mask", {"embedding_size": 48}),
    ("electra", CHOOSES, {"summary_activation": "tanh"}),
    ("electra", CHOOSES, {"summary_activation": ""}),
    ("electra", CHOOSES, {"summary_use_proj": False}),
    ("deberta-v2", "feature-extraction", {"position_biased_input": True}),
    ("deberta-v2", "feature-extraction", {"share_att_key": False}),
    ("deberta-v2", "feature-extraction", {"pos_att_type": ["c2p"]}),
    ("deberta-v2", "feature-extraction", {"norm_rel_ebd": "none"}),
    ("deberta-v2", "fill-mask", {"legacy": False}),
    ("deberta-v2", CLASSIFIES, {"pooler_hidden_act": "tanh"}),
    ("deberta-v2:convolution", "feature-extraction", {"conv_kernel_size": 5}),
    ("deberta-v2:convolution", "feature-extraction", {"conv_groups": 2}),
    ("deberta-v2:convolution", "feature-extraction", {"conv_act": "relu"}),
    ("modernbert", "feature-extraction", {"local_attention": 12}),
    ("modernbert", "feature-extraction", {"global_attn_every_n_layers": 1}),
    ("modernbert", "feature-extraction", {"layer_types": ["sliding_attention", "full_attention"]}),
    ("modernbert", "feature-extraction", {"layer_types": ["sliding_attention", "sliding_attention"]}),
    ("modernbert", "feature-extraction", {"global_rope_theta": 20.0}),
    ("modernbert", "feature-extraction", {"local_rope_theta": 3.0}),
    *(("modernbert", "feature-extraction", {f"{part}_bias": True}) for part in ("norm", "attention", "mlp")),
    ("modernbert", "fill-mask", {"decoder_bias": False}),
    *(("modernbert", task, {"classifier_bias": True}) for task in TASKS if task != "feature-extraction"),
    *(("modernbert", task, {"classifier_activation": "tanh"}) for task in TASKS if task != "feature-extraction"),
    *(("modernbert", task, {"classifier_pooling": "mean"}) for task in (CLASSIFIES, CHOOSES)),
]


def parity(original, **inputs):
    inputs = make_inputs(original, **inputs)
    return least_psnr(answer(original, inputs), convert_to_ane(original)(**inputs), inputs["attention_mask"])


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_settings_that_all_architectures_have(name, task):
    settings = {"layer_norm_eps": 0.5, "hidden_act": "relu", "num_hidden_layers": 1}
    others = {}
    if name == "distilbert":
        del settings["layer_norm_eps"]  # its epsilon is no entry of its configuration
    if name == "albert":
        others["num_hidden_groups"] = 1
    if name in PADDING_MATTERS:
        settings["pad_token_id"] = 3
        others["max_position_embeddings"] = 80
    if task in ("text-classification", "token-classification"):
        settings["num_labels"] = 5
    assert_each_matters(name, task, settings, others)
    assert parity(make_original(name, task, **settings, **others)) >= THRESHOLD


@pytest.mark.parametrize(("name", "task", "settings"), SETTINGS, ids=[f"{n}-{t}-{s}" for n, t, s in SETTINGS])
def test_a_setting(name, task, settings):
    assert_each_matters(name, task, settings)
    assert parity(make_original(name, task, **settings)) >= THRESHOLD


@pytest.mark.parametrize("buckets", [16, 256])
@pytest.mark.parametrize("farthest", [20, 300])
def test_buckets_of_distances_near_and_far(buckets, farthest):
    """A bucket too far shifts a score by one: long rows, few buckets, many, and an odd range."""
    settings = {"position_buckets": buckets, "max_relative_positions": farthest}
    others = {"max_position_embeddings": 400, "num_hidden_layers": 1}
    assert_each_matters("deberta-v2", "feature-extraction", settings, others, rows=2, length=390)
    original = make_original("deberta-v2", "feature-extraction", **settings, **others)
    assert parity(original, rows=2, length=390) >= THRESHOLD


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_tiny_models_are_set_to_matters(name):
    """A tiny original whose settings change nothing is the same model twice."""
    original = make_original(name, "fill-mask")
    for key in ARCHITECTURES[name]:
        plain = make_original(name, "fill-mask", leave_out=key)
        shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (original, plain)]
        if shapes[0] == shapes[1]:
            inputs = make_inputs(original)
            plain.load_state_dict(original.state_dict())
            ratio = least_psnr(answer(plain, inputs), answer(original, inputs), inputs["attention_mask"])
            assert ratio < 60, f"{key} changes nothing"


def test_a_setting_that_a_model_does_not_read_is_found():
    assert_each_matters("bert", "fill-mask", {"layer_norm_eps": 0.5})
    with pytest.raises(AssertionError, match=r"layer_norm_eps=0\.5 changes no answer of distilbert for fill-mask"):
        assert_each_matters("distilbert", "fill-mask", {"layer_norm_eps": 0.5})
    # BERT's own: to set it to what it is tests nothing either.
    with pytest.raises(AssertionError, match=r"layer_norm_eps=1e-12"):
        assert_each_matters("bert", "fill-mask", {"layer_norm_eps": 1e-12})
    # A table of more rows holds the same rows.
    with pytest.raises(AssertionError, match=r"max_position_embeddings"):
        assert_each_matters("bert", "fill-mask", {"max_position_embeddings": 80})
