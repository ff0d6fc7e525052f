"""The server behind `detectune watch`: pages of one directory, live, for whoever may read it.

It reads and never writes, answers GET and HEAD alone, and gives nothing outside the directory. A request must name
the server by an address, by localhost or by the name it was started with: a web page elsewhere that points its own
name at this machine (DNS rebinding) is refused.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from detectune.errors import UserError
from detectune.report.live import LivePages

PORT = 8321
PORTS_TRIED = 20  # from PORT on, when none is asked for
IMAGES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
TEXTS = {".yaml", ".yml", ".json", ".jsonl", ".txt", ".log", ".csv", ".md"}


def make_server(directory: Path, *, host: str = "127.0.0.1", port: int | None = None) -> ThreadingHTTPServer:
    """A server of `directory` that is bound and not yet running.

    Args:
        port: exactly this one, 0 for any; without it the first free one from PORT on.

    Raises:
        UserError: if the address cannot be bound.
    """
    handler = partial(Handler, root=directory, host=host, pages=LivePages())
    tried = [port] if port is not None else list(range(PORT, PORT + PORTS_TRIED))
    reason = ""
    for number in tried:
        try:
            return (ServerSix if ":" in host else Server)((host, number), handler)
        except (OSError, OverflowError) as error:
            reason = str(error)
    ports = f"port {tried[0]}" if len(tried) == 1 else f"any of the ports {tried[0]} to {tried[-1]}"
    raise UserError(
        f"{host} cannot be served at {ports}: {reason}. Give another with --port, or --port 0 for any."
    )


class Server(ThreadingHTTPServer):
    daemon_threads = True  # a viewer that keeps its connection does not keep us from ending


class ServerSix(Server):
    address_family = socket.AF_INET6


class Handler(BaseHTTPRequestHandler):
    """One request. `root` is the directory that is watched; `host` the name that the server was started with."""

    protocol_version = "HTTP/1.1"
    server_version = "detectune"
    sys_version = ""
    timeout = 60  # seconds that a silent connection is kept

    def __init__(self, *given: object, root: Path, host: str, pages: LivePages) -> None:
        self.root, self.host, self.pages = root, host, pages
        super().__init__(*given)  # type: ignore[arg-type]  # socketserver's own three arguments

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Plain text; http.server calls this too, with 501 for other methods, which ours is 405."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD"
        more = {"Allow": "GET, HEAD"} if code == HTTPStatus.METHOD_NOT_ALLOWED else {}
        text = f"{code} {message or HTTPStatus(code).phrase}\n".encode()
        self.close_connection = True
        self._send(HTTPStatus(code), text, "text/plain; charset=utf-8", more | {"Connection": "close"})

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a page asks every second or two."""

    def _answer(self) -> None:
        if not is_own_name(self.headers.get("Host"), self.host):
            self.send_error(HTTPStatus.FORBIDDEN, "this server does not go by that name")
            return
        path = urlsplit(self.path).path
        target = inside(self.root, unquote(path))
        if target is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        elif path == "/":
            self._send_page(self.root)
        elif target.is_dir() and not path.endswith("/"):
            self._send(HTTPStatus.MOVED_PERMANENTLY, b"", "text/plain", {"Location": f"{path}/"})
        elif target.is_dir() or (target.name == "report.html" and target.parent.is_dir()):
            self._send_page(target if target.is_dir() else target.parent)
        elif target.is_file():
            self._send_file(target)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send_page(self, directory: Path) -> None:
        page = self.pages.page(directory)
        if self.headers.get("If-None-Match") == page.tag:
            self._send(HTTPStatus.NOT_MODIFIED, b"", None, {"ETag": page.tag})
        else:
            self._send(HTTPStatus.OK, page.body, "text/html; charset=utf-8", {"ETag": page.tag})

    def _send_file(self, file: Path) -> None:
        """Pictures as such, texts as plain text, anything else as bytes to keep: no page of another kind runs here."""
        suffix = file.suffix.lower()
        kind = IMAGES.get(suffix) or (
            "text/plain; charset=utf-8" if suffix in TEXTS else "application/octet-stream"
        )
        try:
            content = file.open("rb")
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with content:
            left = content.seek(0, 2)
            content.seek(0)
            self._send_headers(HTTPStatus.OK, kind, left, {})
            # A file that is growing is sent up to the length that the headers promised.
            while self.command != "HEAD" and left and (part := content.read(min(left, 1 << 16))):
                self.wfile.write(part)
                left -= len(part)

    def _send(self, status: HTTPStatus, body: bytes, kind: str | None, headers: dict[str, str]) -> None:
        self._send_headers(status, kind, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_headers(self, status: HTTPStatus, kind: str | None, size: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        if kind is not None:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(size))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()


def inside(root: Path, path: str) -> Path | None:
    """The file or folder that a request's path means, or None for one outside `root`, links followed."""
    if "\0" in path:
        return None
    real_root = root.resolve()
    target = (real_root / path.lstrip("/")).resolve()
    return target if target.is_relative_to(real_root) else None


def is_own_name(header: str | None, host: str) -> bool:
    """Whether a Host header names us: by any address, by localhost, or by the name the server was started with."""
    if not header:
        return False
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:  # a bracket without its other
        return False
    if name in ("localhost", host.lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
