"""The HTTP of the loopback Hub, one request at a time; `hub_server.py` holds what stands behind it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit

from hub_store import DATE, Blob, Refusal, describe_file, list_tree
from hub_validation import read_metadata, validate_card

if TYPE_CHECKING:
    from hub_server import HubServer

_CHUNK = 64 * 1024


@dataclass
class Request:
    """One request, as it was answered."""

    method: str
    path: str
    received: int = 0
    sent: int = 0
    status: int | None = None
    token: str | None = None
    body: bytes = b""


class CutError(Exception):
    """The connection is to be closed without an answer."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_):
        """The requests are recorded instead."""

    def _handle(self):
        self.query = parse_qs(urlsplit(self.path).query)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.request_log = Request(self.command, self.path, token=token)
        self.hub.requests.append(self.request_log)
        try:
            self.body = self._read_body()
            if "/lfs-" not in self.path:
                self.request_log.body = self.body
            for callback in self.hub.take_callbacks(self.command, self.path):
                callback()
            if (fault := self._fault("fail")) is not None:
                refusal = Refusal(fault.options["status"], fault.options["message"], fault.options["code"])
                self._refuse(refusal, fault.options["headers"])
                return
            self._answer()
        except Refusal as refusal:
            self._refuse(refusal)
        except (CutError, ConnectionError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _fault(self, *kinds):
        return self.hub.take_fault(kinds, self.command, self.path)

    def _read_body(self):
        # A fault that stops amid the body must know of it before the body is read.
        fault = self._fault("cut", "during")
        body, is_met = bytearray(), fault is None
        for piece in self._pieces():
            body += piece
            self.request_log.received += len(piece)
            if not is_met and len(body) >= fault.options["after_bytes"]:
                is_met = True
                if fault.kind == "cut":
                    raise CutError
                fault.options["callback"]()
        return bytes(body)

    def _pieces(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while (size := int(self.rfile.readline().split(b";")[0] or b"0", 16)) > 0:
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            piece = self.rfile.read(min(left, _CHUNK))
            if not piece:
                raise CutError
            left -= len(piece)
            yield piece

    def _refuse(self, refusal, headers=None):
        headers = dict(headers or {}) | {"X-Error-Message": refusal.message.splitlines()[0]}
        if refusal.code:
            headers["X-Error-Code"] = refusal.code
        self._send(refusal.status, {"error": refusal.message}, headers)

    def _send(self, status, content=b"", headers=None):
        if self._fault("lose") is not None:
            raise CutError
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json"} | (headers or {})
        self.request_log.status = status
        self.send_response(status)
        if self.hub.echoes_token and status >= 400:
            headers, content = self._echo(headers or {})
        if self.hub.echoes_token:
            # The client shows the first warning of each topic.
            self.send_header("X-HF-Warning", f"{self.path}; you sent {self.headers.get('Authorization')}")
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        fault = self._fault("cut answer")
        content = content if fault is None else content[: fault.options["after_bytes"]]
        self.wfile.write(content)
        self.request_log.sent = len(content)
        if fault is not None:
            raise CutError

    def _echo(self, headers):
        """An error that quotes the request, as a careless proxy's does, in each place that the client shows."""
        sent = f"you sent Authorization: {self.headers.get('Authorization')}"
        content = json.dumps({"error": sent, "errors": [{"message": sent}]}).encode()
        return headers | {"X-Error-Message": sent, "X-Request-Id": sent, "Content-Type": "application/json"}, content

    # Routes. Parts of the path stay quoted until they are split: a branch may hold a slash.

    def _answer(self):
        parts = urlsplit(self.path).path.strip("/").split("/")
        match parts:
            case ["api", "whoami-v2"]:
                self._whoami()
            case ["api", "repos", "create"]:
                self._create()
            case ["api", "validate-yaml"]:
                self._validate()
            case ["api", "models", owner, name]:
                self._info(f"{owner}/{name}", "main")
            case ["api", "models", owner, name, "refs"]:
                self._refs(f"{owner}/{name}")
            case ["api", "models", owner, name, action, revision, *rest]:
                actions = {
                    "revision": self._info,
                    "tree": self._tree,
                    "preupload": self._preupload,
                    "commit": self._commit,
                    "branch": self._branch,
                    "paths-info": self._paths_info,
                }
                if action not in actions:
                    raise Refusal(404, f"no such route: {self.path}")
                actions[action](f"{owner}/{name}", unquote(revision), *map(unquote, rest))
            case [owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                self._batch(f"{owner}/{name.removesuffix('.git')}")
            case ["lfs-put", oid]:
                self.hub.store.uploads[oid] = self.body
                self._send(200)
            case ["lfs-part", oid, number]:
                self.hub._parts[oid, int(number)] = self.body
                self._send(200, headers={"ETag": f'"{oid[:8]}-{number}"'})
            case ["lfs-complete", oid]:
                numbers = [part["partNumber"] for part in self._json()["parts"]]
                self.hub.store.uploads[oid] = b"".join(self.hub._parts.pop((oid, number)) for number in numbers)
                self._send(200, {"success": True})
            case ["lfs-verify", oid]:
                self._verify(oid)
            case [owner, name, "resolve", revision, *path]:
                self._resolve(f"{owner}/{name}", unquote(revision), "/".join(map(unquote, path)))
            case _:
                raise Refusal(404, f"no such route: {self.path}")

    def _json(self):
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Refusal(400, f"the body is no JSON: {error}") from error

    @property
    def _token(self):
        return self.request_log.token

    def _whoami(self):
        user = self.hub.user_of(self._token)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        orgs = [{"name": name, "type": "org"} for name in self.hub.namespaces[1:]]
        token = {"displayName": "loopback", "role": user}
        self._send(200, {"type": "user", "name": "tester", "orgs": orgs, "auth": {"accessToken": token}})

    def _create(self):
        wanted = self._json()
        owner = wanted.get("organization") or "tester"
        repo_id = f"{owner}/{wanted['name']}"
        user = self.hub.user_of(self._token)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user == "read" or owner not in self.hub.namespaces:
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        url = f"{self.hub.url}/{repo_id}"
        try:
            self.hub.create(repo_id, wanted.get("visibility") == "private" or bool(wanted.get("private")))
        except Refusal as refusal:
            self._send(refusal.status, {"error": refusal.message, "url": url})
            return
        self._send(200, {"url": url, "name": repo_id, "id": repo_id})

    def _validate(self):
        errors, warnings = validate_card(self._json()["content"])
        if errors and self.headers.get("Accept") == "text/plain":
            self._send(400, "\n".join(errors).encode(), {"Content-Type": "text/plain"})
            return
        answer = {name: [{"message": m} for m in ms] for name, ms in (("errors", errors), ("warnings", warnings))}
        self._send(400 if errors else 200, answer)

    def _info(self, repo_id, revision):
        repository = self.hub.visible(repo_id, self._token)
        commit = repository.resolve(revision)
        card = commit.files.get("README.md", Blob(b"")).data.decode(errors="replace")
        self._send(200, {
            "id": repo_id, "modelId": repo_id, "author": repo_id.split("/")[0], "sha": commit.oid,
            "private": repository.is_private, "gated": False, "disabled": False, "downloads": 0, "likes": 0,
            "tags": [], "createdAt": DATE, "lastModified": DATE, "cardData": read_metadata(card),
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }, {"X-Repo-Commit": commit.oid})  # fmt: skip

    def _refs(self, repo_id):
        refs = self.hub.visible(repo_id, self._token).refs
        listing = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}
        answer = {
            kind: [
                {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
                for ref, oid in refs.items()
                if ref.startswith(prefix)
            ]
            for kind, prefix in listing.items()
        }
        self._send(200, answer | {"converts": []})

    def _branch(self, repo_id, branch):
        repository = self.hub.writable(repo_id, self._token)
        with self.hub.store.lock:
            if f"refs/heads/{branch}" in repository.refs:
                raise Refusal(409, f"Reference already exists: refs/heads/{branch}")
            start = repository.resolve(self._json().get("startingPoint") or "main")
            repository.refs[f"refs/heads/{branch}"] = start.oid
        self._send(201)

    def _tree(self, repo_id, revision, *folder):
        commit = self.hub.visible(repo_id, self._token).resolve(revision)
        is_recursive, is_expanded = (self.query.get(name) == ["true"] for name in ("recursive", "expand"))
        entries = list_tree(commit, "/".join(folder), is_recursive, is_expanded)
        start, size = int(self.query.get("cursor", ["0"])[0]), self.hub.page_size
        headers = {"X-Repo-Commit": commit.oid}
        if start + size < len(entries):
            page = f"{self.hub.url}{self.path.split('?')[0]}?recursive={str(is_recursive).lower()}"
            headers["Link"] = f'<{page}&expand={str(is_expanded).lower()}&cursor={start + size}>; rel="next"'
        self._send(200, entries[start : start + size], headers)

    def _paths_info(self, repo_id, revision):
        commit = self.hub.visible(repo_id, self._token).resolve(revision)
        form = parse_qs(self.body.decode())
        entries = {entry["path"]: entry for entry in list_tree(commit, is_recursive=True)}
        self._send(200, [entries[path] for path in form.get("paths", []) if path in entries])

    def _preupload(self, repo_id, revision):
        if "create_pr" in self.query:
            repository = self.hub.visible(repo_id, self._token)
        else:
            repository = self.hub.writable(repo_id, self._token)
        files = repository.resolve(revision).files
        answers = []
        for file in self._json()["files"]:
            mode = self.hub.store.upload_mode(repository, revision, file["path"], file["size"])
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
            if file["path"] in files:
                answers[-1]["oid"] = files[file["path"]].etag
        self._send(200, {"files": answers})

    def _batch(self, repo_id):
        self.hub.visible(repo_id, self._token)
        objects = []
        for wanted in self._json()["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer = {"oid": oid, "size": size}
            if oid not in self.hub.store.objects:
                upload = {"href": f"{self.hub.url}/lfs-put/{oid}"}
                if self.hub.multipart_above is not None and size > self.hub.multipart_above:
                    chunk = self.hub.multipart_above
                    parts = {f"{n + 1:05}": f"{self.hub.url}/lfs-part/{oid}/{n + 1}" for n in range(-(-size // chunk))}
                    header = {"chunk_size": str(chunk)} | parts
                    upload = {"href": f"{self.hub.url}/lfs-complete/{oid}", "header": header}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs-verify/{oid}"}}
            objects.append(answer)
        transfer = "basic" if self.hub.multipart_above is None else "multipart"
        self._send(200, {"transfer": transfer, "objects": objects})

    def _verify(self, oid):
        store = self.hub.store
        data = store.uploads.pop(oid, None)
        if data is None or Blob(data).sha256 != oid or len(data) != self._json()["size"]:
            raise Refusal(422, f"object {oid} was not uploaded whole")
        store.objects[oid] = data
        self._send(200)

    def _commit(self, repo_id, revision):
        create_pr = "create_pr" in self.query
        repository = (self.hub.visible if create_pr else self.hub.writable)(repo_id, self._token)
        header, operations = {}, []
        for line in self.body.splitlines():
            item = json.loads(line)
            kind, value = item["key"], item["value"]
            if kind == "header":
                header = value
            elif kind == "file":
                operations.append((kind, value["path"], base64.b64decode(value["content"])))
            else:
                operations.append((kind, value["path"], value.get("oid")))
        for kind, path, content in operations:
            errors = validate_card(content.decode())[0] if (kind, path) == ("file", "README.md") else []
            if errors:
                raise Refusal(400, "\n".join(errors))
        commit, number = self.hub.store.commit(
            repository, revision, operations, header["summary"], header.get("parentCommit"), create_pr
        )
        answer = {"success": True, "commitOid": commit.oid, "hookOutput": ""}
        answer["commitUrl"] = f"{self.hub.url}/{repo_id}/commit/{commit.oid}"
        if number is not None:
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/{number}"
        self._send(200, answer)

    def _resolve(self, repo_id, revision, path):
        commit = self.hub.visible(repo_id, self._token).resolve(revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        blob = commit.files.get(path)
        if blob is None:
            missing = Refusal(404, f"Entry not found: {quote(path)}", "EntryNotFound")
            self._refuse(missing, headers)
            return
        headers["ETag"] = f'"{blob.etag}"'
        if blob.is_lfs:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(describe_file(path, blob)["size"])}
        wanted = self.headers.get("Range")
        if wanted is None:
            self._send(200, blob.data, headers)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        end = min(int(last) + 1 if last else len(blob.data), len(blob.data))
        if int(first) >= end:
            raise Refusal(416, f"range {wanted} of {len(blob.data)} bytes")
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(blob.data)}"
        self._send(206, blob.data[int(first) : end], headers)
