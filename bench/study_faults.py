"""What studies survive: each fault's test, run here, with what came of it.

    python bench/study_faults.py --output bench/results/study_faults.json

The tests are those of the suite, in which real processes are killed, a real file system fills up and a real server is
restarted; a node of a Ray cluster is killed in bench/study_ray.py. Takes three minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
FAULTS: dict[str, list[str]] = {
    "the whole tree of processes killed at 20 random moments": ["test_kill.py::test_twenty_kills_of_the_whole_tree"],
    "one of two workers killed in the middle of a trial": ["test_kill.py::test_one_of_two_workers_is_killed"],
    "a population killed whole, then one of its processes": ["test_population.py::test_a_population_is_killed_whole"],
    "the storage locked by another process": [
        "test_journal.py::test_a_locked_journal_is_waited_for", "test_journal.py::test_the_lock_of_a_killed_process",
    ],
    "the disk full": [
        "test_full_disk.py::test_a_study_on_a_disk_that_fills", "test_journal.py::test_a_full_disk_leaves_whole_lines",
    ],
    "PostgreSQL restarted in the middle, one of two sessions killed": [
        "test_postgresql.py::test_sessions_share_a_study_through_a_restart",
    ],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    results = {fault: [row for name in names for row in run(name)] for fault, names in FAULTS.items()}
    content: dict[str, Any] = {
        "faults": results,
        "command": "python bench/study_faults.py",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "note": given.note,
    }
    given.output.write_text(json.dumps(content, indent=1) + "\n")
    for fault, rows in results.items():
        print(f"{fault}: {', '.join(str(row['result']) for row in rows)}")


def run(name: str) -> list[dict[str, Any]]:
    """The test, or all its cases: passed, failed or skipped with the reason, and the seconds it took."""
    file, _, test = name.partition("::")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", f"--junitxml={report}", "-k", test]
        subprocess.run([*command, str(ROOT / "tests" / "tuner" / file)], cwd=ROOT, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    assert cases, f"there is no test {name}"
    return [
        {"test": case.get("name"), "result": result(case), "seconds": round(float(case.get("time", 0)), 1)}
        for case in cases
    ]


def result(case: ElementTree.Element) -> str:
    for kind in ("failure", "error", "skipped"):
        found = case.find(kind)
        if found is not None:
            return f"{kind}: {found.get('message')}"
    return "passed"


if __name__ == "__main__":
    main()
