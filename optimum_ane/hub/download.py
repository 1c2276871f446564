"""A package's directory, wherever it is."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from optimum_ane.errors import PackageError


def fetch_package(
    model_id: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | None = None,
    token: str | None = None,
    subfolder: str = "",
    local_files_only: bool = False,
) -> Path:
    """Finds a package in a directory, or downloads it from the Hub into the client's cache.

    Args:
        model_id: A directory or a Hub id.
        revision: Branch, tag or commit on the Hub.
        cache_dir: Where downloads are kept.
        token: Access token.
        subfolder: Folder of the repository or directory that holds the package.
        local_files_only: Do not go to the network.

    Raises:
        PackageError: There is no such directory or repository, or it cannot be reached.
    """
    if Path(model_id).is_dir():
        return Path(model_id) / subfolder
    patterns = [f"{subfolder}/**"] if subfolder else None
    try:
        root = snapshot_download(
            str(model_id),
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=patterns,
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PackageError(f"{model_id} is neither a directory nor a package on the Hub: {reason}") from error
    return Path(root) / subfolder
