"""Functions that take no rows of tokens are no text encoder's."""

from types import SimpleNamespace

import pytest

from optimum_ane.errors import PackageError
from optimum_ane.modeling.text import _by_length
from optimum_ane.runtimes import TensorSpec


def session(**shapes):
    inputs = {name: TensorSpec(name, shape, "int32") for name, shape in shapes.items()}
    return SimpleNamespace(function_name="main", functions=("main",), inputs=inputs)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"input_ids": (1, 8)}, "function main takes input_ids; a text encoder takes input_ids and attention_mask"),
        ({"input_ids": (0, 8), "attention_mask": (0, 8)}, r"function main have the shapes \(0, 8\)"),
        ({"input_ids": (8,), "attention_mask": (8,)}, r"have the shapes \(8,\); those of a text encoder"),
        ({"input_ids": (1, 8), "attention_mask": (1, 9)}, r"have the shapes \(1, 8\), \(1, 9\); those of"),
    ],
)
def test_a_function_that_takes_other_shapes_is_refused_with_them(shapes, words):
    with pytest.raises(PackageError, match=words):
        _by_length(session(**shapes))


def test_a_function_of_rows_of_tokens_is_taken():
    (function,) = _by_length(session(input_ids=(2, 8), attention_mask=(2, 8)))
    assert (function.length, function.batch) == (8, 2)
