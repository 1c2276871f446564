"""Every architecture and head: the Neural Engine module answers as transformers does."""

import pytest
from optimum.exporters.tasks import TasksManager
from tiny_models import ARCHITECTURES, TASKS, answer, least_psnr, make_inputs, make_original

from optimum_ane import convert_to_ane
from optimum_ane.exporters.config import get_ane_config_class, supported_tasks

THRESHOLD = 100.0


def registered():
    """Every architecture and task that Optimum knows for our exporter, whichever module registered it."""
    return {
        (model_type, task)
        for model_type, exporters in TasksManager._SUPPORTED_MODEL_TYPE.items()
        for task in exporters.get("ane", {})
    }


def test_every_registered_architecture_and_task_has_a_tiny_original():
    tested = {(name.split(":")[0], task) for name in ARCHITECTURES for task in TASKS}
    assert registered() == tested


def test_optimum_knows_what_we_list():
    assert registered() == {(model_type, task) for model_type, tasks in supported_tasks().items() for task in tasks}


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
