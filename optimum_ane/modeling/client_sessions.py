"""Packages in the layouts of others behind the interface of our own, so that one driver runs them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optimum_ane.exporters.swift_transformers import CLIENT_NAMES
from optimum_ane.modeling.anemll_session import AnemllSession
from optimum_ane.modeling.whisperkit_session import whisperkit_sessions
from optimum_ane.runtimes.session import TensorSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from optimum_ane.runtimes import Session


def native_sessions(sessions: Mapping[str, Session], layout: str, config: PretrainedConfig) -> Mapping[str, Session]:
    """Returns the sessions of a package that writes text as a native package has them.

    Raises:
        PackageError: They are not those of the layout.
    """
    if layout == "anemll":
        return {"model": AnemllSession(sessions, config.get_text_config().vocab_size)}
    if layout == "swift-transformers":
        ours = {client: own for own, client in CLIENT_NAMES.items()}
        return {name: RenamedSession(session, ours) for name, session in sessions.items()}
    if layout == "whisperkit":
        return whisperkit_sessions(sessions, config)
    return sessions


class RenamedSession:
    """See `runtimes.Session`: another session with other names of its inputs.

    Args:
        session: The other.
        names: New names by those that the session has.
    """

    def __init__(self, session: Session, names: Mapping[str, str]) -> None:
        self._session, self._names = session, names
        self.runtime, self.function_name = session.runtime, session.function_name
        self.inputs: Mapping[str, TensorSpec] = {
            names.get(name, name): replace(spec, name=names.get(name, name)) for name, spec in session.inputs.items()
        }
        self.outputs, self.states = session.outputs, session.states

    @property
    def functions(self) -> tuple[str, ...]:
        """See `Session`."""
        return self._session.functions

    def function(self, name: str) -> RenamedSession:
        """See `Session`."""
        return RenamedSession(self._session.function(name), self._names)

    def with_rows(self, rows: int) -> RenamedSession:
        """See `Session`."""
        return RenamedSession(self._session.with_rows(rows), self._names)

    def make_state(self) -> Any:
        """See `Session`."""
        return self._session.make_state()

    def predict(
        self, inputs: Mapping[str, Any], state: Any = None, *, intermediates: Sequence[str] = ()
    ) -> dict[str, Any]:
        """See `Session`."""
        old = {new: name for name, new in self._names.items()}
        given = {old.get(name, name): value for name, value in inputs.items()}
        return self._session.predict(given, state, intermediates=intermediates)
