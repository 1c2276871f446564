"""What counts as the same answer, and what is compared."""

import pytest
import torch
from tiny_models import ARCHITECTURES, make_config
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

import optimum_ane.models  # noqa: F401 - registers the architectures
from optimum_ane.errors import CheckpointError, ValidationError
from optimum_ane.exporters.config import get_ane_config_class, supported_tasks
from optimum_ane.package.form import ExportForm
from optimum_ane.tasks import OutputField
from optimum_ane.validation.comparison import (
    Answers,
    answer_examples,
    check_ratios,
    compare_fields,
    compare_layers,
    find_bad_layer,
)

MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
EXAMPLES = ({"attention_mask": MASK},)
STATES, LOGITS = OutputField("last_hidden_state", "token"), OutputField("logits", "row")


def answers(**fields):
    return Answers({name: [value] for name, value in fields.items()})


class TestExamples:
    @pytest.mark.parametrize("name", ARCHITECTURES)
    @pytest.mark.parametrize("padding_id", [0, 1, 99])
    def test_they_hold_every_length_and_the_padding_id_for_padding_only(self, name, padding_id):
        config = make_config(name, pad_token_id=padding_id)
        padding_id = 1 if name == "mpnet" else padding_id
        inputs = get_ane_config_class(config.model_type, "fill-mask")(config, "fill-mask").make_inputs(50, 30)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        assert torch.equal(ids != padding_id, mask.bool())
        assert set(ids.flatten().tolist()) == set(range(100))
        assert set(mask.sum(1).tolist()) == set(range(1, 31))
        if "token_type_ids" in inputs:
            assert set(inputs["token_type_ids"][mask.bool()].tolist()) == {0, 1}
            assert not inputs["token_type_ids"][~mask.bool()].any()

    def test_they_are_the_same_for_the_same_seed_and_others_for_another(self):
        config = make_config("bert")
        ane_config = get_ane_config_class("bert", "fill-mask")(config, "fill-mask")
        form = ExportForm("fill-mask", sequence_length=9)
        first, same, other = (ane_config.examples(form, seed)[0]["input_ids"] for seed in (3, 3, 4))
        assert torch.equal(first, same)
        assert not torch.equal(first, other)

    @pytest.mark.parametrize("task", supported_tasks()["bert"])
    def test_there_is_a_batch_for_each_length_in_transformers_own_shape(self, task):
        config = make_config("bert")
        ane_config = get_ane_config_class("bert", task)(config, task)
        batches = ane_config.examples(ExportForm(task, sequence_length=(8, 32, 16)))
        assert [batch["input_ids"].shape[-1] for batch in batches] == [32, 16, 8]
        assert {batch["input_ids"].ndim for batch in batches} == {3 if task == "multiple-choice" else 2}
        assert {value.dtype for batch in batches for value in batch.values()} == {torch.int64}


class TestFields:
    def test_padding_has_no_part_in_the_measure(self):
        states, logits = torch.randn(2, 4, 3), torch.randn(2, 5)
        reference = answers(last_hidden_state=states, logits=logits)
        ours = states.clone()
        ours[0, 2:] += 100
        ratios = compare_fields(reference, answers(last_hidden_state=ours, logits=logits), EXAMPLES, [STATES, LOGITS])
        assert ratios == {"last_hidden_state": float("inf"), "logits": float("inf")}
        ours[0, 1, 0] += 0.1
        other = answers(last_hidden_state=ours, logits=logits)
        assert compare_fields(reference, other, EXAMPLES, [STATES])["last_hidden_state"] < 60

    def test_a_row_that_differs_in_any_batch_counts(self):
        examples, logits = EXAMPLES * 2, [torch.ones(2, 3), torch.ones(2, 3)]
        reference = Answers({"logits": logits})
        ours = Answers({"logits": [logits[0], logits[1] + 1]})
        # Half of the numbers are off by as much as the largest: 20·log10(1 / sqrt(1 / 2)).
        assert compare_fields(reference, ours, examples, [LOGITS])["logits"] == pytest.approx(3.0103, abs=1e-3)

    def test_other_shapes_are_no_parity(self):
        with pytest.raises(ValidationError, match=r"logits has shape \(2, 4\), the original's \(2, 5\)"):
            compare_fields(answers(logits=torch.zeros(2, 5)), answers(logits=torch.zeros(2, 4)), EXAMPLES, [LOGITS])

    def test_an_original_that_is_not_finite_is_damaged(self):
        broken = answers(logits=torch.tensor([[1.0, float("nan")], [0.0, 1.0]]))
        with pytest.raises(CheckpointError, match="original's own logits holds NaN"):
            compare_fields(broken, broken, EXAMPLES, [LOGITS])

    def test_a_field_that_is_not_there_is_an_error(self):
        def model(**inputs):
            return SequenceClassifierOutput(logits=torch.zeros(2, 2))

        with pytest.raises(ValidationError, match="gives no last_hidden_state; it gives logits"):
            answer_examples(model, EXAMPLES, [STATES])


