"""The operations of this runtime against the core operations that coremltools has."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

from optimum_ane.errors import UnsupportedOperationError
from optimum_ane.runtimes.portable import program  # noqa: F401  registers the operations
from optimum_ane.runtimes.portable.constexpr import FORMS
from optimum_ane.runtimes.portable.control import CONTROL
from optimum_ane.runtimes.portable.left_out import LEFT_OUT
from optimum_ane.runtimes.portable.registry import OPERATIONS

# Turned into constants when a graph is read.
DECODED = {"const", *FORMS}


def test_every_core_operation_is_here_or_left_out_for_a_reason():
    core = set(SSAOpRegistry.core_ops)
    here = set(OPERATIONS) | CONTROL | DECODED
    assert core - here - set(LEFT_OUT) == set()
    assert here & set(LEFT_OUT) == set()
    assert set(LEFT_OUT) <= core
    assert all(LEFT_OUT.values())


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) & set(SSAOpRegistry.core_ops)))
def test_every_parameter_of_every_version_is_known(name):
    """What any operation set names may be in a package; what it does not require may be absent."""
    known = OPERATIONS[name].roles
    for version in SSAOpRegistry.core_ops[name].values():
        for parameter, kind in version.input_spec.input_types.items():
            assert parameter in known
            if kind.optional:
                assert parameter not in OPERATIONS[name].required, f"{parameter} may be left out"


def test_an_operation_left_out_is_refused_with_its_place_and_the_reason(run):
    x = np.zeros((2, 3), np.float32)

    def build(a):
        noise = Builder.random_normal(shape=[2, 3], mean=np.float32(0), stddev=np.float32(1), seed=1, name="noise")
        return Builder.add(x=a, y=noise)

    with pytest.raises(UnsupportedOperationError, match=r"random_normal \(at noise\): .*no right answer") as error:
        run(build, x)
    assert LEFT_OUT["random_normal"] in str(error.value)


def test_nothing_is_left_out_but_what_is_random_or_never_written():
    assert {name for name in LEFT_OUT if not name.startswith("random_")} == {"_const_symbolic"}
