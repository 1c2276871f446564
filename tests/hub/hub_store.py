"""Repositories as the Hub keeps them: immutable commits, refs that move atomically, one store of LFS objects."""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import posixpath
import threading
from dataclasses import dataclass, field

# What the Hub writes into a new repository; files that match go by LFS, whatever their size.
_PATTERNS = (
    "*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz *.onnx "
    "*.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors *.tar *.tar.* *.tflite *.tgz *.wasm *.xz *.zip "
    "*.zst *tfevents*"
)
LFS_PATTERNS = tuple(_PATTERNS.split())
REGULAR_LIMIT = 10 * 1024 * 1024
DATE = "2026-01-02T03:04:05.000Z"


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """An answer other than success: HTTP status, the Hub's message, its X-Error-Code."""

    def __init__(self, status, message, code=None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Blob:
    """A file's content, and whether a pointer to it stands in the git tree."""

    data: bytes
    is_lfs: bool = False

    @property
    def sha256(self):
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self):
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return text.encode()

    @property
    def git_oid(self):
        """Git's id of what stands in the tree: the file, or the pointer to it."""
        content = self.pointer if self.is_lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self):
        return self.sha256 if self.is_lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    """A snapshot; never changed once made."""

    oid: str
    parent: str | None
    title: str
    files: dict[str, Blob]


@dataclass
class Repository:
    """Commits by id, and refs (`refs/heads/main`, `refs/pr/1`) to them."""

    repo_id: str
    is_private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision):
        """The commit of a branch, a tag, a pull request or a commit id."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.commits[self.refs[name]]
        if revision in self.commits:
            return self.commits[revision]
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    @property
    def head(self):
        return self.resolve("main")

    def history(self, revision="main"):
        """The commits from the newest to the first."""
        commit = self.resolve(revision)
        while commit is not None:
            yield commit
            commit = self.commits.get(commit.parent)

    def add_commit(self, ref, parent, title, files):
        number = len(self.commits)
        listing = "".join(f"{path} {blob.git_oid}\n" for path, blob in sorted(files.items()))
        oid = hashlib.sha1(f"{self.repo_id} {number} {parent} {title}\n{listing}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, dict(files))
        self.refs[ref] = oid
        return self.commits[oid]


class Store:
    """Everything on the server. Each method is atomic."""

    def __init__(self):
        self.repositories = {}
        self.objects = {}  # LFS content by SHA-256, verified
        self.uploads = {}  # LFS content by SHA-256, not yet verified
        self.lock = threading.RLock()

    def create(self, repo_id, is_private=False):
        with self.lock:
            if repo_id in self.repositories:
                raise Refusal(409, "You already created this model repo")
            repository = self.repositories[repo_id] = Repository(repo_id, is_private)
            attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS)
            first = {".gitattributes": Blob(attributes.encode())}
            repository.add_commit("refs/heads/main", None, "initial commit", first)
            return repository

    def upload_mode(self, repository, revision, path, size):
        """`lfs` for what .gitattributes names and what is over the limit; as on the Hub."""
        attributes = repository.resolve(revision).files.get(".gitattributes", Blob(b"")).data.decode()
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
        name = posixpath.basename(path)
        is_lfs = any(fnmatch.fnmatch(path if "/" in pattern else name, pattern) for pattern in patterns)
        return "lfs" if is_lfs or size > REGULAR_LIMIT else "regular"

    def commit(self, repository, revision, operations, title, parent_commit=None, create_pr=False):
        """Makes one commit of `(kind, path, content)` operations and moves the ref, or does nothing at all.

        Returns:
            The commit, and the number of the pull request or None.
        """
        with self.lock:
            head = repository.resolve(revision)
            if parent_commit and create_pr:
                head = repository.resolve(parent_commit)
            elif parent_commit and not head.oid.startswith(parent_commit):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            for kind, path, content in operations:
                self._apply(files, kind, path, content)
            if create_pr:
                number = next(n for n in itertools.count(1) if f"refs/pr/{n}" not in repository.refs)
                return repository.add_commit(f"refs/pr/{number}", head.oid, title, files), number
            ref = revision if revision in repository.refs else f"refs/heads/{revision}"
            if ref not in repository.refs:
                raise Refusal(400, f"{revision} is no branch: commits go to branches only")
            return repository.add_commit(ref, head.oid, title, files), None

    def _apply(self, files, kind, path, content):
        if kind == "file":
            files[path] = Blob(content)
        elif kind == "lfsFile":
            if content not in self.objects:
                raise Refusal(400, f"Your push was rejected because an LFS pointer pointed to a file that does not "
                              f"exist: {path}")  # fmt: skip
            files[path] = Blob(self.objects[content], is_lfs=True)
            if len(files[path].data) > REGULAR_LIMIT and not any(fnmatch.fnmatch(path, p) for p in LFS_PATTERNS):
                line = f"{path} filter=lfs diff=lfs merge=lfs -text\n".encode()
                attributes = files.get(".gitattributes", Blob(b"")).data
                files[".gitattributes"] = Blob(attributes if line in attributes else attributes + line)
        elif kind == "deletedFile":
            if files.pop(path, None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        elif kind == "deletedFolder":
            below = [name for name in files if name.startswith(path.rstrip("/") + "/")]
            for name in below:
                del files[name]
            if not below:
                raise Refusal(404, "A folder with this name doesn't exist", "EntryNotFound")
        else:
            raise Refusal(400, f"unknown operation {kind}")


def list_tree(commit, folder="", is_recursive=False, is_expanded=False):
    """The entries of a commit as `/tree` gives them, folders included."""
    prefix = f"{folder}/" if folder else ""
    below = {path: blob for path, blob in commit.files.items() if path.startswith(prefix)}
    if folder and not below:
        raise Refusal(404, f"{folder} does not exist on {commit.oid}", "EntryNotFound")
    entries = {}
    for path, blob in below.items():
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts)):
            name = prefix + "/".join(parts[:depth])
            content = "".join(p + b.git_oid for p, b in sorted(below.items()) if p.startswith(name + "/"))
            oid = hashlib.sha1(content.encode()).hexdigest()
            if is_recursive or depth == 1:
                entries[name] = {"type": "directory", "oid": oid, "size": 0, "path": name}
        if is_recursive or len(parts) == 1:
            entries[path] = describe_file(path, blob)
    if is_expanded:
        for entry in entries.values():
            entry["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": DATE}
    return [entries[name] for name in sorted(entries)]


def describe_file(path, blob):
    entry = {"type": "file", "oid": blob.git_oid, "size": len(blob.data), "path": path}
    if blob.is_lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
    return entry
