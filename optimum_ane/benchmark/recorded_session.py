"""Sessions that keep what a model class asks of them, so that its predictions can be timed without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimum_ane.runtimes import Session, TensorSpec


@dataclass(frozen=True)
class Call:
    """One prediction that was asked for, and its answer."""

    session: Session
    inputs: Mapping[str, Any]
    state: Any
    answer: Mapping[str, Any]

    def repeat(self) -> None:
        """Predicts once more on the same arrays."""
        self.session.predict(self.inputs, self.state)


class Recorder:
    """What the recorded sessions of one model class share."""

    def __init__(self) -> None:
        self._calls: list[Call] | None = None
        self._answers: Iterator[Call] | None = None

    @contextmanager
    def record(self) -> Iterator[list[Call]]:
        """Gives the list that calls are added to while the block runs."""
        calls: list[Call] = []
        self._calls = calls
        try:
            yield calls
        finally:
            self._calls = None

    @contextmanager
    def recall(self, calls: Sequence[Call]) -> Iterator[None]:
        """Answers from memory, in the order of the calls, while the block runs."""
        self._answers = iter(calls)
        try:
            yield
        finally:
            self._answers = None

    def predict(self, session: Session, inputs: Mapping[str, Any], state: Any, **options: Any) -> dict[str, Any]:
        """Passes a call on, or answers it from memory."""
        if self._answers is not None:
            return dict(next(self._answers).answer)
        answer = session.predict(inputs, state, **options)
        if self._calls is not None:
            self._calls.append(Call(session, inputs, state, answer))
        return answer


class RecordedSession:
    """See `runtimes.Session`: the session that it is given, each call through a recorder."""

    def __init__(self, session: Session, recorder: Recorder) -> None:
        self._session, self._recorder = session, recorder
        self.runtime = session.runtime
        self.function_name = session.function_name
        self.inputs: Mapping[str, TensorSpec] = session.inputs
        self.outputs: Mapping[str, TensorSpec] = session.outputs
        self.states: Mapping[str, TensorSpec] = session.states

    @property
    def functions(self) -> tuple[str, ...]:
        """See `Session`."""
        return self._session.functions

    def function(self, name: str) -> RecordedSession:
        """See `Session`."""
        return RecordedSession(self._session.function(name), self._recorder)

    def with_rows(self, rows: int) -> RecordedSession:
        """See `Session`."""
        return RecordedSession(self._session.with_rows(rows), self._recorder)

    def make_state(self) -> Any:
        """See `Session`."""
        return self._session.make_state()

    def predict(
        self, inputs: Mapping[str, Any], state: Any = None, *, intermediates: Sequence[str] = ()
    ) -> dict[str, Any]:
        """See `Session`."""
        return self._recorder.predict(self._session, inputs, state, intermediates=intermediates)
