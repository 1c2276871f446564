"""Core ML's plan beside the prediction, with a plan of coremltools' own classes in the place of Core ML."""

import sys
from types import SimpleNamespace

import pytest
from analysis_programs import program_of
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.models.compute_plan import (
    MLComputePlanCost,
    MLComputePlanDeviceUsage,
    MLModelStructure,
    MLModelStructureProgram,
    MLModelStructureProgramBlock,
    MLModelStructureProgramFunction,
    MLModelStructureProgramNamedValueType,
    MLModelStructureProgramOperation,
)

from optimum_ane.analysis.compute_plan import ask_device
from optimum_ane.analysis.residency import place
from optimum_ane.errors import PackageError, RuntimeUnavailableError


class MLNeuralEngineComputeDevice:
    """The real classes of devices cannot be made without Core ML; only their names are looked at."""


class MLCPUComputeDevice:
    pass


ANE, CPU = MLNeuralEngineComputeDevice(), MLCPUComputeDevice()


class Plan:
    """What MLComputePlan answers, from a table of devices by the name of the operation's output."""

    def __init__(self, devices, functions=("main",)):
        self.devices = devices
        operations = [
            MLModelStructureProgramOperation(
                {}, "any", [MLModelStructureProgramNamedValueType(name, None)], [], __proxy__=None
            )
            for name in ("a_constant", *devices)
        ]
        block = MLModelStructureProgramBlock([], operations, [])
        program = MLModelStructureProgram({name: MLModelStructureProgramFunction([], block) for name in functions})
        self.model_structure = MLModelStructure(neuralnetwork=None, program=program, pipeline=None)

    def get_compute_device_usage_for_mlprogram_operation(self, operation):
        device = self.devices.get(operation.outputs[0].name)
        return None if device is None else MLComputePlanDeviceUsage(device, [CPU, device])

    def get_estimated_cost_for_mlprogram_operation(self, operation):
        return MLComputePlanCost(0.25)


@pytest.fixture(scope="module")
def predicted():
    """A program of which the relu is predicted on the engine, the topk off it, and the linear layer is left open."""

    def build(x):
        values, places = mb.topk(x=mb.relu(x=x, name="activated"), k=2, axis=1, name="best")
        return mb.linear(x=values, weight=[[1.0, 2.0]], name="open"), places

    program = program_of(build, x="fp16 1 8")
    return program, place(program)


def test_the_plan_and_the_prediction_are_compared_by_operation(predicted):
    seen = []

    def load(path, units):
        seen.append((path, units))
        return Plan({"activated": ANE, "best_0": ANE, "open": CPU})

    plan = ask_device(*predicted, "all", load)
    assert seen == [(predicted[0].path, "all")]
    assert [(o.placement.operation.type, o.device, o.agrees, o.cost) for o in plan.operations] == [
        ("relu", "ane", True, 0.25),
        ("topk", "ane", False, 0.25),
        ("linear", "cpu", None, 0.25),
    ]
    assert plan.agreement == 0.5
    assert [o.placement.operation.name for o in plan.disagreements] == ["best_0"]
    answer = plan.to_dict()
    assert answer["operations"] == {"ane": 2, "cpu": 1}
    assert answer["conditional_operations"] == {"cpu": 1}
    assert answer["disagreements"][0]["predicted"] == "fallback"


def test_an_operation_of_which_the_plan_says_nothing_counts_neither_way(predicted):
    plan = ask_device(*predicted, load=lambda path, units: Plan({"activated": ANE, "best_0": None, "open": None}))
    assert [o.agrees for o in plan.operations] == [True, None, None]
    assert plan.agreement == 1
    assert plan.to_dict()["operations"] == {"ane": 1, "unknown": 2}


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (Plan({"activated": ANE}, functions=("other",)), "no function 'main'"),
        (Plan({"elsewhere": ANE}), "names none of the program's operations"),
        (SimpleNamespace(model_structure=SimpleNamespace(program=None)), "no function 'main'"),
    ],
)
def test_a_plan_of_another_program_is_refused(plan, says, predicted):
    with pytest.raises(PackageError, match=says):
        ask_device(*predicted, load=lambda path, units: plan)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is here")
def test_elsewhere_than_on_macos_the_error_says_what_is_needed(predicted):
    with pytest.raises(RuntimeUnavailableError, match="device asks Core ML and needs macOS"):
        ask_device(*predicted)
