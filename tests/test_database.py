"""Searches that share their studies on a PostgreSQL server, started here for them."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import optuna
import pytest
from optuna.trial import TrialState

from src import finalists, tune
from src.core.files import make_writable
from src.results.folder import ResultsFolder
from src.search.database import Database
from src.search.hyperband import make_plan
from src.search.hyperband_study import open_hyperband_studies
from src.search.planned_study import PlannedStudy, StartedTrial
from src.training.fitted import Fitted
from src.training.history import Epoch
from src.workers.messages import Ended
from tests.conftest import Rows, Workplace, start_search
from tests.fake_workers import FakeWorkers, open_session, plain_spec
from tests.postgres import PASSWORD, Server, find_program, running_server

pytestmark = pytest.mark.skipif(
    find_program("postgres") is None, reason="PostgreSQL's server is not installed"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def database(server: Server, request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database."""
    return server.create(request.node.name[:60])


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the search ended without saying {text!r}")


def numbers(workplace: Workplace, *states: str) -> Rows:
    rows = [row for row in workplace.rows() if row["state"] in (states or ("COMPLETE", "PRUNED"))]
    names = ("val_accuracy", "conv1", "conv2", "dense_units", "dropout_rate", "learning_rate")
    return sorted(
        ({name: row[name] for name in (*names, "batch_size", "bracket")} for row in rows), key=str
    )


def test_search_on_a_server_gives_what_an_embedded_one_gives(
    workplace: Workplace, database: str
) -> None:
    assert workplace.tune(f"--storage={database}", "--workers=1") == 0
    embedded = Workplace(workplace.folder / "embedded")
    assert embedded.tune("--workers=1") == 0
    assert numbers(workplace) == numbers(embedded)
    assert len(numbers(workplace)) == 5
    best = json.loads((workplace.results / "mnist_5k/best.json").read_text())
    assert not best["search"]["interrupted"]
    assert not (workplace.results / "mnist_5k/study.journal").exists()
    assert not (workplace.results / "mnist_5k/running").exists()


@pytest.mark.parametrize(
    ("rungs", "trials"),
    [
        # No rungs, or synchronous ones: then results do not depend on who comes first.
        (("--reduction_factor=3", "--iterations=6"), 6),
        pytest.param(
            ("--reduction_factor=2", "--iterations=2", "--promotion=synchronous"),
            8,
            marks=pytest.mark.long,
        ),
    ],
    ids=["without rungs", "synchronous"],
)
def test_searches_join_and_take_over_from_one_that_is_killed(
    rungs: tuple[str, ...],
    trials: int,
    workplace: Workplace,
    database: str,
    environment: dict[str, str],
    server: Server,
) -> None:
    options = ("--workers=1", "--limit=400", "--sampler=random", *rungs)
    shared = (*options, "--max_epochs=2", f"--storage={database}", "--heartbeat=1")
    elsewhere = Workplace(workplace.folder / "elsewhere")
    processes = [
        start_search(place, environment, *shared) for place in (workplace, elsewhere, workplace)
    ]
    wait_for(processes[2], "trial ")
    os.killpg(processes[2].pid, signal.SIGKILL)
    processes[2].communicate()
    for process in processes[:2]:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err

    alone = Workplace(workplace.folder / "alone")
    assert alone.tune(*options, max_epochs=2) == 0
    assert numbers(workplace) == numbers(elsewhere) == numbers(alone)
    assert len(numbers(alone)) == trials
    for row in workplace.rows():
        assert row["state"] != "FAIL" or row["reason"] == "abandoned: its machine fell silent"
    model = "mnist_5k/best-model.ckpt"
    assert (workplace.results / model).read_bytes() == (elsewhere.results / model).read_bytes()
    states = server.query(database.rsplit("/", 1)[1], "SELECT DISTINCT state FROM trials")
    assert set(states) <= {("COMPLETE",), ("PRUNED",), ("FAIL",)}


