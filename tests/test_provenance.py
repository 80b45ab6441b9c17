"""What a result says of where it comes from."""

import subprocess
from pathlib import Path

import pytest

from src.results import provenance
from src.training.device import PLAIN_CPU


def test_commit_is_dirty_when_the_code_differs_and_not_when_results_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    code, results = tmp_path / "src/results/provenance.py", tmp_path / "results/all.csv"
    for path in (code, results):
        path.parent.mkdir(parents=True)
        path.write_text("one\n")
    git("init")
    git("add", ".")
    git("commit", "--message=one")
    monkeypatch.setattr(provenance, "__file__", str(code))
    commit = git("rev-parse", "HEAD")
    results.unlink()
    assert provenance.provenance(PLAIN_CPU, "")["git_commit"] == commit
    code.write_text("two\n")
    assert provenance.provenance(PLAIN_CPU, "")["git_commit"] == f"{commit}-dirty"
