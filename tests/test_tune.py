import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src import evaluate
from src.data.files import Images, load_images
from src.data.split import load_training_data
from src.reporting.publish import write_winner
from src.results.tables import read_trials
from src.training.checkpoint import load_model
from src.training.hyperparameters import Hyperparameters
from src.training.network import to_inputs
from tests.conftest import Workplace

PUBLISHED = [
    "val_accuracy", "conv1", "conv2", "dense_units", "dropout_rate", "learning_rate", "epochs",
    "batch_size",
]  # fmt: skip


# ---- what a finished search leaves


def test_rungs_are_exact(finished_search: Workplace) -> None:
    rows = finished_search.rows()
    assert len(rows) == 2 * 17
    for row in rows:
        epochs = int(row["epochs"])
        if row["state"] == "PRUNED":
            assert epochs in {"2": {1, 3}, "1": {3}, "0": set()}[row["bracket"]]
            assert row["reason"] == f"lost on the rung at epoch {epochs}"
        else:
            assert row["state"] == "COMPLETE"
            assert epochs == 9 or row["reason"] == "early stopping: no better epoch in 3"
    for batch_size in ("32", "64"):
        brackets = [row["bracket"] for row in rows if row["batch_size"] == batch_size]
        assert [brackets.count(s) for s in "210"] == [9, 5, 3]


def test_tables_have_the_published_columns_first(finished_search: Workplace) -> None:
    everything = finished_search.rows()
    assert list(everything[0]) == [
        *(*PUBLISHED, "trial", "state", "bracket", "seconds", "reason"),
        *("schedule", "label_smoothing", "augmentation", "weight_averaging", "weight_decay"),
    ]
    assert finished_search.rows("32-all.csv") + finished_search.rows("64-all.csv") == everything


def test_curves_have_a_row_for_every_epoch_and_the_accuracy_selected_on(
    finished_search: Workplace,
) -> None:
    curves = finished_search.rows("curves.csv")
    assert list(curves[0]) == [
        *("batch_size", "trial", "epoch"),
        *("train_loss", "train_accuracy", "val_loss", "val_accuracy"),
    ]
    by_trial: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in curves:
        by_trial.setdefault((row["batch_size"], row["trial"]), []).append(row)
    rows = finished_search.rows()
    assert list(by_trial) == [(row["batch_size"], row["trial"]) for row in rows]
    for row in rows:
        curve = by_trial[row["batch_size"], row["trial"]]
        assert [int(epoch["epoch"]) for epoch in curve] == list(range(1, int(row["epochs"]) + 1))
        best = max(float(epoch["val_accuracy"]) for epoch in curve)
        assert best == float(row["val_accuracy"])


def test_configurations_lie_in_the_search_space(finished_search: Workplace) -> None:
    for row in finished_search.rows():
        for name in ("conv1", "conv2", "dense_units"):
            assert int(row[name]) in range(32, 257, 32)
        assert row["dropout_rate"] in {f"0.{tenths}" for tenths in range(1, 10)}
        assert 1e-4 <= float(row["learning_rate"]) <= 1e-2


def test_best_is_the_first_of_all_trials_and_says_where_it_comes_from(
    finished_search: Workplace,
) -> None:
    best = json.loads((finished_search.results / "mnist_5k/best.json").read_text())
    rows = finished_search.rows()
    assert best["val_accuracy"] == max(float(row["val_accuracy"]) for row in rows)
    (row,) = [
        row
        for row in rows
        if (row["trial"], row["batch_size"])
        == (str(best["provenance"]["trial"]), str(best["batch_size"]))
    ]
    assert float(row["val_accuracy"]) == best["val_accuracy"]
    assert float(row["learning_rate"]) == best["learning_rate"]
    assert best["data"]["images"] == {"train": 80, "validation": 20}
    assert re.fullmatch("[0-9a-f]{64}", best["data"]["split_hash"])
    assert best["data"]["seed"] == 0
    assert {"command", "date", "git_commit", "versions", "device"} <= best["provenance"].keys()
    assert best["search"]["settings"]["max_epochs"] == 9
    assert best["search"]["settings"]["iterations"] == 1
    assert best["search"]["trials"] == {
        state: sum(row["state"] == state for row in rows)
        for state in ("COMPLETE", "PRUNED", "FAIL")
    }


@pytest.mark.parametrize("batch_size", [32, 64])
def test_pictures_are_drawn(finished_search: Workplace, batch_size: int) -> None:
    for name, least in (("best", (1500, 500)), ("rungs", (900, 400))):
        with Image.open(finished_search.results / f"mnist_5k/{batch_size}-{name}.png") as image:
            assert image.width >= least[0]
            assert image.height >= least[1]
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20