@pytest.mark.long
def test_machines_share_the_finals(
    workplace: Workplace, database: str, environment: dict[str, str]
) -> None:
    options = (f"--storage={database}", "--workers=1", "--finalists=2", "--seeds=2")
    elsewhere = Workplace(workplace.folder / "elsewhere")
    processes = [start_search(place, environment, *options) for place in (workplace, elsewhere)]
    printed = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        printed += [line for line in out.splitlines() if line.startswith("finalist:")]
    assert len(printed) == 4  # each fit was trained by one of the two
    one, other = (place.results / "mnist_5k" for place in (workplace, elsewhere))
    assert (one / "best-model.ckpt").read_bytes() == (other / "best-model.ckpt").read_bytes()
    decisions = [json.loads((at / "finalists.json").read_text()) for at in (one, other)]
    for decision in decisions:
        assert decision.pop("runs")  # the first to be done does not know when the other ended
    assert decisions[0] == decisions[1]

    folders = (f"--results_dir={workplace.results}", f"--log_dir={workplace.logs}")
    again = ["--dataset=mnist_5k", f"--storage={database}", "--finalists=2", "--seeds=2", *folders]
    assert finalists.main(again) == 0


@pytest.mark.long
def test_search_that_was_thought_dead_leaves_its_trial_to_others(
    workplace: Workplace, database: str, environment: dict[str, str]
) -> None:
    # Stopped and continued, like a laptop whose lid was closed for longer than the grace period.
    options = (
        "--workers=1",
        "--limit=4000",
        "--sampler=random",
        "--iterations=2",
        "--max_epochs=2",
    )
    shared = (*options, f"--storage={database}", "--heartbeat=1")
    sleeping = start_search(workplace, environment, *shared)
    wait_for(sleeping, "images train")
    time.sleep(2)  # into the first trial
    os.killpg(sleeping.pid, signal.SIGSTOP)
    try:
        awake = start_search(Workplace(workplace.folder / "awake"), environment, *shared)
        _, err = awake.communicate(timeout=300)
        assert awake.returncode == 0, err
    finally:
        os.killpg(sleeping.pid, signal.SIGCONT)
    _, err = sleeping.communicate(timeout=300)
    assert sleeping.returncode == 0, err
    assert len(numbers(workplace)) == 2
    (abandoned,) = [row for row in workplace.rows() if row["state"] == "FAIL"]
    assert abandoned["reason"] == "abandoned: its machine fell silent"
    assert json.loads((workplace.results / "mnist_5k/best.json").read_text())["search"][
        "interrupted"
    ]


@pytest.mark.long
def test_server_that_goes_away_ends_the_search_in_one_line_and_it_goes_on_later(
    workplace: Workplace,
    environment: dict[str, str],
    server: Server,
    database: str,
) -> None:
    options = ("--workers=1", "--limit=1000", f"--storage={database}", "--heartbeat=1")
    process = start_search(workplace, environment, *options)
    wait_for(process, "trial ")
    server.stop()
    try:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 2
        assert err.count("\n") == 1
        assert "goes on when the database answers" in err
        assert PASSWORD not in err
        late = start_search(workplace, environment, *options)
        _, err = late.communicate(timeout=300)
        assert late.returncode == 2
        assert "Connection refused" in err
    finally:
        server.start()
    assert workplace.tune(*options) == 0
    assert len(numbers(workplace)) == 5


