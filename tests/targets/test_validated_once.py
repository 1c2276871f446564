"""A program is checked behind the last pass of a pipeline, and what a pass broke is found there."""

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Program
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from optimum_ane.targets.coreml.validated_once import validated_once

PASSES = ["common::noop_elimination", "common::const_elimination", "common::dead_code_elimination"]


class forget_a_reader(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Leaves a value that does not know who reads it."""

    def apply(self, prog):
        (operation, *_) = prog.functions["main"].find_ops(op_type="relu")
        operation.x.remove_child_op(operation)


@pytest.fixture
def program():
    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 3))], opset_version=ct.target.iOS17)
    def made(x):
        return mb.add(x=mb.relu(x=mb.tanh(x=x)), y=np.float32(1))

    return made


@pytest.fixture
def checks(monkeypatch):
    """How often coremltools checked a program."""
    validate, counted = Program.validate, []

    def counting(self, check_essential_scope=False):
        counted.append(self)
        validate(self, check_essential_scope)

    monkeypatch.setattr(Program, "validate", counting)
    return counted


def test_once_for_each_pipeline_and_as_before_afterwards(program, checks):
    for _ in range(2):
        with validated_once():
            PassPipelineManager.apply_pipeline(program, ct.PassPipeline(PASSES))
    assert len(checks) == 2
    PassPipelineManager.apply_pipeline(program, ct.PassPipeline(PASSES))
    assert len(checks) == 2 + 1 + len(PASSES)


def test_what_a_pass_broke_is_found(program, checks, monkeypatch):
    monkeypatch.setitem(PASS_REGISTRY.passes, "tests::forget_a_reader", forget_a_reader())
    with pytest.raises(Exception, match="should be consumed by op"), validated_once():
        PassPipelineManager.apply_pipeline(program, ct.PassPipeline([*PASSES, "tests::forget_a_reader"]))
    checked = Program.validate
    with pytest.raises(AttributeError), validated_once():  # a pass that raises leaves nothing behind either
        PassPipelineManager.apply_pipeline(None, ct.PassPipeline(PASSES))
    assert Program.validate is checked
