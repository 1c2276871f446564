"""Every architecture and head: the Neural Engine module answers as transformers does."""

import pytest
import torch
from optimum.exporters.tasks import TasksManager
from tiny_models import ARCHITECTURES, TASKS, answer, least_psnr, make_inputs, make_original

from optimum_ane import convert_to_ane
from optimum_ane.exporters.config import get_ane_config_class, graph_tasks, supported_tasks

THRESHOLD = 100.0
POOLERS = ["pooler.dense.bias", "pooler.dense.weight"]
HAVE_POOLERS = ("bert", "camembert", "mpnet", "roberta", "xlm-roberta")
SECOND_NAMES = {
    "albert": ["predictions.bias"],
    **{key: ["cls.predictions.bias"] for key in ("bert", "deberta-v2")},
    **{key: ["lm_head.bias"] for key in ("camembert", "mpnet", "roberta", "xlm-roberta")},
}


def registered():
    """Every architecture and task that Optimum knows for our exporter, whichever module registered it."""
    return {
        (model_type, task)
        for model_type, exporters in TasksManager._SUPPORTED_MODEL_TYPE.items()
        for task in exporters.get("ane", {})
    }


def pairs(table):
    return {(model_type, task) for model_type, tasks in table.items() for task in tasks}


def test_every_registered_architecture_and_task_has_a_tiny_original():
    tested = {(name.split(":")[0], task) for name in ARCHITECTURES for task in TASKS}
    assert pairs(supported_tasks()) == tested


def test_optimum_knows_what_we_list():
    assert registered() == pairs(supported_tasks()) | pairs(graph_tasks())


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_the_module_answers_as_the_original_does(name, task):
    original = make_original(name, task)
    inputs = make_inputs(original)
    module = convert_to_ane(original)
    assert least_psnr(answer(original, inputs), module(**inputs), inputs["attention_mask"]) >= THRESHOLD


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_inputs_and_outputs_of_the_configuration_are_those_of_the_module(name, task):
    original = make_original(name, task, num_hidden_layers=2)
    ane_config = get_ane_config_class(original.config.model_type, task)(original.config, task)
    inputs = ane_config.make_inputs(3, 11)
    assert list(inputs) == list(ane_config.inputs)
    assert {value.dtype.__str__() for value in inputs.values()} == {"torch.int32"}
    outputs = convert_to_ane(original)(**{key: value.long() for key, value in inputs.items()})
    assert isinstance(outputs, tuple) == (len(ane_config.outputs) > 1)
    assert ("token_type_ids" in inputs) == ("token_type_ids" in make_inputs(original))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_no_answer_depends_on_a_weight_that_is_left_out_and_all_others_keep_their_names(name, task):
    original = make_original(name, task)
    module = convert_to_ane(original)
    module.load_state_dict(original.state_dict(), strict=True, assign=True)
    pointers = {key: value.untyped_storage().data_ptr() for key, value in original.state_dict(keep_vars=True).items()}
    unused = module.unused_weights() & pointers.keys()
    used = pointers.keys() - unused
    packed = {key for key in used if "Wqkv" in key or "Wi" in key}  # the only ones that change their names
    assert {key for key in module.state_dict() if "Wqkv" not in key and "Wi" not in key} == used - packed
    inputs = make_inputs(original)
    before = answer(original, inputs)
    for key in unused:
        if pointers[key] not in {pointers[other] for other in used}:  # else a second name of one that is used
            original.state_dict()[key].fill_(float("nan"))
    assert all(torch.equal(*pair) for pair in zip(before, answer(original, inputs), strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_what_is_left_out_are_poolers_and_second_names(task):
    for name in ARCHITECTURES:
        original = make_original(name, task)
        unused = sorted(convert_to_ane(original).unused_weights() & original.state_dict().keys())
        expected = []
        if task == "feature-extraction":
            expected = {"albert": ["pooler.bias", "pooler.weight"]}.get(name, POOLERS if name in HAVE_POOLERS else [])
        if task == "fill-mask":
            expected = SECOND_NAMES.get(name.split(":")[0], []) if name != "deberta-v2:keys" else []
        assert unused == expected, name
