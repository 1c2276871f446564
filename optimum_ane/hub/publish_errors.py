"""What can go wrong while publishing, in one line with the remedy; never a token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from optimum_ane.access_tokens import check_stored_token, check_token, tokens_hidden
from optimum_ane.errors import ANEError, PublishError
from optimum_ane.hub.download_errors import when_again

UNTOUCHED = "Nothing was published"
UNCERTAIN = "The commit may have arrived or not; a new run finds out"
UNCERTAIN_PULL = "The pull request may have been opened or not: look first at"


class HubUnreachableError(PublishError):
    """There was no connection to the Hub; one that breaks on the way is another matter."""


@contextmanager
def explained(what: str, repo_id: str, token: str | None, state: str = UNTOUCHED) -> Iterator[None]:
    """Turns what the Hub client raises in the block into a `PublishError`.

    Args:
        what: What the block does, as the error says it.
        repo_id: The repository.
        token: As it was given; None stands for the one that is stored.
        state: What an error says of the repository if the connection breaks.

    Raises:
        HubUnreachableError: There was no connection.
        PublishError: Of whatever else the client raised; or no request can bear the token.
    """
    check_token(token, PublishError)
    if token is None:
        check_stored_token(PublishError)
    with tokens_hidden():
        try:
            yield
        except ANEError:
            raise
        # The client's own errors are of these families, and so is what it wraps around those of an upload.
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            has_token = (token or get_token()) is not None
            root = _root(error)
            kind = HubUnreachableError if _is_unreachable(root) else PublishError
            raise kind(f"{what}: {_explain(root, repo_id, has_token, state)}") from error


def _root(error: BaseException) -> BaseException:
    """The error of the connection that the client wrapped into one of an upload."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_unreachable(error: BaseException) -> bool:
    # By name, for these classes are of the HTTP library that the Hub client brings, which has changed.
    return isinstance(error, OfflineModeIsEnabled) or (
        isinstance(error, HTTPError) and type(error).__name__ in ("ConnectError", "ConnectTimeout")
    )


def _explain(error: BaseException, repo_id: str, has_token: bool, state: str) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "the network is switched off; unset HF_HUB_OFFLINE and run it again"
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token; run `hf auth login` with one that may write, or set HF_TOKEN"
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is no id of a repository, which is like org/name; check it"
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error, repo_id, has_token, state)
    if isinstance(error, HTTPError):
        return (
            f"the connection to {constants.ENDPOINT} failed ({type(error).__name__}). {state}; check the network and "
            "run it again"
        )
    return f"{type(error).__name__}: {' '.join(str(error).split())}. {state}"


def _explain_status(error: HfHubHTTPError, repo_id: str, has_token: bool, state: str) -> str:
    status = error.response.status_code
    said = " ".join((error.server_message or error.response.headers.get("X-Error-Message") or "").split())[:300]
    quoted = f" ({said})" if said else ""
    if status == 401 and not has_token:
        return f"the Hub asks who you are{quoted}; run `hf auth login` with a token that may write, or set HF_TOKEN"
    if status == 401:
        return f"the Hub refuses the token, which is wrong or expired{quoted}; run `hf auth login` with a new one"
    if status == 402:
        return f"the Hub asks for payment{quoted}; see the storage and plan of {repo_id.split('/')[0]} there"
    if status == 403:
        return (
            f"the token may not do this in {repo_id}{quoted}; take one with write permission for it, or propose the "
            "package with --create-pr"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no such revision{quoted}; name one of its branches"
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return (
            f"the Hub does not find {repo_id} or a part of it{quoted}; it may have been removed or renamed meanwhile"
        )
    if status == 409:
        return f"the Hub is busy with another change of {repo_id}{quoted}. {UNTOUCHED}; run it again"
    if status == 412:
        return f"somebody else commits to {repo_id} all the time{quoted}. {UNTOUCHED}; run it again"
    if status == 413:
        return f"the Hub takes no files of this size{quoted}; compress the weights, or ask the Hub for more space"
    if status == 429:
        return f"there were too many requests (429). {UNTOUCHED}; run it again {when_again(error)}"
    if status >= 500:
        return f"the Hub is out of order (it answered {status}){quoted}. {state}; run it again in some minutes"
    return f"the Hub answered {status}{quoted}. {UNTOUCHED}"
