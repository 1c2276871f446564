"""One publication on its way: look, plan, check, create, send, read back."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from urllib.parse import quote

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError

from optimum_ane.errors import PackageError, PublishError
from optimum_ane.hub.contents import LocalFile, LocalPackage
from optimum_ane.hub.page import Page, PageRequest, compose
from optimum_ane.hub.plan import Plan, make_plan
from optimum_ane.hub.publish_errors import UNCERTAIN, UNCERTAIN_PULL, HubUnreachableError, explained
from optimum_ane.hub.remote import DEFAULT_BRANCH, Remote, list_files, look
from optimum_ane.hub.repository_packages import fetch_manifest
from optimum_ane.package.file_names import show_all
from optimum_ane.package.layout import ANE_CONFIG, CARD
from optimum_ane.package.manifest import Manifest
from optimum_ane.screen import say

_TRIES = 3
"""How often a publication is planned before others' commits in between are an error."""
_NOTHING_IGNORED = "# the files are named one by one\n"


@dataclass(frozen=True)
class Publication:
    """What came of a publication.

    Attributes:
        repo_id: Owner and name.
        url: Of the package on the Hub, or of the pull request.
        branch: The branch, or the pull request's revision, `refs/pr/1` for instance.
        commit: The commit that holds the package; None in a dry run that would make one.
        plan: What was changed, or would be in a dry run.
        is_new_repository: Whether the repository was created, or would be.
        is_new_branch: Whether the branch was created, or would be.
        is_committed: Whether there is a new commit; if not, everything was there already or it was a dry run.
        compared_bytes: Size of the files whose hashes were read back from the Hub and compared.
        left_out: What lies in the package's directory and was not published.
        warnings: What the user should know.
        is_compared: Whether the plan was made by what the Hub holds. A dry run without network cannot ask, and takes
            the repository for one that holds nothing.
    """

    repo_id: str
    url: str
    branch: str
    commit: str | None
    plan: Plan
    is_new_repository: bool
    is_new_branch: bool
    is_committed: bool
    compared_bytes: int
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]
    is_compared: bool = True


@dataclass(frozen=True)
class _Survey:
    """What stands on the Hub, and what is to be done about it."""

    remote: Remote
    page: Page
    files: tuple[LocalFile, ...]
    plan: Plan


