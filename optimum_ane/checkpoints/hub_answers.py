"""What a Hub calls its commits and files: the client makes folders and files of these names, wherever they lead."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub import get_session

from optimum_ane.errors import ANEError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_COMMIT_HEADER = "X-Repo-Commit"
_ETAG = re.compile(r'(W/)?"?[A-Za-z0-9+=_-][A-Za-z0-9+=_.:-]{0,199}"?')
"""Of a file: a hash on the Hub. huggingface_hub 2.4.0 writes what it holds into `blobs/` under this very name."""
_ETAG_HEADERS = ("ETag", "X-Linked-Etag")


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


def check_etag(name: str, etag: str, kind: type[ANEError]) -> None:
    """Refuses the name of a file's content that is a path.

    Args:
        name: The repository, for the message.
        etag: What the Hub calls it.
        kind: The error to raise.

    Raises:
        ANEError: See above.
    """
    if not _ETAG.fullmatch(etag):
        raise kind(
            f"{name}: the Hub calls the content of a file {etag!r:.60}, which the client would write to and which may "
            "be hostile; check HF_ENDPOINT and the network"
        )


@contextmanager
def answers_checked(name: str, kind: type[ANEError], most_bytes: Mapping[str, int] | None = None) -> Iterator[None]:
    """While the block runs, an answer of the Hub whose headers name commits or contents by paths is refused.

    Args:
        name: The repository, for the message.
        kind: The error to raise.
        most_bytes: Of files, by their names; larger ones are refused before they are downloaded.

    Raises:
        ANEError: See `check_commit` and `check_etag`; before the client has written anything.
    """

    def check(response: Any) -> None:
        if _COMMIT_HEADER in response.headers:
            check_commit(name, response.headers[_COMMIT_HEADER], kind)
        for header in _ETAG_HEADERS:
            if header in response.headers:
                check_etag(name, response.headers[header], kind)
        limit = (most_bytes or {}).get(response.url.path.rpartition("/")[2])
        stated = [response.headers.get(header, "") for header in ("X-Linked-Size", "Content-Length")]
        size = max((int(each[:20]) for each in stated if each.isdecimal()), default=0)
        if limit is not None and size > limit:
            file = response.url.path.rpartition("/")[2]
            raise kind(f"{name}: {file} has {size:,} bytes, and such a file has {limit:,} at most")

    session = get_session()
    hooks = session.event_hooks
    session.event_hooks = hooks | {"response": [*hooks["response"], check]}
    try:
        yield
    finally:
        hooks = session.event_hooks
        session.event_hooks = hooks | {"response": [hook for hook in hooks["response"] if hook is not check]}
