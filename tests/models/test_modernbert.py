"""ModernBERT: what no other encoder here has, in the module and in its float16 package."""

import pytest
import torch
from changed_settings import assert_each_matters
from tiny_models import TASKS, answer, least_psnr, make_config, make_inputs, make_original

import optimum_ane.models  # noqa: F401 - registers the architectures
from optimum_ane import convert_to_ane
from optimum_ane.analysis.inspection import inspect
from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.config import get_ane_config_class
from optimum_ane.runtimes.portable import PortableSession

MODULE, PACKAGE = 100.0, 55.0
# Windows of 128 in rows of 390, three kinds of positions in four layers.
LONG = {"local_attention": 128, "max_position_embeddings": 400, "num_hidden_layers": 4}
EVERY_BIAS = {f"{part}_bias": True for part in ("attention", "classifier", "decoder", "mlp", "norm")}


def parity(original, inputs, module=None):
    module = module or convert_to_ane(original)
    return least_psnr(answer(original, inputs), module(**inputs), inputs["attention_mask"])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize(("rows", "length"), [(4, 37), (1, 40), (1, 7), (3, 1)])
def test_padded_rows_single_rows_odd_lengths_and_single_tokens(task, heads, pooling, rows, length):
    original = make_original("modernbert", task, num_attention_heads=heads, classifier_pooling=pooling)
    assert parity(original, make_inputs(original, rows=rows, length=length)) >= MODULE


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_on_the_left(task, pooling):
    original = make_original("modernbert", task, classifier_pooling=pooling)
    inputs = make_inputs(original, side="left")
    if task == "text-classification" and pooling == "cls":
        # The original takes the first position, padding: a local layer shows it nothing but padding.
        inputs = {name: value[:1] for name, value in inputs.items()}
    assert parity(original, inputs) >= MODULE


def test_multiple_choice_takes_the_first_token_and_classification_the_first_position():
    inputs = make_inputs(make_original("modernbert", "multiple-choice"), side="left")
    for task, is_first_token in (("multiple-choice", True), ("text-classification", False)):
        module = convert_to_ane(make_original("modernbert", task))
        before = module(**inputs)
        masked = inputs["attention_mask"] == 0
        other = {**inputs, "input_ids": torch.where(masked, 7, inputs["input_ids"])}
        assert torch.equal(module(**other)[1:], before[1:]) == is_first_token


@pytest.mark.parametrize("task", TASKS)
def test_rows_longer_than_the_window_of_the_published_checkpoints(task):
    original = make_original("modernbert", task, **LONG)
    assert parity(original, make_inputs(original, rows=2, length=390)) >= MODULE


@pytest.mark.parametrize("task", TASKS)
def test_every_bias(task):
    original = make_original("modernbert", task, **EVERY_BIAS)
    assert {name for name in original.state_dict() if name.endswith("bias")} == {
        name.replace("weight", "bias") for name in original.state_dict() if "tok_embeddings" not in name
    }
    assert parity(original, make_inputs(original)) >= MODULE


def test_the_window_is_seen_and_its_radius_is_exact():
    others = {key: value for key, value in LONG.items() if key != "local_attention"}
    assert_each_matters("modernbert", "feature-extraction", {"local_attention": 128}, others, rows=2, length=390)
    assert_each_matters("modernbert", "feature-extraction", {"local_attention": 6})
    original = make_original("modernbert", "feature-extraction", **LONG)
    inputs = make_inputs(original, rows=2, length=390)
    for radius, is_exact in ((63, False), (64, True), (65, False)):
        module = convert_to_ane(original)
        module.radius = radius
        assert (parity(original, inputs, module) >= MODULE) == is_exact


@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_windows_about_as_long_as_the_row(length):
    """Half of a window of four is the farthest distance in a row of three."""
    original = make_original("modernbert", "feature-extraction")
    assert parity(original, make_inputs(original, rows=2, length=length)) >= MODULE


