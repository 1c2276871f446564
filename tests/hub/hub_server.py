"""A loopback Hub: the HTTP that huggingface_hub speaks (xet off), with a memory of each request and faults on demand.

    with HubServer() as server:
        server.url                                  # http://127.0.0.1:<port>, for HF_ENDPOINT or `endpoint=`
        server.token                                # a token that may write to `org/…` and `tester/…`
        server.read_token                           # one that may only read
        server.create("org/name", is_private=True)  # or let the client do it
        server.put("org/name", {"a.txt": b"…"})     # a commit by somebody else; None deletes
        server.files("org/name", "main")            # {path: bytes}
        server.head("org/name")                     # commit id
        server.repository("org/name").history()     # commits, newest first

        server.requests                             # each Request: method, path, received, sent, status
        server.count("POST", "/commit/")            # how many there were
        server.bodies("/preupload/")                # what they brought
        server.forget()                             # forgets requests and faults

Faults go by a part of the path (with its query), are used `times` times, and stand until `forget`:

        server.fail("/commit/", status=500)                      # refused before anything is done
        server.fail("/lfs-put/", status=429, headers={"Retry-After": "1"}, times=1)
        server.lose("/commit/")                                  # done, but the answer never arrives
        server.cut("/lfs-put/", after_bytes=1 << 20)             # the connection closes amid the request's body
        server.cut("/resolve/", after_bytes=100, answer=True)    # … amid the answer's
        server.before("/commit/", lambda: server.put(…))         # a lost race
        server.during("/lfs-put/", 1 << 20, callback)            # amid an upload, in the server's thread
        server.expire()                                          # the token is not valid any more
        server.break_file("org/name", "a.bin", b"…")             # what is served differs from what was committed
        server.echoes_token = True                               # errors and warnings quote the Authorization header
        server.multipart_above = 5 << 20                         # larger LFS files go in parts

Uploads go to `/lfs-put/<sha256>`, parts to `/lfs-part/<sha256>/<n>`. An object that was uploaded and verified stays
known even where the commit never came, as on the Hub: a rerun does not send it again.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer

from hub_http import Handler
from hub_store import Blob, Refusal, Store


@dataclass
class Fault:
    """What befalls requests whose path contains a text."""

    path_contains: str
    method: str | None = None
    times: int | None = None
    kind: str = "fail"
    options: dict = field(default_factory=dict)

    def fits(self, method, path):
        return self.times != 0 and self.path_contains in path and self.method in (None, method)


class HubServer:
    """See the module's docstring."""

    def __init__(self):
        self.token, self.read_token = "hf_loopbackWriteTokenDoNotPrint", "hf_loopbackReadTokenDoNotPrint"
        self.namespaces = ("tester", "org")
        self.multipart_above = None
        self.echoes_token = False
        self.page_size = 1000
        self.store = Store()
        self.requests = []
        self._faults = []
        self._lock = threading.Lock()
        self._expired = False
        self._parts = {}
        handler = type("Handler", (Handler,), {"hub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    # What stands on the Hub.

    def create(self, repo_id, is_private=False):
        return self.store.create(repo_id, is_private)

    def repository(self, repo_id):
        return self.store.repositories[repo_id]

    def head(self, repo_id, revision="main"):
        return self.repository(repo_id).resolve(revision).oid

    def files(self, repo_id, revision="main"):
        return {path: blob.data for path, blob in self.repository(repo_id).resolve(revision).files.items()}

    def put(self, repo_id, files, revision="main", title="by somebody else"):
        """Commits files as somebody else would; a content of None deletes."""
        operations = [("deletedFile" if data is None else "file", path, data) for path, data in files.items()]
        return self.store.commit(self.repository(repo_id), revision, operations, title)[0].oid

    def break_file(self, repo_id, path, data, revision="main"):
        """From now on serves other bytes for a file, of which the listing knows nothing."""
        commit = self.repository(repo_id).resolve(revision)
        commit.files[path] = _BrokenBlob(commit.files[path], data)

    # What happens on the way.

    def fail(self, path_contains, *, status, method=None, headers=None, message="injected", code=None, times=None):
        options = {"status": status, "headers": headers or {}, "message": message, "code": code}
        self._faults.append(Fault(path_contains, method, times, "fail", options))

    def lose(self, path_contains, *, method=None, times=1):
        self._faults.append(Fault(path_contains, method, times, "lose"))

    def cut(self, path_contains, *, after_bytes, answer=False, method=None, times=1):
        options = {"after_bytes": after_bytes}
        self._faults.append(Fault(path_contains, method, times, "cut answer" if answer else "cut", options))

    def before(self, path_contains, callback, *, method=None, times=1):
        self._faults.append(Fault(path_contains, method, times, "before", {"callback": callback}))

    def during(self, path_contains, after_bytes, callback, *, method=None, times=1):
        options = {"after_bytes": after_bytes, "callback": callback}
        self._faults.append(Fault(path_contains, method, times, "during", options))

    def expire(self, is_expired=True):
        self._expired = is_expired

    def forget(self):
        with self._lock:
            self.requests.clear()
            self._faults.clear()
            self._expired = False
            self.multipart_above = None
            self.echoes_token = False

    def count(self, method=None, path_contains=""):
        return sum(method in (None, r.method) and path_contains in r.path for r in list(self.requests))

    def counts(self):
        """Number of requests by method."""
        return dict(Counter(request.method for request in list(self.requests)))

    def bodies(self, path_contains):
        """What requests brought, LFS content apart."""
        return [request.body for request in list(self.requests) if path_contains in request.path]

    def take_fault(self, kinds, method, path):
        """The first fault of these kinds that fits, used up by one."""
        with self._lock:
            for fault in self._faults:
                if fault.kind in kinds and fault.fits(method, path):
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def take_callbacks(self, method, path):
        """What is to be called before a request is answered, each used up by one."""
        with self._lock:
            faults = [f for f in self._faults if f.kind == "before" and f.fits(method, path)]
            for fault in faults:
                fault.times = None if fault.times is None else fault.times - 1
        return [fault.options["callback"] for fault in faults]

    # Who asks.

    def user_of(self, token):
        """`write`, `read` or None; raises for a token that is not valid."""
        if token is None:
            return None
        if self._expired:
            raise Refusal(401, 'User Access Token "loopback" is expired')
        if token not in (self.token, self.read_token):
            raise Refusal(401, "Invalid credentials in Authorization header")
        return "write" if token == self.token else "read"

    def visible(self, repo_id, token):
        user, repository = self.user_of(token), self.store.repositories.get(repo_id)
        may = user is not None and repo_id.split("/")[0] in self.namespaces
        if repository is None or (repository.is_private and not may):
            raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return repository

    def writable(self, repo_id, token):
        repository = self.visible(repo_id, token)
        if self.user_of(token) is None:
            raise Refusal(401, "Invalid username or password.")
        if self.user_of(token) == "read" or repo_id.split("/")[0] not in self.namespaces:
            raise Refusal(403, f"You don't have the rights to write to {repo_id}")
        return repository


class _BrokenBlob(Blob):
    """Serves other data than what its ids say."""

    def __init__(self, real, data):
        super().__init__(data, real.is_lfs)
        object.__setattr__(self, "real", real)

    sha256 = property(lambda self: self.real.sha256)
    git_oid = property(lambda self: self.real.git_oid)
