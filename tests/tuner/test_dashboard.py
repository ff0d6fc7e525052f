"""optuna-dashboard opens the journal of a study and shows its knobs by their keys."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from test_study import complete_at_once, run


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("optuna-dashboard", path=str(Path(sys.executable).parent)) is None,
    reason="optuna-dashboard is not installed",
)
def test_the_dashboard_serves_a_study(tmp_path: Path) -> None:
    history = run(tmp_path / "study", complete_at_once, trials=4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = str(Path(sys.executable).parent / "optuna-dashboard")
    command = [program, str(tmp_path / "study" / "journal.log"), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        studies = ask(f"http://127.0.0.1:{port}/api/studies")["study_summaries"]
        assert [study["study_name"] for study in studies] == ["staged"]
        detail = ask(f"http://127.0.0.1:{port}/api/studies/{studies[0]['study_id']}")
    finally:
        server.terminate()
        server.wait(30)
    assert len(detail["trials"]) == 4 and {trial["state"] for trial in detail["trials"]} == {"Complete"}
    shown = {param["name"] for trial in detail["trials"] for param in trial["params"]}
    assert shown == set(history.space.keys)


def ask(address: str) -> Any:
    """The JSON at an address, once the server is up."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline, "the dashboard does not answer"
            time.sleep(0.2)
