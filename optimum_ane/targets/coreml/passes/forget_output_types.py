"""The graph pass that lets a classifier have further outputs."""

from coremltools.converters.mil.mil import Program
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import register_pass


@register_pass(namespace="optimum_ane")
class forget_output_types(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Drops the list of output types that the converter was given; the outputs keep the types that they have.

    A classifier's label and dictionary take the place of one output, so there is one output more than the list has,
    and coremltools 9 reads past its end (`IndexError` in `get_func_output`). Without a list it reads none.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            function.set_output_types(None)
