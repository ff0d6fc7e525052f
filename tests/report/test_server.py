"""The server behind `detectune watch`: live pages of one directory, nothing outside it, to nobody by another name."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from made_study import write_study

from detectune.errors import UserError
from detectune.report.server import PORT, inside, is_own_name, make_server


@contextmanager
def serving(directory: Path) -> Iterator[int]:
    """The port at which the directory is served meanwhile."""
    with make_server(directory, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def ask(
    port: int, path: str = "/", *, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body); the path goes out as it is, dots and all."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): v for name, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_the_page_is_live_and_asked_for_again_only_costs_when_something_changed(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", trials=6, running=True)
    with serving(folder) as port:
        status, headers, body = ask(port)
        assert status == 200 and b"<body data-live>" in body and b"connect-src 'self'" in body
        assert ask(port, If_None_Match=headers["ETag"])[0] == 304
        content = json.loads((folder / "trials.json").read_text())
        content["name"] = "renamed"
        (folder / "trials.json").write_text(json.dumps(content))
        status, _, body = ask(port, If_None_Match=headers["ETag"])
        assert status == 200 and b"renamed" in body
    assert not (folder / "report.html").exists()  # watching writes nothing


def test_a_directory_that_is_not_there_yet_waits_and_then_fills_in(tmp_path: Path) -> None:
    with serving(tmp_path / "s") as port:
        status, _, body = ask(port)
        assert status == 200 and b"is not there yet" in body and b"data-live" in body
        (tmp_path / "s").mkdir()
        assert b"holds no run" in ask(port)[2]
        (tmp_path / "s" / "trials.json").write_text("{")
        assert b"cannot be read as a study" in ask(port)[2]
        write_study(tmp_path / "t", trials=3)
        (tmp_path / "s" / "trials.json").unlink()
        (tmp_path / "s").rmdir()
        (tmp_path / "t").rename(tmp_path / "s")
        assert b"made up" in ask(port)[2]


def test_pages_of_runs_and_their_files_are_served(tmp_path: Path, make_run) -> None:
    folder = write_study(tmp_path / "s", trials=4)
    make_run("run").rename(folder / "trials" / "0009")
    with serving(folder) as port:
        for path in ("/trials/0009/", "/trials/0009/report.html"):
            assert b"Detectune run" in ask(port, path)[2]
        status, headers, _ = ask(port, "/trials/0009")
        assert status == 301 and headers["Location"] == "/trials/0009/"
        status, headers, body = ask(port, "/trials/0009/config.yaml?x=1")
        assert status == 200 and body == (folder / "trials" / "0009" / "config.yaml").read_bytes()
        assert headers["Content-Type"].startswith("text/plain")
        status, headers, body = ask(port, "/trials/0009/config.yaml", method="HEAD")
        assert status == 200 and body == b"" and int(headers["Content-Length"]) > 0
        (folder / "evil.html").write_text("<script>alert(1)</script>")
        assert ask(port, "/evil.html")[1]["Content-Type"] == "application/octet-stream"
        assert ask(port, "/nothing")[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/%2e%2e/secret.txt", "/trials/../../secret.txt", "/..%2fsecret.txt", "//secret.txt",
        "/link.txt", "/linked/secret.txt", "/%00", "/../", "/..",
    ],
)  # fmt: skip
def test_nothing_outside_the_directory_is_given(tmp_path: Path, path: str) -> None:
    folder = write_study(tmp_path / "s", trials=2)
    (tmp_path / "secret.txt").write_text("the secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "linked").symlink_to(tmp_path)
    assert inside(folder, "/trials.json") == folder.resolve() / "trials.json"
    with serving(folder) as port:
        status, _, body = ask(port, path)
        assert status == 404 and b"secret" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_reading_is_answered(tmp_path: Path, method: str) -> None:
    with serving(tmp_path) as port:
        status, headers, _ = ask(port, method=method)
        assert status == 405 and headers["Allow"] == "GET, HEAD"


def test_a_request_by_another_name_is_refused(tmp_path: Path) -> None:
    with serving(write_study(tmp_path / "s", trials=2)) as port:
        for name in (
            "evil.example",
            "localhost.evil.example",
            f"evil.example:{port}",
            "127.0.0.1.nip.io",
            "[::1",
        ):
            status, _, body = ask(port, Host=name)
            assert status == 403 and b"made up" not in body
        for name in (f"localhost:{port}", f"127.0.0.1:{port}", "[::1]:80"):
            assert ask(port, Host=name)[0] == 200


@pytest.mark.parametrize(
    ("header", "own"), [("study.lan:80", True), ("other.lan", False), (None, False), ("", False)]
)
def test_the_name_given_with_host_is_ours_too(header: str | None, own: bool) -> None:
    assert is_own_name(header, "study.lan") == own


def test_a_busy_port_gives_the_next_one_unless_it_was_asked_for(tmp_path: Path) -> None:
    with make_server(tmp_path) as first, make_server(tmp_path) as second:
        ports = [server.server_address[1] for server in (first, second)]
        assert PORT <= ports[0] < ports[1]
        assert first.server_address[0] == "127.0.0.1"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}.*--port"):
            make_server(tmp_path, port=port)
    with pytest.raises(UserError, match="70000"):
        make_server(tmp_path, port=70000)


def test_several_viewers_at_once_get_the_same_page(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", trials=12)
    found: list[bytes] = []
    with serving(folder) as port:
        viewers = [threading.Thread(target=lambda: found.append(ask(port)[2])) for _ in range(8)]
        for viewer in viewers:
            viewer.start()
        for viewer in viewers:
            viewer.join()
    assert len(found) == 8 and len(set(found)) == 1 and b"made up" in found[0]
