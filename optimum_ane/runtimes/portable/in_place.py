"""Which updates of a state may be written into its memory, and which have to be made in a copy.

A decoder writes a few rows of a large state and reads the rest:

    read_state ─► slice_update ─► write_state ─► read_state ─► …
        kv            rows             kv

Written into the state's own memory this costs what the rows cost. It is right where nothing reads the old value
afterwards, and no operation has to say that it reads it: a slice, a transposition or a reshape of the state is a
window into the same memory. So every value counts as a window that is computed from one, unless the operation is
known to put its result into new memory. An update is in place where

- what is updated is the state's present value, read since the last write that replaced it,
- the next operation that touches the state writes the result into it, and
- no other window into the state is read by the update itself, later, or returned.

Everything else is copied. Blocks of control flow are bound without knowing what their surroundings read later, and
copy always.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

NEW_MEMORY = frozenset(
    {
        *("add", "sub", "mul", "real_div", "maximum", "minimum", "pow"),
        *("equal", "not_equal", "greater", "greater_equal", "less", "less_equal", "select"),
        *("conv", "linear", "matmul", "gather", "concat", "stack", "layer_norm", "softmax"),
        *("exp", "gelu", "relu", "rsqrt", "sigmoid", "silu", "sqrt", "square", "tanh"),
        *("reduce_max", "reduce_mean", "reduce_min", "reduce_sum"),
    }
)
"""Operations whose result never lies in the memory of an operand, whatever the operands."""


@dataclass(frozen=True)
class Use:
    """One operation as this analysis sees it.

    Attributes:
        op: MIL's name of it.
        operands: The slots of all that it reads.
        results: The slots of what it computes.
        arguments: The slots of the parameters that are one value each, by name.
    """

    op: str
    operands: tuple[int, ...]
    results: tuple[int, ...]
    arguments: Mapping[str, int]


@dataclass
class Updates:
    """What was found.

    Attributes:
        in_place: Places of the updates that may be written into the state's memory.
        owned: Places of the writes whose data is a copy that an update has just made and that nothing else reads: the
            state takes it as it is.
        windows: The slots of values that may lie in a state's memory.
    """

    in_place: set[int] = field(default_factory=set)
    owned: set[int] = field(default_factory=set)
    windows: set[int] = field(default_factory=set)


def find_updates(uses: Sequence[Use], inputs: Iterable[int], returned: Collection[int], *, is_block: bool) -> Updates:
    """Finds the updates of a function that need no copy.

    Args:
        uses: The operations, in the order in which they run.
        inputs: The slots of the function's inputs, the states among them.
        returned: The slots of the values returned.
        is_block: Whether it is a block of control flow.

    Returns:
        Which updates and writes they are, and which values may lie in a state's memory.
    """
    analysis = _Analysis(uses, inputs, returned, is_block)
    for index, use in enumerate(uses):
        analysis.take(index, use)
    return analysis.found


class _Analysis:
    """Walks through a function in order."""

    def __init__(self, uses: Sequence[Use], inputs: Iterable[int], returned: Collection[int], is_block: bool) -> None:
        self.found = Updates()
        self._uses, self._is_block = uses, is_block
        inputs = [*inputs]
        states = {
            use.arguments["input"]
            for use in uses
            if use.op in ("read_state", "write_state") and "input" in use.arguments
        }
        self._states = states.intersection(inputs)
        self._counts = Counter(slot for use in uses for slot in use.operands)
        self._last = {slot: index for index, use in enumerate(uses) for slot in use.operands}
        self._last.update(dict.fromkeys(returned, len(uses)))
        self._touched: dict[int, list[int]] = {state: [] for state in self._states}
        self._writes: dict[int, list[int]] = {}
        for index, use in enumerate(uses):
            for state in self._states.intersection(use.operands):
                self._touched[state].append(index)
            if use.op == "write_state":
                self._writes.setdefault(use.arguments.get("data", -1), []).append(index)
        # The states in whose memory a value may lie. What comes into a block may lie in that of any state outside.
        self._memory: dict[int, frozenset[int]] = dict.fromkeys(inputs if is_block else (), frozenset({-1}))
        self.found.windows.update(self._memory)
        # Of each state the values that are the whole of it at present, and those windows that may still be read.
        self._present: dict[int, set[int]] = {state: set() for state in self._states}
        self._live: dict[int, list[int]] = {state: [] for state in self._states}

    def take(self, index: int, use: Use) -> None:
        """Takes the next operation in."""
        state = use.arguments.get("input", -1)
        if use.op == "read_state" and state in self._states:
            self._open(use.results, frozenset({state}))
            self._present[state].update(use.results)
        elif use.op == "write_state" and state in self._states:
            data = use.arguments.get("data", -1)
            if index in self.found.owned:
                self._open((data,), frozenset({state}))
                self._present[state] = {data}
            elif data not in self._present[state]:
                self._present[state] = set()  # the data is copied, into new memory
        elif use.op == "slice_update" and len(use.results) == 1:
            self._update(index, use)
        elif use.op not in NEW_MEMORY:
            memory = frozenset().union(*(self._memory.get(slot, ()) for slot in use.operands))
            touched = self._states.intersection(use.operands)  # by control flow, which may write
            for each in touched:
                self._present[each] = set()
            if memory or touched:
                self._open(use.results, memory | touched)

    def _open(self, slots: Iterable[int], memory: frozenset[int]) -> None:
        """Notes windows into the memory of states."""
        for slot in slots:
            self.found.windows.add(slot)
            self._memory[slot] = self._memory.get(slot, frozenset()) | memory
            for state in memory & self._live.keys():
                self._live[state].append(slot)

    def _update(self, index: int, use: Use) -> None:
        """Decides on an update; one that is not made in place makes a copy, in new memory."""
        (result,) = use.results
        for place in self._writes.get(result, ()):
            state = self._uses[place].arguments.get("input", -1)
            if state not in self._states:
                continue
            touched = self._touched[state]
            is_next = touched[bisect_right(touched, index)] == place
            if is_next and not self._is_block and self._is_last_reader(index, use, state):
                self.found.in_place.add(index)
                self._open((result,), frozenset({state}))
                self._present[state] = {result}
                return
            if self._counts[result] == 1 and self._last[result] == place:
                self.found.owned.add(place)

    def _is_last_reader(self, index: int, use: Use, state: int) -> bool:
        """Whether an update is of a state's present value, and nothing else reads what was there before."""
        x = use.arguments.get("x", -1)
        if x not in self._present[state] or use.operands.count(x) != 1 or self._last[x] != index:
            return False
        live = self._live[state]
        # What nothing reads after this need not be looked at again.
        while live and (live[-1] == x or self._last.get(live[-1], -1) < index):
            live.pop()
        return not live
