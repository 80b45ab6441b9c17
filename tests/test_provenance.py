"""What a result says of where it comes from."""

import subprocess
from pathlib import Path

import pytest

from src.results import provenance
from src.training.device import PLAIN_CPU


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_commit_is_dirty_when_the_code_differs_and_not_when_results_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, results = tmp_path / "src/results/provenance.py", tmp_path / "results/all.csv"
    for path in (code, results):
        path.parent.mkdir(parents=True)
        path.write_text("one\n")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message=one")
    monkeypatch.setattr(provenance, "__file__", str(code))
    commit = git(tmp_path, "rev-parse", "HEAD")
    results.unlink()
    assert provenance.provenance(PLAIN_CPU, "")["git_commit"] == commit
    code.write_text("two\n")
    assert provenance.provenance(PLAIN_CPU, "")["git_commit"] == f"{commit}-dirty"


def test_copy_in_another_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs.txt").write_text("one\n")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message=one")
    code = tmp_path / "copy/src/results/provenance.py"
    code.parent.mkdir(parents=True)
    code.write_text("one\n")
    monkeypatch.setattr(provenance, "__file__", str(code))
    assert provenance.provenance(PLAIN_CPU, "")["git_commit"] is None
    (tmp_path / ".gitignore").write_text("copy\n")
    assert provenance.provenance(PLAIN_CPU, "")["git_commit"] is None
    git(tmp_path, "add", "--force", "copy")
    git(tmp_path, "commit", "--message=two")  # now theirs is the history of the copy, too
    assert provenance.provenance(PLAIN_CPU, "")["git_commit"] == git(tmp_path, "rev-parse", "HEAD")
