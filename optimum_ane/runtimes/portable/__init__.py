"""Executes a saved Core ML package anywhere, without Core ML.

`PortableSession(path).predict({name: array})` reads the package's protobuf and weight file and runs the program with
torch on the CPU, so that what is checked is the artifact that ships and not the module that it was made from.
"""

from optimum_ane.runtimes.portable.session import PortableSession, State

__all__ = ["PortableSession", "State"]