def test_other_settings_are_refused_and_the_way_out_is_named(
    workplace: Workplace, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune(f"--storage={database}", "--timeout=0.1s") == 0
    assert workplace.tune(f"--storage={database}", "--seed=1") == 2
    err = capsys.readouterr().err
    assert "`seed` (=1) differs from that of the search for mnist_5k in this database (=0)" in err
    assert "another database" in err


def test_embedded_search_is_not_overwritten_by_one_on_a_server(
    workplace: Workplace, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune() == 0
    before = {path.name: path.read_bytes() for path in workplace.results.rglob("*.*")}
    assert workplace.tune(f"--storage={database}") == 2
    assert "holds a search with an embedded study" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in workplace.results.rglob("*.*")} == before


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///x.db", "`storage` (=sqlite://…) must be a PostgreSQL URL"),
        ("mysql://tuner:hunter2@localhost/x", "`storage` (=mysql://…) must be a PostgreSQL URL"),
        ("hunter2", "`storage` must be a PostgreSQL URL"),
        ("postgresql://tuner:hunter2@127.0.0.1:1/x", "Connection refused"),
        ("postgresql://tuner@127.0.0.1:1/x?password=hunter2", "Connection refused"),
        ("postgresql://tuner:hunter2@127.0.0.1:notaport/x", "`storage` must be a PostgreSQL URL"),
    ],
)
def test_wrong_url_is_refused_without_its_password(
    url: str, message: str, workplace: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune(f"--storage={url}") == 2
    out, err = capfd.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert "hunter2" not in out + err


def test_wrong_password_is_refused_and_not_shown(
    workplace: Workplace, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune(f"--storage={server.url('postgres', 'hunter2')}") == 2
    out, err = capfd.readouterr()
    assert "password authentication failed" in err
    assert "hunter2" not in out + err


def test_password_is_nowhere_in_what_a_search_leaves(
    workplace: Workplace, database: str, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune(f"--storage={database}", "--tensorboard=all") == 0
    said = capfd.readouterr()
    assert PASSWORD not in said.out + said.err
    files = [path for path in workplace.folder.rglob("*") if path.is_file()]
    assert {"best.json", "best-model.ckpt", "all.csv"} <= {path.name for path in files}
    for path in files:
        assert PASSWORD.encode() not in path.read_bytes(), path
    name = database.rsplit("/", 1)[1]
    for query in (
        "SELECT value_json FROM study_user_attributes",
        "SELECT value_json FROM trial_user_attributes",
    ):
        assert PASSWORD not in str(server.query(name, query))
    recorded = json.loads((workplace.results / "mnist_5k/best.json").read_text())
    assert "--storage '***'" in recorded["provenance"]["command"]


def test_printed_configuration_hides_the_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune.main(["--dataset=mnist", "--storage=postgresql://me:hunter2@x/y", "--print_config"])
    assert "hunter2" not in capsys.readouterr().out


def test_ray_gets_no_password(
    workplace: Workplace, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune(f"--storage={server.create('ray')}", "--launcher=ray") == 2
    error = capsys.readouterr().err
    assert "must name no password with `--launcher ray`" in error
    assert PASSWORD not in error


# ---- one folder, several searches


def test_folder_belongs_to_one_search(
    workplace: Workplace, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = server.create("one"), server.create("other")
    assert workplace.tune(f"--storage={one}", "--timeout=0.1s") == 0
    assert workplace.tune("--seed=1") == 2
    assert "holds a search whose studies are on a server" in capsys.readouterr().err
    assert workplace.tune(f"--storage={other}", "--seed=1") == 2
    assert "holds a search of another database" in capsys.readouterr().err
    assert workplace.tune(f"--storage={one}", "--heartbeat=1") == 2
    assert "`heartbeat` (=1) differs" in capsys.readouterr().err
    assert workplace.tune(f"--storage={one}") == 0
    assert len(numbers(workplace)) == 5


def test_database_holds_several_data_sets(workplace: Workplace, database: str) -> None:
    folder = ResultsFolder(workplace.results, "mnist")
    make_writable(folder.path, "")
    with Database(database, folder, heartbeat=15) as store, store.exclusive():
        optuna.create_study(study_name="mnist-64", storage=store.storage)
        store.keep_model("64-best", b"another data set's")
    assert workplace.tune(f"--storage={database}") == 0
    assert len(numbers(workplace)) == 5


# ---- one study, several searches, at their worst moments


@contextlib.contextmanager
def searching(workplace: Workplace, database: str, name: str) -> Iterator[PlannedStudy]:
    """Give a study of 5 places, on which a search with a folder of its own works."""
    folder, plan = ResultsFolder(workplace.folder / name, "mnist_5k"), make_plan(3, 3)
    store = Database(database, folder, heartbeat=15)
    with open_session(store, folder, FakeWorkers(1, lambda _: None)) as session:
        with store.exclusive():
            (study,) = open_hyperband_studies(plain_spec(session, plan), [64], plan, session)
        yield study


def ended(*accuracies: float) -> Ended:
    history = tuple(Epoch(i, 0.1, value, 0.1, value) for i, value in enumerate(accuracies, 1))
    best = max(history, key=lambda epoch: epoch.val_accuracy)
    return Ended(Fitted(history, best, {}, None, 1.0, False, None, None), "go on")


def give_up(search: PlannedStudy, trial: StartedTrial) -> None:
    """Fail a trial as Optuna does whose machine is silent."""
    search.study.tell(trial.number, state=TrialState.FAIL)


def test_each_search_takes_another_place(workplace: Workplace, database: str) -> None:
    with (
        searching(workplace, database, "a") as one,
        searching(workplace, database, "b") as other,
    ):
        started = [search.start() for _ in range(3) for search in (one, other)]
    slots = [trial.place.key for trial in started if trial is not None]
    assert slots == [0, 1, 2, 3, 4]
    assert started[5] is None


def test_trial_that_was_given_up_changes_nothing_any_more(
    workplace: Workplace, database: str
) -> None:
    with (
        searching(workplace, database, "a") as late,
        searching(workplace, database, "b") as other,
    ):
        lost = late.start()
        assert lost is not None
        assert late.report(lost, 1, 0.5) == "go on"
        give_up(other, lost)
        again = other.start()
        assert again is not None
        assert again.place == lost.place
        assert again.hyperparameters == lost.hyperparameters
        # It goes on from the reports of the one before, so that rungs have all their values.
        assert other.study.trials[again.number].intermediate_values == {1: 0.5}
        other.end(again, ended(0.5, 0.6, 0.7), lambda *_: b"counts")
        assert late.report(lost, 2, 0.8) == "stop"
        assert late.end(lost, ended(0.5, 0.8, 0.9), lambda *_: b"too late") is None
        assert late.done == other.done == 1
    folder = ResultsFolder(workplace.folder / "a", "mnist_5k")
    with Database(database, folder, heartbeat=15) as store:
        store.fetch_models()
    assert folder.study_model(64).read_bytes() == b"counts"


def test_place_that_another_search_fills_is_not_given_up(
    workplace: Workplace, database: str
) -> None:
    with (
        searching(workplace, database, "a") as small,
        searching(workplace, database, "b") as large,
    ):
        for _ in range(3):
            for slot in range(5):
                trial = small.start()
                assert trial is not None
                assert trial.place.key == slot
                small.fail(trial, "out of memory")
        assert small.given_up == [0, 1, 2, 3, 4]
        assert small.start() is None
        for _ in range(5):
            trial = large.start()
            assert trial is not None
            large.end(trial, ended(0.1, 0.2, 0.3), lambda *_: b"")
        assert small.given_up == []
        assert small.is_complete


def test_heartbeats_do_not_depend_on_time_zones(
    workplace: Workplace, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with searching(workplace, database, "a") as one:
        assert one.start() is not None
        monkeypatch.setenv("PGTZ", "Pacific/Auckland")
        with searching(workplace, database, "b") as other:
            other.release_abandoned()
            assert [trial.state for trial in other.study.trials] == [TrialState.RUNNING]


def test_tables_of_another_version_are_refused(
    workplace: Workplace, database: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune(f"--storage={database}", "--timeout=0.1s") == 0
    name = database.rsplit("/", 1)[1]
    server.query(name, "UPDATE alembic_version SET version_num = 'v0.9.0.a' RETURNING 1")
    assert workplace.tune(f"--storage={database}") == 2
    error = capsys.readouterr().err
    assert "no longer compatible" in error
    assert error.count("\n") == 1
