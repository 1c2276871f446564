"""Padding on either side, holes, and rows of one token, for every architecture and every head.

A head that reads the first position reads padding where that is masked. What the original answers then may depend on
how far its batch is padded (DeBERTa) or on the implementation of its attention (ModernBERT): there is nothing to
compare with, and such rows are left out. `test_rows_without_a_defined_answer_are_few` holds how many they are.
"""

import pytest
import torch
from tiny_models import ARCHITECTURES, TASKS, answer, as_tuple, make_inputs, make_original, psnr

from optimum_ane import convert_to_ane

THRESHOLD = 100.0
LENGTH = 19  # twice that is what the position tables hold
LEFT = (torch.arange(LENGTH) >= torch.tensor([[0], [5], [11], [LENGTH - 1]])).long()
FIRST_IS_MASKED = torch.ones(4, LENGTH, dtype=torch.long).index_fill(1, torch.tensor([0]), 0)
HOLES = (
    (torch.rand(4, LENGTH, generator=torch.Generator().manual_seed(3)) > 0.4)
    .long()
    .index_fill(1, torch.tensor([LENGTH - 1]), 1)
)
MASKS = {
    "left": LEFT,
    "right": LEFT.flip(1),
    "holes": HOLES,
    "first is masked": FIRST_IS_MASKED,
    "one token": torch.eye(LENGTH, dtype=torch.long)[[0, 3, LENGTH // 2, LENGTH - 1]],
}


def padded_inputs(original, mask):
    inputs = make_inputs(original, length=LENGTH, seed=1)
    ids = torch.randint(5, original.config.vocab_size, mask.shape, generator=torch.Generator().manual_seed(1))
    inputs["input_ids"] = torch.where(mask.bool(), ids, original.config.pad_token_id)
    inputs["attention_mask"] = mask.clone()
    return inputs


def padded_further(inputs, padding_id):
    fill = {"input_ids": padding_id}
    return {
        name: torch.nn.functional.pad(value, (0, LENGTH), value=fill.get(name, 0)) for name, value in inputs.items()
    }


def is_defined(original, inputs, reference):
    """(N,): rows that end with a token or answer the same in a wider batch, and so by either kind of attention."""
    wider = padded_further(inputs, original.config.pad_token_id)
    defined = inputs["attention_mask"][:, -1].bool() | equal_rows(reference, answer(original, wider))
    if original.config._attn_implementation == "sdpa":
        original.set_attn_implementation("eager")
        defined &= equal_rows(reference, answer(original, inputs))
        original.set_attn_implementation("sdpa")
    return defined


def equal_rows(reference, outputs):
    """(N,): whether all outputs that are not per token are equal, but for rounding."""
    equal = torch.ones(len(reference[0]), dtype=torch.bool)
    for expected, other in zip(reference, outputs, strict=True):
        if expected.shape[1] != LENGTH:
            equal &= torch.isclose(expected, other, rtol=1e-4, atol=1e-5).flatten(1).all(1)
    return equal


def compared(inputs, outputs, rows):
    """The numbers that count: of tokens, or of rows."""
    tokens = inputs["attention_mask"].bool()
    return [(each[tokens] if each.shape[1] == LENGTH else each[rows]).flatten() for each in outputs]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_head_answers_as_the_original_wherever_padding_is(name, task):
    original = make_original(name, task)
    module = convert_to_ane(original, task)
    for kind, mask in MASKS.items():
        inputs = padded_inputs(original, mask)
        reference = answer(original, inputs)
        rows = is_defined(original, inputs, reference)
        assert rows.any(), kind
        expected = compared(inputs, reference, rows)
        actual = compared(inputs, as_tuple(module(**inputs)), rows)
        assert min(map(psnr, expected, actual)) >= THRESHOLD, kind


@pytest.mark.parametrize("name", ["deberta-v2", "deberta-v2:convolution", "deberta-v2:absolute"])
def test_deberta_takes_a_row_to_end_with_its_last_token(name):
    """A package pads rows to its length; the original was given a batch that ends where the row does."""
    original = make_original(name, "text-classification")
    module = convert_to_ane(original)
    for kind in ("left", "holes", "first is masked"):
        inputs = padded_inputs(original, MASKS[kind])
        (expected,) = answer(original, inputs)
        assert psnr(expected, module(**padded_further(inputs, original.config.pad_token_id))) >= THRESHOLD, kind


def test_rows_without_a_defined_answer_are_few():
    undefined = []
    for name in ARCHITECTURES:
        original = make_original(name, "text-classification")
        for mask in MASKS.values():
            inputs = padded_inputs(original, mask)
            if not is_defined(original, inputs, answer(original, inputs)).all():
                undefined.append(name)
    assert {name.split(":")[0] for name in undefined} == {"deberta-v2", "modernbert"}
