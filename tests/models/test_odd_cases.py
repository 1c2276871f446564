"""What users meet: odd masks, lengths, head counts and weights."""

import pytest
import torch
from changed_settings import assert_each_matters
from tiny_models import ARCHITECTURES, answer, least_psnr, make_config, make_inputs, make_original
from torch import nn
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, BertModel, GPT2Config, GPT2Model, RobertaModel

from optimum_ane import convert_to_ane
from optimum_ane.errors import CheckpointError, ShapeError, UnsupportedModelError
from optimum_ane.exporters.config import get_ane_config_class, supported_tasks
from optimum_ane.nn import raise_epsilons_for_float16
from optimum_ane.package.form import ExportForm

THRESHOLD = 100.0
HAVE_NORM_BIASES = [name for name in ARCHITECTURES if name != "modernbert"]


def form(length):
    return ExportForm("feature-extraction", sequence_length=(length,))


def parity(original, inputs):
    return least_psnr(answer(original, inputs), convert_to_ane(original)(**inputs), inputs["attention_mask"])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_row_that_is_all_padding_is_finite_and_leaves_the_others_alone(name):
    original = make_original(name, "feature-extraction")
    inputs = make_inputs(original)
    module = convert_to_ane(original)
    before = module(**inputs)
    inputs["attention_mask"][2] = 0
    inputs["input_ids"][2] = original.config.pad_token_id
    after = module(**inputs)
    assert after.isfinite().all()
    others = [0, 1, 3]
    assert torch.equal(before[others], after[others])


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("length", [1, 2, 7, 38])
def test_short_odd_and_longest_sequences(name, length):
    original = make_original(name, "text-classification")
    assert parity(original, make_inputs(original, length=length)) >= THRESHOLD


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name.startswith("deberta-v2")])
@pytest.mark.parametrize("length", [1, 2, 9, 40])
def test_a_fixed_length_changes_nothing_for_inputs_of_that_length(name, length):
    original = make_original(name, "token-classification")
    inputs = make_inputs(original, length=length)
    module = convert_to_ane(original)
    module.fix_length(length)
    assert least_psnr(answer(original, inputs), module(**inputs), inputs["attention_mask"]) >= THRESHOLD


def test_distances_of_mpnet_near_and_far():
    original = make_original("mpnet", "feature-extraction", max_position_embeddings=400, num_hidden_layers=1)
    assert parity(original, make_inputs(original, rows=2, length=390)) >= THRESHOLD


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("heads", [1, 4, 48])
def test_one_head_few_heads_and_as_many_as_can_be(name, heads):
    if name == "modernbert" and heads == 48:
        heads = 24  # rotary positions turn pairs of channels
    assert_each_matters(name, "feature-extraction", {"num_attention_heads": heads})
    original = make_original(name, "feature-extraction", num_attention_heads=heads)
    assert parity(original, make_inputs(original)) >= THRESHOLD


@pytest.mark.parametrize(("name", "heads"), [*((name, 5) for name in ARCHITECTURES), ("bert", 0), ("bert", -3)])
def test_heads_that_do_not_divide_the_width_are_refused_with_both_numbers(name, heads):
    config = make_config(name, num_attention_heads=heads)
    with pytest.raises(ShapeError, match=rf"(?s)^(?=.*{heads})(?=.*48)"):
        get_ane_config_class(config.model_type, "feature-extraction")(config, "feature-extraction").check(form(8))


@pytest.mark.parametrize("name", ["albert", "bert", "deberta-v2:convolution", "electra"])
def test_missing_token_types_stand_for_zeros(name):
    original = make_original(name, "feature-extraction")
    inputs = make_inputs(original)
    module = convert_to_ane(original)
    zeros = torch.zeros_like(inputs["token_type_ids"])
    given = module(inputs["input_ids"], inputs["attention_mask"], zeros)
    assert (given - module(**inputs)).abs().max() > 0.1  # they matter
    missing = module(inputs["input_ids"], inputs["attention_mask"])
    torch.testing.assert_close(missing, given, rtol=1e-5, atol=1e-5)
    del inputs["token_type_ids"]
    assert parity(original, inputs) >= THRESHOLD


