"""The graph of a DistilBERT of base size, held to numbers; ml-ane-transformers has 539 operations in it."""

import pytest
import torch
from ml_programs import BOOL, FLOAT16, FLOAT32, read_operations, types_of
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from optimum_ane import export


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    torch.manual_seed(0)
    # The vocabulary is a look-up, however long; a short one is made sooner.
    model = DistilBertForSequenceClassification(DistilBertConfig(vocab_size=1000)).eval()
    directory = tmp_path_factory.mktemp("base") / "package"
    export(model, directory, sequence_length=128, validate=False, quiet=True)
    return read_operations(directory)


def test_the_model_is_of_base_size():
    config = DistilBertConfig()
    assert (config.n_layers, config.dim, config.n_heads, config.hidden_dim) == (6, 768, 12, 3072)


def test_few_operations(operations):
    assert len(operations) <= 405


def test_few_transposes_and_no_reshape(operations):
    types = types_of(operations)
    assert types.count("transpose") <= 8
    assert "reshape" not in types


def test_the_products_are_convolutions_and_the_two_einsums(operations):
    types = types_of(operations)
    assert types.count("conv") == 6 * 6 + 2
    assert types.count("einsum") == 6 * 12 * 2
    assert not {"matmul", "linear", "batch_norm", "reduce_mean"} & set(types)


def test_every_layer_norm_is_one_operation(operations):
    norms = [operation for operation in operations if operation.type == "layer_norm"]
    assert len(norms) == 1 + 2 * 6
    assert all({"gamma", "beta"} <= norm.inputs.keys() for norm in norms)


def test_the_rank_is_four_at_most(operations):
    assert max(rank for operation in operations for rank in operation.ranks) == 4


def test_no_operation_in_float32_or_bool(operations):
    dtypes = {dtype for operation in operations for dtype in operation.dtypes}
    assert FLOAT16 in dtypes
    assert not {FLOAT32, BOOL} & dtypes


def test_integers_stay_at_the_edge(operations):
    """Token ids are looked up, and the mask becomes float16 before any arithmetic."""
    first_norm = types_of(operations).index("layer_norm")
    first_layer = types_of(operations).index("conv")
    assert first_norm < first_layer
    for operation in operations[first_layer:]:
        assert set(operation.dtypes) == {FLOAT16}, operation
    whole = [operation.type for operation in operations if set(operation.dtypes) != {FLOAT16}]
    assert set(whole) <= {"cast", "expand_dims"}


def test_the_scale_of_the_attention_costs_no_operation(operations):
    types = types_of(operations)
    assert types.count("mul") == 1  # of the mask
    assert types.count("sub") == 1
