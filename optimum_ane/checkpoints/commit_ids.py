"""The commit that a Hub names: the client makes a folder of that name, wherever it leads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import get_session

from optimum_ane.errors import ANEError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HEADER = "X-Repo-Commit"


def check_commit(name: str, commit: object, kind: type[ANEError]) -> None:
    """Refuses what is no commit id.

    Args:
        name: The repository, for the message.
        commit: What the Hub calls its commit.
        kind: The error to raise.

    Raises:
        ANEError: It is none: an absolute path, say, to which the client would write.
    """
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise kind(
            f"{name}: the Hub names the commit {commit!r:.60}, which is no commit id and may be hostile; check "
            "HF_ENDPOINT and the network"
        )


@contextmanager
def commits_checked(name: str, kind: type[ANEError]) -> Iterator[None]:
    """While the block runs, an answer of the Hub whose header names something else than a commit is refused.

    Args:
        name: The repository, for the message.
        kind: The error to raise.

    Raises:
        ANEError: See `check_commit`; before the client has written anything.
    """

    def check(response: Any) -> None:
        if _HEADER in response.headers:
            check_commit(name, response.headers[_HEADER], kind)

    session = get_session()
    hooks = session.event_hooks
    session.event_hooks = hooks | {"response": [*hooks["response"], check]}
    try:
        yield
    finally:
        hooks = session.event_hooks
        session.event_hooks = hooks | {"response": [hook for hook in hooks["response"] if hook is not check]}