@dataclass(frozen=True)
class Publisher:
    """One publication; see `publish`.

    Attributes:
        api: The client, with the token.
        package: What is published.
        repo_id: Owner and name.
        folder: Of the repository; empty for the root.
        branch: Where the commit goes, or what a pull request is for.
        private: Whether a new repository is private; None leaves it to the Hub.
        create_pr: Whether to open a pull request.
        request: What the user wants of the front page.
    """

    api: HfApi
    package: LocalPackage
    repo_id: str
    folder: str
    branch: str
    private: bool | None
    create_pr: bool
    request: PageRequest

    @property
    def token(self) -> str | None:
        """As it was given."""
        return self.api.token if isinstance(self.api.token, str) else None

    def run(self, dry_run: bool, message: str) -> Publication:
        """Plans, and unless it is a dry run or there is nothing to do, sends.

        A dry run goes on without the Hub where that does not answer.
        """
        try:
            survey = self._survey()
        except HubUnreachableError as error:
            if not dry_run:
                raise
            return self._report_without_hub(str(error))
        before = survey.remote
        if self.create_pr and not survey.remote.has_branch:
            raise PublishError(f"{self.repo_id} has no branch {self.branch} to propose changes for; drop --create-pr")
        if dry_run or (survey.plan.is_empty and survey.remote.has_branch):
            return self._report(survey, before, before.head if survey.plan.is_empty else None)
        self._check_card(survey)
        if not survey.remote.has_branch:
            self._create(survey.remote)
            survey = self._survey()
            if not survey.remote.has_branch:
                raise PublishError(
                    f"{self.repo_id} was created, or is there already, but the Hub does not show its {self.branch} to "
                    "this token. Nothing was published; run it again in some minutes, or take a token that may read it"
                )
        for tries in range(_TRIES):
            if survey.plan.is_empty:
                break
            commit = self._send(survey, message, is_last=tries == _TRIES - 1)
            if commit is not None:
                compared = self._compare(survey, commit)
                return self._report(survey, before, commit.oid, compared, commit)
            say(f"somebody else committed to {self.repo_id} meanwhile; planning anew", file=sys.stderr)
            survey = self._survey()
        return self._report(survey, before, survey.remote.head)

    def _survey(self) -> _Survey:
        say(f"looking at {self.repo_id}", file=sys.stderr)
        with explained(f"looking at {self.repo_id}", self.repo_id, self.token):
            remote = look(self.api, self.repo_id, self.branch)
            if self.private and remote.head is not None and not remote.is_private:
                raise PublishError(
                    f"{self.repo_id} exists and is public; make it private in its settings, or drop --private"
                )
            page = compose(self.package, remote, self.folder, self.request)
            old_manifest = self._old_manifest(remote)
        return self._planned(remote, page, old_manifest)

    def _planned(self, remote: Remote, page: Page, old_manifest: Manifest | None) -> _Survey:
        prefix = f"{self.folder}/" if self.folder else ""
        listed = self.package.manifest.files
        files = tuple(
            LocalFile(f"{prefix}{name}", source, listed.get(name)) for name, source in self.package.files.items()
        )
        files += page.files
        return _Survey(remote, page, files, make_plan(files, remote, self.folder, self.package.manifest, old_manifest))

    def _old_manifest(self, remote: Remote) -> Manifest | None:
        """What the package that stands there now says; None if it is this one, or if that cannot be read."""
        path = f"{self.folder}/{ANE_CONFIG}" if self.folder else ANE_CONFIG
        present = remote.files.get(path)
        if present is None or present.is_same(LocalFile(path, self.package.files[ANE_CONFIG])):
            return None
        try:
            return fetch_manifest(remote, self.folder)
        except PackageError:
            return None

    def _check_card(self, survey: _Survey) -> None:
        """Has the Hub validate the card before anything is sent."""
        if survey.page.card is None or CARD not in survey.plan.sent_paths:
            return
        with explained("checking the card", self.repo_id, self.token):
            try:
                ModelCard(survey.page.card).validate()
            except ValueError as error:
                if isinstance(error, HfHubHTTPError):
                    raise
                raise PublishError(
                    f"the Hub refuses the metadata of the card: {error}; correct it with --license, or in the "
                    f"package's {CARD} or the template"
                ) from error

    def _create(self, remote: Remote) -> None:
        if remote.head is None:
            say(f"creating {self.repo_id}", file=sys.stderr)
            with explained(f"creating {self.repo_id}", self.repo_id, self.token):
                self.api.create_repo(self.repo_id, private=self.private, exist_ok=True)
        if self.branch != DEFAULT_BRANCH:
            with explained(f"creating the branch {self.branch}", self.repo_id, self.token):
                self.api.create_branch(self.repo_id, branch=self.branch, revision=remote.head, exist_ok=True)

    def _send(self, survey: _Survey, message: str, is_last: bool) -> CommitInfo | None:
        """Uploads and commits; None if somebody else committed in between."""
        plan, paths = survey.plan, survey.plan.sent_paths
        additions = []
        for file in survey.files:
            if file.path in paths:
                source = file.source if isinstance(file.source, bytes) else str(file.source)
                additions.append(CommitOperationAdd(file.path, source))
                file.check(additions[-1].upload_info.sha256.hex())  # what the client is about to send
        deletions = [CommitOperationDelete(change.path, is_folder=False) for change in plan.removed]
        say(f"sending {len(additions)} files, {plan.sent_bytes / 1e6:.1f} MB", file=sys.stderr)
        with explained("uploading", self.repo_id, self.token):
            # Apart from the commit, so that an error tells which of the two it was. A .gitignore of the repository
            # would make the client leave out files without a word.
            self.api.preupload_lfs_files(
                self.repo_id,
                additions,
                revision=self.branch,
                create_pr=self.create_pr,
                free_memory=False,
                gitignore_content=_NOTHING_IGNORED,
            )
        say("committing", file=sys.stderr)
        state = f"{UNCERTAIN_PULL} {self.api.endpoint}/{self.repo_id}/discussions" if self.create_pr else UNCERTAIN
        with explained("committing", self.repo_id, self.token, state):
            try:
                return self.api.create_commit(
                    self.repo_id,
                    [*additions, *deletions],
                    commit_message=message,
                    revision=self.branch,
                    create_pr=self.create_pr,
                    parent_commit=survey.remote.head,
                )
            except HfHubHTTPError as error:
                if error.response.status_code == 412 and not is_last:
                    return None
                raise

    def _compare(self, survey: _Survey, commit: CommitInfo) -> int:
        """Reads back the hashes of what the commit holds; returns the bytes that they stand for."""
        say("reading back", file=sys.stderr)
        with explained(
            f"published as {commit.oid}, but reading it back failed", self.repo_id, self.token, "It is there"
        ):
            listed = list_files(self.api, self.repo_id, commit.oid)
        wrong = [file.path for file in survey.files if file.path not in listed or not listed[file.path].is_same(file)]
        wrong += [change.path for change in survey.plan.removed if change.path in listed]
        if wrong:
            raise PublishError(
                f"{self.repo_id} at {commit.oid} does not hold what was sent: {show_all(wrong)}; publish again"
            )
        return sum(file.size for file in survey.files)

    def _report_without_hub(self, reason: str) -> Publication:
        """Reports what would be sent to a repository that holds nothing yet."""
        remote = Remote(self.api, self.repo_id, self.branch)
        survey = self._planned(remote, compose(self.package, remote, self.folder, self.request), None)
        report = self._report(survey, remote, None)
        warning = f"{reason}; this dry run goes on as if {self.repo_id} held nothing yet"
        return replace(
            report,
            is_new_repository=False,
            is_new_branch=False,
            is_compared=False,
            warnings=(*report.warnings, warning),
        )

    def _report(
        self, survey: _Survey, before: Remote, commit: str | None, compared: int = 0, info: CommitInfo | None = None
    ) -> Publication:
        branch, url = self.branch, f"{self.api.endpoint}/{self.repo_id}"
        if self.folder or branch != DEFAULT_BRANCH:
            url = f"{url}/tree/{quote(branch, safe='')}/{quote(self.folder)}".rstrip("/")
        if info is not None and info.pr_url is not None and info.pr_revision is not None:
            branch, url = info.pr_revision, info.pr_url
        warnings = (*self.package.warnings, *survey.page.warnings)
        return Publication(
            repo_id=self.repo_id,
            url=url,
            branch=branch,
            commit=commit,
            plan=survey.plan,
            is_new_repository=before.head is None,
            is_new_branch=not before.has_branch and self.branch != DEFAULT_BRANCH,
            is_committed=info is not None,
            compared_bytes=compared,
            left_out=self.package.left_out,
            warnings=warnings,
        )