@pytest.mark.parametrize("ratio", [49.9, float("-inf"), float("nan")])
def test_what_is_below_the_threshold_or_no_number_fails(ratio):
    check_ratios({"logits": 50.0, "other": float("inf")}, 50.0, "package")
    with pytest.raises(ValidationError, match=r"PSNR of other is .* dB, 50\.0 are asked for"):
        check_ratios({"logits": 60.0, "other": ratio}, 50.0, "package")


def test_a_comparison_of_nothing_fails():
    with pytest.raises(ValidationError, match="nothing of the package was compared"):
        check_ratios({}, 50.0, "package")


class TestLayers:
    def states(self, *values):
        return Answers({}, [values])

    def test_what_stands_at_padding_does_not_count(self):
        state = torch.randn(2, 4, 3)
        noisy = torch.where(MASK[:, :, None].bool(), state, torch.tensor(1e3))
        ratios = compare_layers(self.states(state, state), self.states(noisy, noisy), EXAMPLES)
        assert ratios == {"embeddings": float("inf"), "layer.0": float("inf")}

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_another_number_of_hidden_states_is_an_error(self, count):
        state = torch.randn(2, 4, 3)
        with pytest.raises(ValidationError, match=rf"original has 2 hidden states and {count} were found"):
            compare_layers(self.states(state, state), self.states(*[state] * count), EXAMPLES)

    def test_an_original_without_hidden_states_is_an_error(self):
        with pytest.raises(ValidationError, match="original has 0 hidden states"):
            compare_layers(self.states(), self.states(), EXAMPLES)

    def test_other_shapes_and_numbers_that_are_none_are_named(self):
        state = torch.randn(2, 4, 3)
        with pytest.raises(ValidationError, match=r"embeddings has shape \(2, 4, 3\), the original's \(2, 4, 5\)"):
            compare_layers(self.states(torch.randn(2, 4, 5)), self.states(state), EXAMPLES)
        endless = torch.full((2, 4, 3), float("inf"))
        with pytest.raises(CheckpointError, match=r"original's own layer\.0 holds NaN or infinity"):
            compare_layers(self.states(state, endless), self.states(state, state), EXAMPLES)

    def test_few_rows_are_compared_and_choices_are_rows_of_their_own(self):
        seen = []

        def model(attention_mask, output_hidden_states=None):
            seen.append(attention_mask.shape[0])
            rows = attention_mask.reshape(-1, attention_mask.shape[-1])
            states = (rows[:, :, None].float(),) if output_hidden_states else None
            return BaseModelOutput(last_hidden_state=attention_mask.float(), hidden_states=states)

        examples = ({"attention_mask": torch.ones(16, 2, 3, dtype=torch.long)},)
        given = answer_examples(model, examples, [STATES], with_hidden_states=True)
        assert seen == [16, 2]
        assert compare_layers(given, given, examples) == {"embeddings": float("inf")}

    def test_the_bad_layer_is_the_first_below_the_limit_or_the_worst_one(self):
        ratios = {"embeddings": 70.0, "layer.0": 21.04, "layer.1": 12.0}
        assert find_bad_layer(ratios, 50) == "first bad layer: layer.0, 21.0 dB"
        assert find_bad_layer(ratios, 10) == "no layer is bad, the worst is layer.1 with 12.0 dB"
        assert find_bad_layer({"embeddings": float("nan")}, 10) == "first bad layer: embeddings, nan dB"
        assert find_bad_layer({}, 50) == ""
