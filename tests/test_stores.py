"""The embedded store: a journal that no crash and no full disk can damage."""

import json
import resource
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from src.core.errors import UserError
from src.core.files import make_writable
from src.results.folder import ResultsFolder
from src.search.journal import Journal, open_journal


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    folder = ResultsFolder(tmp_path, "mnist_5k")
    make_writable(folder.path, "--results_dir")
    return folder


def test_disk_that_fills_up_in_the_middle_of_a_line_leaves_a_whole_journal(
    folder: ResultsFolder,
) -> None:
    with Journal(folder) as store:
        study = optuna.create_study(storage=store.storage, study_name="a")
        study.set_user_attr("before", 1)
        before = folder.journal.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 30, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                study.set_user_attr("lost", "x" * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        study.set_user_attr("after", 2)
    for line in folder.journal.read_text().splitlines():
        json.loads(line)
    with Journal(folder) as store:
        attributes = optuna.load_study(study_name="a", storage=store.storage).user_attrs
    assert attributes == {"before": 1, "after": 2}


def test_trial_of_a_killed_search_waits_with_all_it_has(folder: ResultsFolder) -> None:
    with Journal(folder) as store:
        study = optuna.create_study(storage=store.storage, study_name="a")
        trial = study.ask()
        trial.suggest_int("x", 0, 10)
        trial.report(0.5, step=1)
    with Journal(folder) as store:
        study = optuna.load_study(study_name="a", storage=store.storage)
        store.release_abandoned(study, ours=())
        (found,) = study.trials
    assert found.state == TrialState.WAITING
    assert found.params == trial.params
    assert found.intermediate_values == {1: 0.5}


def test_what_a_killed_process_left_half_written_is_removed(folder: ResultsFolder) -> None:
    folder.states.mkdir()
    left = [folder.path / ".best.0a1b2c3d.json", folder.states / "64-3.partial"]
    kept = [folder.path / "best.json", folder.states / "64-3.ckpt", folder.path / ".hidden"]
    for path in left + kept:
        path.touch()
    with Journal(folder):
        pass
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_second_search_is_refused_while_the_first_one_runs(folder: ResultsFolder) -> None:
    with (
        Journal(folder),
        pytest.raises(UserError, match=r"another search is running in .*--storage"),
        Journal(folder),
    ):
        pass
    with Journal(folder):  # and not after
        pass


def test_abandoned_trials_wait_and_those_of_this_process_do_not(folder: ResultsFolder) -> None:
    with Journal(folder) as store:
        killed = optuna.create_study(storage=store.storage, study_name="a").ask()
    with Journal(folder) as store:
        study = optuna.load_study(study_name="a", storage=store.storage)
        ours = study.ask()
        for _ in range(2):
            store.release_abandoned(study, ours={ours.number})
            states = {trial.number: trial.state for trial in study.trials}
            assert states == {killed.number: TrialState.WAITING, ours.number: TrialState.RUNNING}


def test_search_whose_lock_was_removed_stops_and_harms_nobody(folder: ResultsFolder) -> None:
    with Journal(folder) as store:
        study = optuna.create_study(storage=store.storage, study_name="a")
        folder.lock.unlink()
        with Journal(folder) as later:
            optuna.load_study(study_name="a", storage=later.storage).set_user_attr("later", 1)
            theirs = folder.journal.read_bytes()
            with pytest.raises(UserError, match=r"\.lock was removed or replaced while this"):
                study.set_user_attr("first", 1)
            assert folder.journal.read_bytes() == theirs
            optuna.load_study(study_name="a", storage=later.storage).set_user_attr("again", 1)
    with Journal(folder) as store:
        attributes = optuna.load_study(study_name="a", storage=store.storage).user_attrs
    assert attributes == {"later": 1, "again": 1}


@pytest.mark.parametrize("foreign", [b'{"a whole": "line"}\n', b'{"half a', b""])
def test_journal_that_others_have_written_to_is_not_cut(
    foreign: bytes, folder: ResultsFolder
) -> None:
    with Journal(folder) as store:
        study = optuna.create_study(storage=store.storage, study_name="a")
        before = folder.journal.read_bytes()
        theirs = before + foreign if foreign else before[:-20]
        folder.journal.write_bytes(theirs)
        with pytest.raises(UserError, match=r"study\.journal has \d+ bytes, where this search"):
            study.set_user_attr("ours", 1)
        assert folder.journal.read_bytes() == theirs


def test_journal_opened_to_be_read_is_not_written(folder: ResultsFolder) -> None:
    with Journal(folder) as store:
        optuna.create_study(storage=store.storage, study_name="a")
        with folder.journal.open("ab") as file:
            file.write(b'{"op_code": ')  # of the line that is being written
        before = folder.journal.read_bytes()
        study = optuna.load_study(study_name="a", storage=open_journal(folder))
        with pytest.raises(UserError, match="open for reading only"):
            study.set_user_attr("b", 1)
        assert folder.journal.read_bytes() == before