@pytest.mark.parametrize(
    ("name", "ending"), [*((name, "weight") for name in ARCHITECTURES), *((name, "bias") for name in HAVE_NORM_BIASES)]
)
def test_layer_norms_whose_weights_or_biases_are_zero(name, ending):
    """ml-ane-transformers divides by the weight."""
    original = make_original(name, "text-classification")
    zeroed = 0
    for module in original.modules():
        if isinstance(module, nn.LayerNorm):
            getattr(module, ending).zero_()
            module.weight[::2] = 0
            zeroed += 1
    assert zeroed >= 3
    assert parity(original, make_inputs(original)) >= THRESHOLD


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_that_are_all_zero(name):
    original = make_original(name, "fill-mask")
    for parameter in original.parameters():
        parameter.zero_()
    inputs = make_inputs(original)
    (reference,) = answer(original, inputs)
    assert reference.abs().max() == 0
    assert torch.equal(convert_to_ane(original)(**inputs), reference)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("is_tied", [True, False])
def test_tied_and_untied_word_embeddings_from_a_saved_checkpoint(name, is_tied, tmp_path):
    original = make_original(name, "fill-mask", tie_word_embeddings=is_tied)
    original.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    if name != "deberta-v2:keys":  # its decoder is the table itself
        decoder, words = loaded.get_output_embeddings().weight, loaded.get_input_embeddings().weight
        assert (decoder is words) == (is_tied and decoder.shape == words.shape)
    inputs = make_inputs(original)
    assert parity(loaded, inputs) >= THRESHOLD
    expected = answer(original, inputs)
    assert least_psnr(expected, convert_to_ane(loaded)(**inputs), inputs["attention_mask"]) >= THRESHOLD


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.float16) for name in ARCHITECTURES), ("bert", torch.bfloat16)]
)
def test_originals_stored_in_half_precision(name, dtype, tmp_path):
    """transformers loads them as they are stored; the module computes in float32 all the same."""
    make_original(name, "feature-extraction").to(dtype).save_pretrained(tmp_path)
    stored = AutoModel.from_pretrained(tmp_path)
    assert stored.dtype == dtype
    inputs = make_inputs(stored)
    outputs = convert_to_ane(stored)(**inputs)
    assert outputs.dtype == torch.float32
    widened = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert least_psnr(answer(widened, inputs), outputs, inputs["attention_mask"]) >= THRESHOLD


@pytest.mark.parametrize("name", ["camembert", "mpnet", "roberta", "xlm-roberta"])
def test_positions_skip_padding_ids_wherever_they_are(name):
    original = make_original(name, "feature-extraction")
    inputs = make_inputs(original, length=12)
    ids = torch.full((4, 12), 7)
    ids[0, :3] = 1  # on the left
    ids[1, 4:6] = 1  # inside
    ids[2, ::2] = 1  # alternating
    ids[3] = 1  # nothing else
    for mask in (ids.ne(1).long(), torch.ones_like(ids)):
        mask[3] = 1
        inputs |= {"input_ids": ids, "attention_mask": mask}
        assert parity(original, inputs) >= THRESHOLD


def test_another_padding_id_moves_the_positions_of_roberta():
    original = make_original("roberta", "feature-extraction", pad_token_id=0)
    assert isinstance(original, RobertaModel)
    inputs = make_inputs(original, length=39)
    assert parity(original, inputs) >= THRESHOLD
    ane_config = get_ane_config_class("roberta", "feature-extraction")(original.config, "feature-extraction")
    assert ane_config.max_sequence_length == 39