def test_an_odd_window_is_halved_as_the_original_halves_it():
    original = make_original("modernbert", "feature-extraction", local_attention=7)
    assert parity(original, make_inputs(original)) >= MODULE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_attention_heads": 16}, "a head has 3"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "layer type 'chunked_attention' is not supported"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}},
            "rope_type 'linear' of full_attention is not supported; only 'default' is",
        ),
    ],
)
def test_what_is_not_implemented_is_refused(settings, message):
    config = make_config("modernbert", **settings)
    for task in ("feature-extraction", "fill-mask"):
        with pytest.raises(ValueError, match=message):
            get_ane_config_class("modernbert", task)(config, task).make_module()


def test_a_refusal_is_an_error_that_a_user_can_mend():
    original = make_original("modernbert", "feature-extraction", num_attention_heads=16, num_hidden_layers=1)
    with pytest.raises(UnsupportedModelError, match="rotary positions turn pairs of channels"):
        convert_to_ane(original)


FORMS = [
    *((task, {}) for task in TASKS),
    ("text-classification", {"classifier_pooling": "mean"}),
    ("feature-extraction", EVERY_BIAS),
]


@pytest.fixture(scope="module", params=FORMS, ids=[f"{task}-{'-'.join(settings)}" for task, settings in FORMS])
def package(request, tiny_package):
    """A package of rows of 32, with the original that it is of."""
    task, settings = request.param
    directory = tiny_package("modernbert", task, settings, sequence_length=32)
    return directory, make_original("modernbert", task, **settings)


def predict(directory, inputs):
    session = PortableSession(directory / "model.mlpackage")
    rows = [{name: value[row : row + 1].int().numpy() for name, value in inputs.items()} for row in range(4)]
    columns = zip(*(session.predict(row).values() for row in rows), strict=True)
    return tuple(torch.cat([torch.from_numpy(value).float() for value in column]) for column in columns)


def test_the_package_answers_as_the_original(package):
    directory, original = package
    inputs = make_inputs(original, length=32)
    ours = predict(directory, inputs)
    assert least_psnr(answer(original, inputs), ours, inputs["attention_mask"]) >= PACKAGE


def test_the_package_is_in_the_engines_dialect(package):
    directory, original = package
    operations = [placement.operation for placement in inspect(directory).placements]
    types = [operation.type for operation in operations]
    assert not {"reshape", "matmul", "linear", "select", "rsqrt", "batch_norm", "cos", "sin", "greater"} & set(types)
    outputs = [output for operation in operations for output in operation.outputs]
    assert max(len(output.shape) for output in outputs) == 4
    assert {output.dtype for output in outputs} == {"float16", "int32"}
    # Three projections for queries, keys and values, two for the gate, one behind each of them.
    assert types.count("conv") == 2 * 7 + 2 * hasattr(original, "head")
    assert types.count("einsum") == 2 * 3 * 2
    assert types.count("layer_norm") == 5 + hasattr(original, "head")
    assert types.count("softmax") == 2 * 3
    # Exchanging halves and joining heads; the key of all heads is transposed once in a layer.
    assert types.count("concat") == 2 * 3
    # The masks of all layers and of the local ones are made once.
    assert types.count("sub") == 1 + ("cumsum" in types)


def test_the_package_falls_into_two_regions(package):
    inspection = inspect(package[0])
    assert [region.device for region in inspection.regions] == ["cpu", "ane"]
    assert {offender.position for offender in inspection.offenders} == {"start"}
    assert inspection.flops_share("ane") > 0.9999  # the first token is counted out on the processor


def test_a_long_package_answers_as_the_original(tiny_package):
    """Float16 holds the angles of far positions badly: their cosines and sines have to be made before."""
    directory = tiny_package("modernbert", "feature-extraction", LONG, sequence_length=390)
    original = make_original("modernbert", "feature-extraction", **LONG)
    inputs = make_inputs(original, length=390)
    assert least_psnr(answer(original, inputs), predict(directory, inputs), inputs["attention_mask"]) >= PACKAGE
