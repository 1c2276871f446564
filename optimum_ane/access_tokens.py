"""Access tokens of the Hub: refused where they would break a request, and kept out of whatever is shown.

A server, or a proxy before it, may put what a request brought into its answer, the Authorization header too; the Hub's
client puts that answer into its errors, logs and warnings.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from optimum_ane.errors import ANEError

_SHOWN = "<token>"
_SHORTEST = 8
"""Below it a text is no token, and to hide it would hide other words; the Hub's have 37 characters."""

_given: set[str] = set()
_lock = threading.Lock()
_depth = 0
_restore: Callable[[], None] = lambda: None  # noqa: E731 - replaced while a block runs


def check_token(token: str | None, kind: type[ANEError]) -> None:
    """Refuses a token that would break the request's header: what is raised of that quotes the header.

    Args:
        token: As it was given, which is from now on hidden; None stands for the one that is stored.
        kind: The error to raise.

    Raises:
        ANEError: It is empty, or holds white space or other than ASCII characters; never quoted.
    """
    if token is not None:
        _given.add(token)
        if not _fits_header(token):
            raise kind(
                "the token is empty or holds white space or special characters; pass it as the Hub shows it, in ASCII"
            )


def check_stored_token(kind: type[ANEError]) -> None:
    """Refuses the token of HF_TOKEN or `hf auth login` for the same reasons, before the first request.

    Args:
        kind: The error to raise.

    Raises:
        ANEError: See `check_token`.
    """
    from huggingface_hub import get_token, is_offline_mode

    stored = None if is_offline_mode() else get_token()
    if stored is not None and not _fits_header(stored):
        raise kind(
            "the token in HF_TOKEN, or stored by `hf auth login`, holds white space or special characters; store it "
            "again as the Hub shows it, in ASCII"
        )


def _fits_header(token: str) -> bool:
    return bool(token) and token.isascii() and token.isprintable() and " " not in token


def without_tokens(text: str) -> str:
    """The text with `<token>` for each token that was given to us or is stored."""
    for secret in _secrets():
        for written in {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe="")}:
            text = text.replace(written, _SHOWN)
    return text


def _secrets() -> list[str]:
    # Before the client is loaded nothing was sent, and to load it takes a second.
    hub = sys.modules.get("huggingface_hub")
    stored = None if hub is None else hub.get_token()
    known = _given if stored is None else _given | {stored}
    return sorted((secret for secret in known if len(secret) >= _SHORTEST), key=len, reverse=True)


@contextmanager
def tokens_hidden() -> Iterator[None]:
    """While the block runs, no error, log record or warning that leaves it holds a token, in causes neither.

    Raises:
        ANEError: In place of an error whose text cannot be changed.
    """
    _enter()
    try:
        yield
    except BaseException as error:
        if not _clean(error, set()):
            raise ANEError(without_tokens(f"{type(error).__name__}: {error}")) from None
        raise
    finally:
        _leave()


def _enter() -> None:
    global _depth, _restore
    with _lock:
        _depth += 1
        if _depth > 1:
            return
        make_record, show = logging.getLogRecordFactory(), warnings.showwarning

        def make_clean_record(*args: Any, **options: Any) -> logging.LogRecord:
            return _cleaned(make_record(*args, **options))

        def show_clean(message: Warning | str, *args: Any, **options: Any) -> None:
            if isinstance(message, str):
                message = without_tokens(message)
            elif not _clean(message, set()):
                message = UserWarning(without_tokens(str(message)))
            show(message, *args, **options)

        logging.setLogRecordFactory(make_clean_record)
        warnings.showwarning = show_clean

        def restore() -> None:
            # What somebody else has set meanwhile is theirs.
            if logging.getLogRecordFactory() is make_clean_record:
                logging.setLogRecordFactory(make_record)
            if warnings.showwarning is show_clean:
                warnings.showwarning = show

        _restore = restore


def _leave() -> None:
    global _depth
    with _lock:
        _depth -= 1
        if _depth == 0:
            _restore()


def _cleaned(record: logging.LogRecord) -> logging.LogRecord:
    try:
        message = record.getMessage()
    except (TypeError, ValueError, KeyError):  # arguments that do not fit: logging itself reports them, and shows them
        message = f"{record.msg!r} {record.args!r}"
    shown = without_tokens(message)
    if shown != message:
        record.msg, record.args = shown, ()
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and not _clean(error, set()):
        record.exc_info = None
    return record


def _clean(error: BaseException, seen: set[int]) -> bool:
    """Takes tokens out of an error and of those that led to it; one that cannot be changed is cut off its chain.

    Returns:
        Whether its own text holds none any more.
    """
    seen.add(id(error))
    for name, value in vars(error).items():
        if isinstance(value, str) and without_tokens(value) != value:
            setattr(error, name, without_tokens(value))
    if hasattr(error, "__notes__"):
        error.__notes__ = [without_tokens(str(note)) for note in error.__notes__]
    if any(without_tokens(str(value)) != str(value) for value in error.args):
        error.args = tuple(
            without_tokens(str(value)) if without_tokens(str(value)) != str(value) else value for value in error.args
        )
    if isinstance(error, OSError):
        for name in ("strerror", "filename", "filename2"):
            value = getattr(error, name)
            if isinstance(value, str) and without_tokens(value) != value:
                setattr(error, name, without_tokens(value))
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    is_clean = all(_clean(part, seen) for part in parts if id(part) not in seen)
    for link in ("__cause__", "__context__"):
        led = getattr(error, link)
        if led is not None and id(led) not in seen and not _clean(led, seen):
            suppressed = error.__suppress_context__
            setattr(error, link, None)
            error.__suppress_context__ = suppressed
    own = "".join(traceback.format_exception_only(error))
    return is_clean and without_tokens(own) == own