def test_train_reload_and_test_agree(
    finished_search: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = finished_search.results / "mnist_5k/best-model.ckpt"
    model = load_model(checkpoint)
    assert sum(map(sum, model.validation_confusion)) == 20
    correct = sum(model.validation_confusion[i][i] for i in range(10))
    assert correct / 20 == pytest.approx(model.val_accuracy, abs=1e-6)

    folders = [f"--output_dir={tmp_path}", f"--results_dir={tmp_path}"]
    assert evaluate.main([str(checkpoint), "--json", *folders]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "metrics.json").read_text())
    assert printed["dataset"] == "mnist_5k"
    assert printed["n_test"] == 1000
    low, high = printed["ci95"]
    assert low < printed["test_accuracy"] < high
    # 100 images a class: both accuracies are the same.
    assert printed["macro_accuracy"] == pytest.approx(printed["test_accuracy"])
    assert [c["name"] for c in printed["per_class"]] == list("0123456789")
    with Image.open(tmp_path / "confusion-matrix.png") as image:
        assert image.width > 500


def test_the_surest_mistakes_are_shown_and_told(finished_search: Workplace, tmp_path: Path) -> None:
    checkpoint = finished_search.results / "mnist_5k/best-model.ckpt"
    options = [f"--output_dir={tmp_path}", f"--log_dir={tmp_path / 'logs'}"]
    assert evaluate.main([str(checkpoint), *options]) == 0
    told = json.loads((tmp_path / "metrics.json").read_text())["mistakes"]
    (images,) = load_images("mnist_5k", "test", "nowhere")
    with torch.no_grad():
        probabilities = load_model(checkpoint).network()(to_inputs(images.pixels)).softmax(dim=1)
    highest, read_as = probabilities.max(dim=1)
    wrong = [i for i in range(len(images)) if read_as[i] != images.labels[i]]
    surest = sorted(wrong, key=lambda i: -float(highest[i]))[: len(told)]
    assert len(told) == min(24, len(wrong))
    assert [one["image"] for one in told] == surest
    for one in told:
        assert one["true"] == str(int(images.labels[one["image"]]))
        assert one["predicted"] == str(int(read_as[one["image"]]))
        assert one["probability"] == pytest.approx(float(highest[one["image"]]), abs=1e-5)
    with Image.open(tmp_path / "mistakes.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50
    events = EventAccumulator(str(tmp_path / "logs/mnist_5k/winner")).Reload()
    assert events.Tags()["images"] == ["test/confusion", "test/mistakes"]
    assert evaluate.main([str(checkpoint.with_name("64-best.ckpt")), *options]) == 0
    runs = {run.name for run in (tmp_path / "logs/mnist_5k").iterdir()}
    assert runs == {"winner", "64-best"}  # the winner's pictures are those of the winner


def test_tensorboard_shows_how_the_winner_reads(finished_search: Workplace) -> None:
    best = load_model(finished_search.results / "mnist_5k/best-model.ckpt")
    events = EventAccumulator(str(finished_search.logs / "mnist_5k/winner")).Reload()
    # Of 20 images it may read every one.
    mistaken = ["validation/mistakes"] if best.val_accuracy < 1 else []
    assert events.Tags()["images"] == ["validation/confusion", *mistaken]
    (picture,) = events.Images("validation/confusion")
    assert picture.width > 400


@pytest.mark.parametrize("mistakes", [0, 3])
def test_tensorboard_shows_the_winners_mistakes_if_it_makes_any(
    mistakes: int, finished_search: Workplace, tmp_path: Path
) -> None:
    best = load_model(finished_search.results / "mnist_5k/best-model.ckpt")
    data = load_training_data(best.data_spec, "nowhere")
    with torch.no_grad():
        labels = best.network()(to_inputs(data.validation.pixels)).argmax(dim=1)
    labels[:mistakes] = (labels[:mistakes] + 1) % 10
    data = replace(data, validation=Images(data.validation.pixels, labels))
    write_winner(tmp_path, best, data, "cpu")
    events = EventAccumulator(str(tmp_path / "mnist_5k/winner")).Reload()
    mistaken = ["validation/mistakes"] if mistakes else []
    assert events.Tags()["images"] == ["validation/confusion", *mistaken]
    for tag in mistaken:
        (picture,) = events.Images(tag)
        assert picture.width > 100  # as wide as there are mistakes


def test_tensorboard_has_curves_against_epochs_and_hyperparameters(
    finished_search: Workplace,
) -> None:
    rows = {row["trial"]: row for row in finished_search.rows("32-all.csv")}
    runs = sorted((finished_search.logs / "mnist_5k/batch_32").iterdir())
    assert [run.name for run in runs] == [f"trial_{n:04d}" for n in range(17)]
    for run in runs:
        events = EventAccumulator(str(run)).Reload()
        row = rows[str(int(run.name[-4:]))]
        for tag in ("accuracy/train", "accuracy/validation", "loss/train", "loss/validation"):
            steps = [event.step for event in events.Scalars(tag)]
            assert steps == list(range(1, int(row["epochs"]) + 1))
        accuracies = [event.value for event in events.Scalars("accuracy/validation")]
        assert max(accuracies) == pytest.approx(float(row["val_accuracy"]), abs=1e-6)
        (final,) = events.Scalars("val_accuracy")
        assert final.value == pytest.approx(float(row["val_accuracy"]), abs=1e-6)
        (epochs,) = events.Scalars("epochs")
        assert epochs.value == int(row["epochs"])
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        for name in ("conv1", "dropout_rate", "learning_rate", "batch_size", "augmentation"):
            assert name.encode() in content


def test_the_search_says_what_it_found_and_what_to_do_next(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune() == 0
    out = capsys.readouterr().out
    assert out.index("5 trials for each batch size") < out.index("batch 64 trial   0"), "plan first"
    assert "Best: conv1 " in out
    folder = workplace.results / "mnist_5k"
    written = re.search(r"Written to (.*): (.*)", out)
    assert written is not None
    assert written[1] == str(folder)
    assert all((folder / name).exists() for name in written[2].split(", "))
    assert f"tensorboard --logdir {workplace.logs}" in out
    assert f"python -m src.evaluate {folder / 'best-model.ckpt'}" in out


# ---- running it again


def test_plan_prints_and_stops(workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert workplace.tune("--plan", "--batch_sizes=[16,32,64]", "--iterations=2") == 0
    out = capsys.readouterr().out
    assert "3 → 1" in out
    assert "10 trials for each batch size, 30 in all" in out
    assert "90 at most" in out
    assert not workplace.results.exists()


def test_rerun_does_nothing_and_another_iteration_adds_one(searched: Workplace) -> None:
    first = searched.rows()
    assert len(first) == 5
    journal = searched.results / "mnist_5k/study.journal"
    before = journal.read_bytes()
    assert searched.tune() == 0
    assert searched.rows() == first
    assert journal.read_bytes() == before
    assert searched.tune("--iterations=2") == 0
    second = searched.rows()
    assert second[:5] == first
    assert [row["bracket"] for row in second] == 2 * ["1", "1", "1", "0", "0"]


def test_fewer_iterations_than_were_run_find_the_budget_spent(
    searched: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert searched.tune("--iterations=2") == 0
    before = searched.rows()
    assert searched.tune() == 0
    assert "The budget is spent already" in capsys.readouterr().out
    assert searched.rows() == before


def test_another_batch_size_joins_the_ranking(searched: Workplace) -> None:
    assert searched.tune("--batch_sizes=[16]") == 0
    assert {row["batch_size"] for row in searched.rows()} == {"16", "64"}
    best = json.loads((searched.results / "mnist_5k/best.json").read_text())
    assert best["val_accuracy"] == max(float(r["val_accuracy"]) for r in searched.rows())


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ("--seed=1", "`seed` (=1) differs"),
        ("--max_epochs=9", "`max_epochs` (=9) differs"),
        ("--sampler=random", "`sampler` (=random) differs"),
        ("--limit=300", "`limit` (=300) differs"),
        ("--precision=bf16", "`precision` (=bf16) differs"),
    ],
)
def test_changed_settings_are_refused(
    searched: Workplace, changed: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert searched.tune(changed) == 2
    error = capsys.readouterr().err
    assert shown in error
    assert "--results_dir" in error
    assert error.count("\n") == 1


def test_diverged_trial_is_pruned_with_its_reason(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.search.space.LEARNING_RATE", (1e20, 1e30))
    assert workplace.tune() == 0
    rows = workplace.rows()
    assert len(rows) == 5
    assert {row["state"] for row in rows} == {"PRUNED"}
    assert all(row["reason"].startswith("diverged: ") for row in rows)
    assert not (workplace.results / "mnist_5k/best.json").exists()


def test_search_chooses_the_recipe_where_there_is_a_choice(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--weight_averaging=true", "--augmentation=[none,affine]", "--sampler=random"]
    assert workplace.tune(*options, "--iterations=2") == 0
    rows = workplace.rows()
    assert {row["augmentation"] for row in rows} == {"none", "affine"}
    assert {row["weight_averaging"] for row in rows} == {"True"}
    assert {row["schedule"] for row in rows} == {"constant"}
    best = max(rows, key=lambda row: (row["state"] == "COMPLETE", float(row["val_accuracy"])))
    model = load_model(workplace.results / "mnist_5k/best-model.ckpt")
    assert model.hyperparameters.augmentation == best["augmentation"]
    assert model.hyperparameters.weight_averaging
    assert workplace.tune(*options[:1], *options[2:], "--iterations=2") == 2
    assert "`augmentation` (=['none']) differs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--schedule=[cosine,cosine]", "`schedule` (=['cosine', 'cosine']) must name"),
        ("--augmentation=[]", "`augmentation` (=[]) must name"),
        ("--label_smoothing=[0.1,1.0]", "`label_smoothing` (=1.0) must be >= 0 and < 1"),
        ("--weight_decay=-0.1", "`weight_decay` (=-0.1) must be >= 0 and < 1"),
        ("--augmentation=twirl", "`augmentation` (=twirl) must be one of"),
    ],
)
def test_wrong_recipes_are_refused_in_one_line(
    option: str, message: str, workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune(option) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("guess", "complaint"),
    [
        ("{conv1: 250}", "`conv1` (=250), which must be a number from 32 to 256 in steps of 32"),
        ("{conv1: yes}", "`conv1` (=True), which must be a number"),
        ("{learning_rate: 1}", "must be a number from 0.0001 to 0.01"),
        ("[{conv1: 64}, {batch_size: 32}]", "names `batch_size`; searched are conv1, conv2,"),
        ("[]", "has no configuration"),
        ("[64]", "must name hyperparameters"),
        ("{conv1: 64", "is no YAML"),
        ("nowhere.yaml", "must be a mapping such as {conv1: 256}, a list of such, or a file"),
    ],
)
def test_wrong_guesses_are_refused_in_one_line(
    guess: str, complaint: str, workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune("--try", guess) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert not workplace.results.exists()


def test_only_so_many_brackets_are_run(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune("--brackets=1", "--promotion=synchronous") == 0
    assert [row["bracket"] for row in workplace.rows()] == ["1"] * 3
    epochs = sum(float(row["epochs"]) for row in workplace.rows())
    assert epochs == 3 * 1 + 2  # three for one epoch, the best of them for three
    assert workplace.tune("--promotion=synchronous") == 2
    assert "`brackets` (=None) differs from that of the search" in capsys.readouterr().err


@pytest.mark.parametrize("brackets", ["0", "4", "x"])
def test_brackets_that_there_are_not_are_refused(
    brackets: str, workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace.tune(f"--brackets={brackets}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "brackets" in line
    assert not workplace.results.exists()


def test_rungs_that_fall_on_one_step_are_refused(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--limit=500", "--max_epochs=9", "--reduction_factor=3", "--min_epochs=0.1"]
    assert workplace.tune(*options, "--batch_sizes=[16,256]") == 2  # 400 images train
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 rungs within the first epoch" in line
    assert "one of its 2 steps at batch size 256" in line


def test_cost_counts_if_that_is_asked_for(workplace: Workplace) -> None:
    def tried(folder: str, *options: str) -> list[Hyperparameters]:
        own = (f"--results_dir={workplace.folder}/{folder}", "--workers=1", "--iterations=2")
        assert workplace.tune(*own, *options) == 0
        best = json.loads((workplace.folder / folder / "mnist_5k/best.json").read_text())
        assert best["search"]["settings"]["cost_exponent"] == (0.5 if options else 0.0)
        table = read_trials(workplace.folder / folder / "mnist_5k/all.csv")
        return [trial.hyperparameters for trial in table]

    without, with_it = tried("without"), tried("with", "--cost_exponent=0.5")
    assert without[:3] == with_it[:3]  # nothing is expected yet
    assert without[3:] != with_it[3:]


def test_guesses_are_read_from_a_file(
    workplace: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "guesses.yaml"
    file.write_text(
        "- {conv1: 32, conv2: 64, dense_units: 96, dropout_rate: 0.7, learning_rate: 2e-3}\n"
        "- {conv1: 224}\n"
    )
    assert workplace.tune(f"--try={file}") == 0
    first, second, *_ = sorted(workplace.rows(), key=lambda row: int(row["trial"]))
    assert [first[name] for name in ("conv1", "conv2", "dense_units")] == ["32", "64", "96"]
    assert first["dropout_rate"] == "0.7"
    assert float(first["learning_rate"]) == 0.002
    assert second["conv1"] == "224"