@pytest.mark.parametrize(
    ("name", "longest"),
    [("bert", 40), ("distilbert", 40), ("modernbert", 40), ("roberta", 38), ("mpnet", 38), ("deberta-v2", 40)],
)
def test_a_length_above_the_position_table_is_refused_with_both_numbers(name, longest):
    config = make_config(name)
    ane_config = get_ane_config_class(config.model_type, "fill-mask")(config, "fill-mask")
    ane_config.check(form(longest))
    with pytest.raises(ShapeError, match=rf"length {longest + 1} is above the {longest} positions"):
        ane_config.check(form(longest + 1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_epsilon_below_float16_matters_only_where_it_is_raised(name):
    """At 1e-12 the module has the original's own; raised for float16 it still agrees on ordinary activations."""
    settings = {} if name == "distilbert" else {"layer_norm_eps": 1e-12}
    original = make_original(name, "feature-extraction", **settings)
    module = convert_to_ane(original)
    epsilons = {child.eps for child in module.modules() if hasattr(child, "eps")}
    assert epsilons == {1e-12}
    raise_epsilons_for_float16(module)
    epsilons = {child.eps for child in module.modules() if hasattr(child, "eps")}
    assert all(torch.tensor(eps).half() > 0 for eps in epsilons)
    inputs = make_inputs(original)
    assert least_psnr(answer(original, inputs), module(**inputs), inputs["attention_mask"]) >= THRESHOLD


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attention_that_looks_at_one_token_alone(name):
    """A softmax that saturates shows a scale or a mask that is off by little."""
    settings = {"num_hidden_layers": 1} | ({"num_hidden_groups": 1} if name == "albert" else {})
    original = make_original(name, "feature-extraction", **settings)
    inputs = make_inputs(original)
    before = answer(original, inputs)
    for key, parameter in original.named_parameters():
        if any(part in key for part in ("query", "q_lin", ".q.")):
            parameter *= 30
        if "Wqkv" in key:
            parameter[:48] *= 30
    after = answer(original, inputs)
    assert least_psnr(before, after, inputs["attention_mask"]) < 40
    assert least_psnr(after, convert_to_ane(original)(**inputs), inputs["attention_mask"]) >= 80


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_extreme_logits(name):
    original = make_original(name, "text-classification")
    for key, parameter in original.named_parameters():
        if "classifier" in key:
            parameter *= 1e4
    inputs = make_inputs(original)
    (reference,) = answer(original, inputs)
    assert reference.abs().max() > 1e3
    assert parity(original, inputs) >= THRESHOLD


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_weight_too_many_or_too_few_is_named(name):
    original = make_original(name, "token-classification")
    original.surplus = nn.Parameter(torch.zeros(1))
    with pytest.raises(CheckpointError, match="surplus"):
        convert_to_ane(original, "token-classification")
    del original.surplus
    del original.classifier.bias
    with pytest.raises(CheckpointError, match=r"classifier\.bias"):
        convert_to_ane(original, "token-classification")


def test_a_weight_of_another_shape_is_named():
    original = make_original("bert", "feature-extraction")
    original.encoder.layer[1].output.dense.weight = nn.Parameter(torch.zeros(48, 95))
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        convert_to_ane(original)


def test_errors_of_weights_are_one_line_on_the_screen():
    original = make_original("bert", "feature-extraction")
    original.surplus = nn.Parameter(torch.zeros(1))
    with pytest.raises(CheckpointError) as caught:
        convert_to_ane(original)
    assert len(" ".join(str(caught.value).split())) < 300


@pytest.mark.parametrize("name", ["bert", "albert", "distilbert", "electra", "modernbert", "mpnet", "deberta-v2"])
def test_an_unknown_activation_is_refused_with_the_known_ones(name):
    original = make_original(name, "feature-extraction", hidden_act="mish")
    with pytest.raises(UnsupportedModelError, match=r"'mish'.*gelu, .*relu"):
        convert_to_ane(original)


def test_an_unsupported_architecture_is_refused_with_all_that_are_supported():
    model = GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10))
    with pytest.raises(UnsupportedModelError) as caught:
        convert_to_ane(model, "feature-extraction")
    assert "'gpt2'" in str(caught.value)
    assert ", ".join(supported_tasks()) in str(caught.value)


def test_an_unsupported_task_is_refused_with_all_that_are_supported():
    with pytest.raises(UnsupportedModelError) as caught:
        convert_to_ane(make_original("bert", "feature-extraction"), "text-generation")
    assert "'text-generation'" in str(caught.value)
    assert ", ".join(supported_tasks()["bert"]) in str(caught.value)


def test_a_synonym_of_a_task_is_understood():
    original = make_original("bert", "text-classification")
    inputs = make_inputs(original)
    assert torch.equal(
        convert_to_ane(original, "sequence-classification")(**inputs), convert_to_ane(original)(**inputs)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"is_decoder": True}, "only encoders are supported"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'"),
    ],
)
def test_variants_of_bert_that_are_not_implemented_are_refused(settings, message):
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, **settings)
    with pytest.raises(UnsupportedModelError, match=message):
        convert_to_ane(BertModel(config), "feature-extraction")


def test_weights_are_shared_and_the_original_is_left_as_it_was():
    original = make_original("bert", "feature-extraction")
    before = {name: value.clone() for name, value in original.state_dict().items()}
    module = convert_to_ane(original)
    key = "encoder.layer.0.intermediate.dense.weight"
    assert module.state_dict()[key].data_ptr() == original.state_dict()[key].data_ptr()
    module(**make_inputs(original))
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not module.training


def test_every_parameter_of_the_module_has_a_value():
    """Built on the meta device: a parameter that the checkpoint does not fill would compute nothing."""
    for name in ARCHITECTURES:
        module = convert_to_ane(make_original(name, "text-classification"))
        tensors = [*module.parameters(), *module.buffers()]
        assert not any(tensor.is_meta for tensor in tensors), name
