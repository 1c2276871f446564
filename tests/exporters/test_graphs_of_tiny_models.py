"""What the graph of every architecture has in common."""

import pytest
from ml_programs import BOOL, FLOAT16, FLOAT32, read_operations, types_of
from tiny_models import ARCHITECTURES, TASKS, make_original
from torch import nn


def number_of_norms(name, task):
    """How often the original computes a layer norm; shared layers count each time."""
    original = make_original(name, task)
    config = original.config
    count = 0

    def counted(module, *_):
        nonlocal count
        count += 1

    # The table of relative positions depends on no input: its norm is computed when the package is made.
    for key, module in original.named_modules():
        if isinstance(module, nn.LayerNorm) and not (
            config.model_type == "deberta-v2" and key.endswith("encoder.LayerNorm")
        ):
            module.register_forward_hook(counted)
    ids = original.dummy_inputs["input_ids"][:, :4] % 90 + 5
    original(ids[:, None] if task == "multiple-choice" else ids)
    return count


@pytest.mark.parametrize(
    ("name", "has_fresh_norms"), [*((name, False) for name in ARCHITECTURES), ("bert", True), ("deberta-v2", True)]
)
def test_every_layer_norm_is_one_operation_with_its_weights(tiny_package, name, has_fresh_norms):
    """Fresh norms, of ones and zeros, are simplified by coremltools unless they are fused before."""
    model = {"has_fresh_norms": True} if has_fresh_norms else None
    operations = read_operations(tiny_package(name, "text-classification", model))
    norms = [operation for operation in operations if operation.type == "layer_norm"]
    assert len(norms) == number_of_norms(name, "text-classification")
    assert all({"x", "gamma", "beta", "epsilon"} <= norm.inputs.keys() for norm in norms)
    assert not {"batch_norm", "instance_norm", "rsqrt", "reduce_mean", "real_div"} & set(types_of(operations))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_engines_dialect(tiny_package, name):
    operations = read_operations(tiny_package(name, "text-classification"))
    assert max(rank for operation in operations for rank in operation.ranks) <= 4
    dtypes = {dtype for operation in operations for dtype in operation.dtypes}
    assert not {FLOAT32, BOOL} & (dtypes - ({BOOL} if name in POSITIONS_DEPEND_ON_INPUT else set()))
    types = types_of(operations)
    first_layer = types.index("conv")
    assert "gather" not in types[first_layer:]
    for operation in operations[first_layer:]:
        integers = set(operation.dtypes) - {FLOAT16}
        assert not integers or operation.type in ("expand_dims", "cast"), operation
    if not name.startswith("deberta-v2"):
        assert "reshape" not in types
        assert "matmul" not in types


POSITIONS_DEPEND_ON_INPUT = ("camembert", "mpnet", "roberta", "xlm-roberta")


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name.startswith("deberta-v2")])
def test_deberta_looks_nothing_up_but_embeddings(tiny_package, name):
    types = types_of(read_operations(tiny_package(name, "text-classification")))
    tables = 2 if name == "deberta-v2:convolution" else 1  # words, and token types
    assert types.count("gather") == tables
    assert not {"gather_along_axis", "gather_nd", "scatter", "one_hot", "range_1d", "select"} & set(types)


@pytest.mark.parametrize("task", TASKS)
def test_a_head_adds_little(tiny_package, task):
    encoder = len(read_operations(tiny_package("bert", "feature-extraction")))
    assert len(read_operations(tiny_package("bert", task))) <= encoder + 6


def test_albert_repeats_operations_and_shares_weights(tiny_package):
    directory = tiny_package("albert", "text-classification")
    operations = read_operations(directory)
    weights = [operation.inputs["weight"][0] for operation in operations if operation.type == "conv"]
    # Three passes over two groups of two layers, six projections in each; one of the embeddings, two of the head.
    assert (len(weights), len(set(weights))) == (3 * 2 * 6 + 3, 2 * 2 * 6 + 3)
    blob = directory / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    parameters = sum(parameter.numel() for parameter in make_original("albert", "text-classification").parameters())
    assert blob.stat().st_size <= 2 * parameters * 1.2 + 50_000
