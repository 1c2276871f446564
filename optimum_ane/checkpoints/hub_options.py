"""How to reach the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optimum_ane.access_tokens import check_token
from optimum_ane.errors import CheckpointError


@dataclass(frozen=True)
class HubOptions:
    """How to reach the Hugging Face Hub.

    Attributes:
        revision: Branch, tag or commit; None is the default branch.
        cache_dir: Where downloads are kept; None is the Hub client's own cache.
        token: Access token; None uses the one that `hf auth login` stored. Never printed.
        trust_remote_code: Whether Python code of the repository may be run.
    """

    revision: str | None = None
    cache_dir: str | None = None
    token: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Refuses a token that no request can bear.

        Raises:
            CheckpointError: See `check_token`.
        """
        check_token(self.token, CheckpointError)

    def __repr__(self) -> str:
        token = None if self.token is None else "***"
        return f"HubOptions({self.revision!r}, {self.cache_dir!r}, token={token}, {self.trust_remote_code})"

    def as_arguments(self) -> dict[str, Any]:
        """The same under the names of transformers' `from_pretrained`."""
        return {
            "revision": self.revision or "main",
            "cache_dir": self.cache_dir,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }
