"""Results that come with the project stay out of the way of a search, and are kept."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from src import finalists
from src.results.saved_models import ModelChoice
from tests.conftest import Workplace


@pytest.fixture
def shipped(finished_search: Workplace, tmp_path: Path) -> Workplace:
    """What a clone has: results, without what a search goes on from."""
    workplace = Workplace(tmp_path)
    folder = workplace.results / "mnist_5k"
    made = finished_search.results / "mnist_5k"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("test-log.jsonl"))
    for path in folder.glob("*-best.ckpt"):
        path.unlink()
    listed = "".join(f"- `{name}`\n" for name in content(folder))
    (folder / "SHIPPED.md").write_text(f"Results that came with the project:\n\n{listed}")
    return workplace


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_search_begins_anew_and_keeps_what_came_with_the_project(
    shipped: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shipped.results / "mnist_5k"
    before = content(folder)
    (folder / "test-log.jsonl").write_text("looked\n")
    (folder / "train/mine").mkdir(parents=True)
    (folder / "train/mine/model.ckpt").write_text("mine")
    roundabout = f"--results_dir={shipped.folder}/results/../results"
    assert shipped.tune("--batch_sizes=[16]", roundabout) == 0
    assert (folder / "test-log.jsonl").read_text() == "looked\n"
    assert (folder / "train/mine/model.ckpt").read_text() == "mine"
    assert "results/mnist_5k/shipped now" in " ".join(capsys.readouterr().out.split())
    assert content(folder / "shipped") == before
    assert {row["batch_size"] for row in shipped.rows()} == {"16"}
    assert shipped.tune("--batch_sizes=[16]") == 0  # it goes on, and sets nothing aside
    assert content(folder / "shipped") == before
    assert list(ModelChoice([shipped.results], []).paths()) == ["mnist_5k", "mnist_5k/shipped"]


def test_move_that_was_cut_short_goes_on(shipped: Workplace) -> None:
    folder = shipped.results / "mnist_5k"
    before = content(folder)
    (folder / "shipped").mkdir()
    (folder / "study.journal").rename(folder / "shipped/study.journal")
    assert shipped.tune("--batch_sizes=[16]") == 0
    assert content(folder / "shipped") == before


def test_search_that_cannot_begin_moves_nothing(shipped: Workplace, tmp_path: Path) -> None:
    before = content(shipped.results)
    assert shipped.tune("--limit=0") == 2
    assert shipped.tune("--plan") == 0
    if not torch.cuda.is_available():
        assert shipped.tune("--device=cuda") == 2
    assert shipped.tune("--storage=postgresql+psycopg://nobody@127.0.0.1:1/nothing") == 2
    assert content(shipped.results) == before


def test_git_that_puts_them_back_costs_no_more_than_it_overwrote(shipped: Workplace) -> None:
    folder = shipped.results / "mnist_5k"
    before = content(folder)
    assert shipped.tune("--batch_sizes=[16]") == 0
    for name in before:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "shipped" / name, folder / name)
    assert shipped.tune("--batch_sizes=[16]") == 0
    assert content(folder / "shipped") == before
    assert len(shipped.rows()) == 5


def test_finals_need_a_search_of_ones_own(
    shipped: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(shipped.results)
    options = [f"--results_dir={shipped.results}", f"--log_dir={shipped.logs}"]
    assert finalists.main(["--dataset=mnist_5k", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds results that came with the project" in line
    assert content(shipped.results) == before
