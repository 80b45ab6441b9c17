"""Optuna's dashboard reads the journal, whose lines have a checksum that Optuna does not know."""

import json
import re
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

from tests.conftest import REPOSITORY, Workplace

pytest.importorskip("optuna_dashboard")


def fetch(url: str, patience: float = 60) -> Any:
    """Return the JSON at an address, as soon as somebody answers there."""
    until = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(url, timeout=patience) as answer:
                return json.load(answer)
        except (ConnectionError, urllib.error.URLError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def test_the_readmes_command_shows_the_trials_and_leaves_the_journal_as_it_is(
    finished_search: Workplace, tmp_path: Path
) -> None:
    command = re.search(r"^optuna-dashboard (\S+)$", (REPOSITORY / "README.md").read_text(), re.M)
    assert command is not None
    journal = tmp_path / command[1]
    journal.parent.mkdir(parents=True)
    shutil.copy(finished_search.results / "mnist_5k/study.journal", journal)
    before = journal.read_bytes()
    assert b'"check":' in before
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dashboard = subprocess.Popen(
        [
            *(sys.executable, "-c", "from optuna_dashboard._cli import main; main()"),
            *(command[1], f"--port={port}", "--quiet"),
        ],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}/api/studies"
        studies = {
            study["study_name"]: study["study_id"] for study in fetch(address)["study_summaries"]
        }
        assert studies.keys() == {"mnist_5k-32", "mnist_5k-64"}
        for batch_size in (32, 64):
            trials = fetch(f"{address}/{studies[f'mnist_5k-{batch_size}']}")["trials"]
            rows = finished_search.rows(f"{batch_size}-all.csv")
            assert [trial["state"].upper() for trial in trials] == [row["state"] for row in rows]
            for trial, row in zip(trials, rows, strict=True):
                if row["state"] == "COMPLETE":
                    assert trial["values"] == [float(row["val_accuracy"])]
    finally:
        dashboard.kill()
        dashboard.wait()
    assert journal.read_bytes() == before
