"""Executes a saved Core ML package anywhere, without Core ML.

`PortableSession(path).predict({name: array})` reads the package's protobuf and weight file and runs the program with
torch on the CPU, so that what is checked is the artifact that ships and not the module that it was made from.
`enable_predict()` does the same for code that uses coremltools' `MLModel`.
"""

from optimum_ane.runtimes.portable.mlmodel import disable_predict, enable_predict
from optimum_ane.runtimes.portable.session import PortableSession, PortableState

__all__ = ["PortableSession", "PortableState", "disable_predict", "enable_predict"]
