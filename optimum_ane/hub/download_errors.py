"""Why the Hub did not give a package, in one line with the remedy; never a token, never the server's own text."""

from __future__ import annotations

import errno

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from optimum_ane.errors import PackageError


def explain(error: Exception, repo_id: str, revision: str | None, token: str | None, is_offline: bool) -> PackageError:
    """Turns what the Hub client raised while loading into an error with a remedy.

    Args:
        error: What was raised.
        repo_id: The repository.
        revision: As it was asked for.
        token: As it was given; only whether there is one matters.
        is_offline: Whether requests were forbidden from the start.
    """
    if isinstance(error, HFValidationError):
        return PackageError(f"{repo_id!r} is neither a directory nor a Hub id, which is like org/name; check it")
    if isinstance(error, LocalEntryNotFoundError | RevisionResolutionError):
        if is_offline:
            return PackageError(
                f"{repo_id} is not in the Hub's cache as a whole, and the network is switched off; load it once "
                "without local_files_only=True or HF_HUB_OFFLINE=1, or give a directory"
            )
        # The client looked into the cache because it was refused, or could not connect.
        if isinstance(error.__cause__, HfHubHTTPError):
            return explain(error.__cause__, repo_id, revision, token, is_offline)
        return _unreachable(error.__cause__ or error, repo_id)
    if isinstance(error, HfHubHTTPError):
        return PackageError(_refused(error, repo_id, revision, token))
    if isinstance(error, OSError) and error.errno is not None:
        remedy = "free some space" if error.errno == errno.ENOSPC else "choose another cache_dir"
        return PackageError(f"{repo_id}: the Hub's cache cannot be written ({error.strerror}); {remedy}")
    return _unreachable(error, repo_id)


def _unreachable(error: BaseException, repo_id: str) -> PackageError:
    return PackageError(
        f"{repo_id}: there is no such directory, the Hub at {constants.ENDPOINT} cannot be reached "
        f"({type(error).__name__}), and the cache does not hold all of it; check the network and load it again"
    )


def _refused(error: HfHubHTTPError, repo_id: str, revision: str | None, token: str | None) -> str:
    status, page = error.response.status_code, f"{constants.ENDPOINT}/{repo_id}"
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated; ask for access at {page}, then run `hf auth login` with that account"
    if isinstance(error, DisabledRepoError):
        return f"{repo_id} was disabled on the Hub; see {page}"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision or 'main'!r}; name one of its branches, tags or commits"
    if isinstance(error, RepositoryNotFoundError):
        if token or get_token():
            remedy = "check the name, and whether the token's account may read it"
        else:
            remedy = "check the name; for a private one run `hf auth login`, or pass token="
        return f"there is no directory {repo_id}, and the Hub has no such repository or keeps it private; {remedy}"
    if status == 401:
        return f"{repo_id}: the Hub refuses the token, it is wrong or expired; run `hf auth login` again"
    if status == 403:
        return f"{repo_id}: the token may not read this repository; give it that permission, or take another token"
    if status == 429:
        return f"{repo_id}: too many requests to the Hub (429); load it again {when_again(error)}"
    if status >= 500:
        return f"{repo_id}: the Hub is out of order (it answered {status}); load it again in some minutes"
    return f"{repo_id}: the Hub refused the request (it answered {status}); check the name and the revision"


def when_again(error: HfHubHTTPError) -> str:
    """When the Hub is to be asked again after too many requests, as far as it says."""
    wait = error.response.headers.get("Retry-After", "")
    return f"in {wait} seconds" if wait.isdecimal() else "in some minutes"
