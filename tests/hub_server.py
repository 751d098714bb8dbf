"""A model hub on the loopback interface: as much of the Hub's HTTP interface as huggingface_hub needs for models.

    with HubServer() as hub:
        hub.add("user/model", {"config.json": b"{}"})
        ...  # in another process, with `hub.environment(home)` set before huggingface_hub is imported
        hub.files("user/model")

Every upload is "regular" (base64 in the commit itself); there is no LFS, no branch but main and no access control.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAMESPACE = "user"  # of repositories created without one


class HubServer:
    """The server and its repositories, in memory. Used as a context manager, which starts and stops it.

    Attributes:
        requests: "METHOD path" of every request, in order.
        offered: Paths that a client has ever announced for upload, by repository.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.offered: dict[str, set[str]] = {}
        self._history: dict[str, list[tuple[str, dict[str, bytes]]]] = {}  # repository -> (commit hash, files)
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.hub = self
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that make huggingface_hub use this server, with its cache in `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_dummy",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def add(self, repo: str, files: dict[str, bytes]) -> None:
        """Commit `files` to `repo`, which is created if need be."""
        with self._lock:
            history = self._history.setdefault(repo, [])
            merged = {**(history[-1][1] if history else {}), **files}
            digest = hashlib.sha1(f"{repo} {len(history)}".encode()).hexdigest()
            history.append((digest, merged))

    def add_folder(self, repo: str, folder: Path) -> None:
        """Commit all files of a folder."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        self.add(repo, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})

    def exists(self, repo: str) -> bool:
        return repo in self._history

    def files(self, repo: str) -> dict[str, bytes]:
        """The newest files of `repo`: path -> content."""
        return self._history[repo][-1][1]

    def commit(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """(hash, files) of a revision, "main" or a commit's hash; None if there is none."""
        history = self._history.get(repo, [])
        if revision == "main" and history:
            return history[-1]
        return next((commit for commit in history if commit[0] == revision), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._route()

    def do_HEAD(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the requests are kept in `HubServer.requests`."""

    @property
    def _hub(self) -> HubServer:
        return self.server.hub

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self._hub.requests.append(f"{self.command} {path}")
        body = self._body()
        for method, pattern, handler in _ROUTES:
            if self.command in method and (match := re.fullmatch(pattern, path)):
                handler(self, body, **match.groupdict())
                return
        self._missing("EntryNotFound")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _reply(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reply_json(self, value: object, status: int = 200) -> None:
        self._reply(json.dumps(value).encode(), status, Content_Type="application/json")

    def _missing(self, code: str) -> None:
        self._reply(b"", 404, X_Error_Code=code)

    def _create(self, body: bytes) -> None:
        request = json.loads(body)
        repo = f"{request.get('organization') or NAMESPACE}/{request['name']}"
        taken = self._hub.exists(repo)
        if not taken:
            self._hub.add(repo, {})
        self._reply_json({"url": f"{self._hub.url}/{repo}", "name": repo, "id": repo}, 409 if taken else 200)

    def _validate_card(self, body: bytes) -> None:
        self._reply_json({"errors": [], "warnings": []})

    def _preupload(self, body: bytes, repo: str, revision: str) -> None:
        paths = [file["path"] for file in json.loads(body)["files"]]
        self._hub.offered.setdefault(repo, set()).update(paths)
        self._reply_json({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})

    def _commit(self, body: bytes, repo: str, revision: str) -> None:
        operations = [json.loads(line) for line in body.splitlines()]
        self._hub.add(
            repo,
            {
                operation["value"]["path"]: base64.b64decode(operation["value"]["content"])
                for operation in operations
                if operation["key"] == "file"
            },
        )
        digest, _ = self._hub.commit(repo, "main")
        url = f"{self._hub.url}/{repo}/commit/{digest}"
        self._reply_json({"success": True, "commitUrl": url, "commitOid": digest, "hookOutput": ""})

    def _info(self, body: bytes, repo: str, revision: str | None = None) -> None:
        if not self._hub.exists(repo):
            self._missing("RepoNotFound")
        elif (commit := self._hub.commit(repo, revision or "main")) is None:
            self._missing("RevisionNotFound")
        else:
            digest, files = commit
            siblings = [{"rfilename": path} for path in files]
            self._reply_json({"id": repo, "modelId": repo, "sha": digest, "siblings": siblings})

    def _tree(self, body: bytes, repo: str, revision: str) -> None:
        if (commit := self._hub.commit(repo, revision)) is None:
            self._missing("RevisionNotFound" if self._hub.exists(repo) else "RepoNotFound")
            return
        self._reply_json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": _digest(content)}
                for path, content in commit[1].items()
            ]
        )

    def _resolve(self, body: bytes, repo: str, revision: str, path: str) -> None:
        if not self._hub.exists(repo):
            self._missing("RepoNotFound")
        elif (commit := self._hub.commit(repo, revision)) is None:
            self._missing("RevisionNotFound")
        elif path not in commit[1]:
            self._missing("EntryNotFound")
        else:
            content = commit[1][path]
            self._reply(content, ETag=f'"{_digest(content)}"', X_Repo_Commit=commit[0])


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES = [
    ("POST", r"/api/repos/create", _Handler._create),
    ("POST", r"/api/validate-yaml", _Handler._validate_card),
    ("POST", rf"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)", _Handler._preupload),
    ("POST", rf"/api/models/{_REPO}/commit/(?P<revision>[^/]+)", _Handler._commit),
    ("GET", rf"/api/models/{_REPO}", _Handler._info),
    ("GET", rf"/api/models/{_REPO}/revision/(?P<revision>[^/]+)", _Handler._info),
    ("GET", rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)", _Handler._tree),
    ("GET HEAD", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler._resolve),
]
