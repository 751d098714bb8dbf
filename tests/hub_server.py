"""A model hub on the loopback interface: as much of the Hub's HTTP interface as huggingface_hub needs for models.

    with HubServer() as hub:
        hub.add("user/model", {"config.json": b"{}"})
        ...  # in another process, with `hub.environment(home)` set before huggingface_hub is imported
        hub.files("user/model")

Files that end in `LFS_SUFFIXES` go and come the LFS way (batch route, PUT, redirect to another address); the others
lie in the commit itself. Private repositories and all writing need `TOKEN`. There is no branch but main. A client
may ask for trouble: see `HubServer.fail`.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAMESPACE = "user"  # of repositories created without one
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz"
LFS_SUFFIXES = (".safetensors",)


class HubServer:
    """The server and its repositories, in memory. Used as a context manager, which starts and stops it.

    Attributes:
        requests: "METHOD path" of every request, in order.
        offered: Paths that a client has ever announced for upload, by repository.
        private: Repositories that only the token's owner sees.
        blobs: LFS files by SHA-256.
        faults: What goes wrong, see `fail`.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.offered: dict[str, set[str]] = {}
        self.private: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.faults: list[dict] = []
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
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
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

    def fail(self, pattern: str, how: str, times: int = 1) -> None:
        """Let the next requests whose "METHOD path" matches a pattern fail.

        Args:
            pattern: Regular expression.
            how: "cut" (half of the answer, then the connection is closed), "drop" (closed without an answer), or a
                status such as "503".
            times: How many requests.

        A client in another process posts the same three as JSON to `/fail`; a `times` of 0 takes all faults back.
        """
        with self._lock:
            self.faults = [*self.faults, {"pattern": pattern, "how": how, "times": times}] if times else []

    def fault(self, request: str) -> str | None:
        """What goes wrong with this request, if anything; counts it."""
        with self._lock:
            for fault in self.faults:
                if fault["times"] > 0 and re.search(fault["pattern"], request):
                    fault["times"] -= 1
                    return fault["how"]
        return None

    def exists(self, repo: str) -> bool:
        return repo in self._history

    def repositories(self) -> list[str]:
        return list(self._history)

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

    def do_PUT(self) -> None:
        self._route()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the requests are kept in `HubServer.requests`."""

    @property
    def _hub(self) -> HubServer:
        return self.server.hub

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self._cut = False
        if path == "/fail":
            self._hub.fail(**json.loads(body))
            self._reply_json({})
            return
        self._hub.requests.append(f"{self.command} {path}")
        fault = self._hub.fault(f"{self.command} {path}")
        if fault == "drop":
            self.close_connection = True
            return
        if fault is not None and fault.isdigit():
            self._reply(b"out of order", int(fault))
            return
        self._cut = fault == "cut"
        for method, pattern, handler in _ROUTES:
            if self.command in method and (match := re.fullmatch(pattern, path)):
                if self._allowed(match.groupdict().get("repo")):
                    handler(self, body, **match.groupdict())
                return
        self._missing("EntryNotFound")

    def _allowed(self, repo: str | None) -> bool:
        """Whether this client may; answers it if not, as the Hub does."""
        given = self.headers.get("Authorization")
        if given is not None and given != f"Bearer {TOKEN}":
            self._reply(b'{"error": "Invalid username or password."}', 401, X_Error_Message="Invalid credentials")
        elif given is None and repo in self._hub.private:
            self._reply(b"", 401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        elif given is None and self.command == "POST":  # files go to addresses that carry a signature
            self._reply(b'{"error": "Unauthorized"}', 401)
        else:
            return True
        return False

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
            self.wfile.write(content[: len(content) // 2] if self._cut else content)
        if self._cut:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

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
            if request.get("private") or request.get("visibility") == "private":
                self._hub.private.add(repo)
        self._reply_json({"url": f"{self._hub.url}/{repo}", "name": repo, "id": repo}, 409 if taken else 200)

    def _validate_card(self, body: bytes) -> None:
        self._reply_json({"errors": [], "warnings": []})

    def _preupload(self, body: bytes, repo: str, revision: str) -> None:
        paths = [file["path"] for file in json.loads(body)["files"]]
        self._hub.offered.setdefault(repo, set()).update(paths)
        modes = {path: "lfs" if path.endswith(LFS_SUFFIXES) else "regular" for path in paths}
        self._reply_json(
            {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]}
        )

    def _lfs_batch(self, body: bytes, repo: str) -> None:
        wanted = json.loads(body)["objects"]
        objects = [
            {**each, "actions": {"upload": {"href": f"{self._hub.url}/lfs/{each['oid']}"}}}
            if each["oid"] not in self._hub.blobs
            else each
            for each in wanted
        ]
        self._reply_json({"transfer": "basic", "objects": objects})

    def _lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._reply(b"the content is not what was announced", 400)
            return
        self._hub.blobs[oid] = body
        self._reply(b"")

    def _lfs_get(self, body: bytes, oid: str) -> None:
        content = self._hub.blobs[oid]
        if (given := self.headers.get("Range")) is None:
            self._reply(content, ETag=f'"{oid}"')
            return
        start = int(re.fullmatch(r"bytes=(\d+)-\d*", given)[1])
        place = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._reply(content[start:], 206, ETag=f'"{oid}"', Content_Range=place)

    def _commit(self, body: bytes, repo: str, revision: str) -> None:
        files = {}
        for operation in (json.loads(line) for line in body.splitlines()):
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self._hub.blobs[value["oid"]]
        self._hub.add(repo, files)
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
            if path.endswith(LFS_SUFFIXES):
                oid = hashlib.sha256(content).hexdigest()
                self._hub.blobs[oid] = content
                self._reply(
                    b"",
                    302,
                    # Another host, as the Hub's is: the client asks this one alone for the file's metadata.
                    Location=f"http://localhost:{self._hub._http.server_port}/lfs/{oid}",
                    X_Repo_Commit=commit[0],
                    X_Linked_ETag=f'"{oid}"',
                    X_Linked_Size=str(len(content)),
                )
                return
            self._reply(content, ETag=f'"{_digest(content)}"', X_Repo_Commit=commit[0])


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


_REPO = r"(?P<repo>[^/]+/[^/]+?)"
_ROUTES = [
    ("POST", r"/api/repos/create", _Handler._create),
    ("POST", r"/api/validate-yaml", _Handler._validate_card),
    ("POST", rf"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)", _Handler._preupload),
    ("POST", rf"/api/models/{_REPO}/commit/(?P<revision>[^/]+)", _Handler._commit),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler._lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler._lfs_put),
    ("GET HEAD", r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler._lfs_get),
    ("GET", rf"/api/models/{_REPO}", _Handler._info),
    ("GET", rf"/api/models/{_REPO}/revision/(?P<revision>[^/]+)", _Handler._info),
    ("GET", rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)", _Handler._tree),
    ("GET HEAD", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler._resolve),
]
