"""What earlier versions have left is read and gone on with."""

import csv
import shutil
from pathlib import Path

import torch

from src.data.split import load_training_data
from src.search.hyperband import make_plan
from src.training.checkpoint import load_model
from src.training.network import to_inputs
from tests.conftest import Workplace

EARLIER = Path(__file__).with_name("data") / "earlier_search"
CONFIGURATION = (
    "trial", "bracket", "batch_size", "conv1", "conv2", "dense_units", "dropout_rate",
    "learning_rate",
)  # fmt: skip


def test_search_that_an_earlier_version_began_goes_on(workplace: Workplace) -> None:
    folder = workplace.results / "mnist_5k"
    folder.mkdir(parents=True)
    for name in ("study.journal", "32-best.ckpt"):
        shutil.copy(EARLIER / name, folder)
    begun = (folder / "study.journal").read_bytes()
    same = ("--limit=200", "--batch_sizes=[32]", "--sampler=random", "--seed=288", "--workers=1")
    assert workplace.tune(*same, max_epochs=9) == 0
    assert (folder / "study.journal").read_bytes().startswith(begun)

    with (EARLIER / "all.csv").open(newline="") as file:
        wanted = list(csv.DictReader(file))
    rows = workplace.rows()
    assert len(rows) == len(wanted) == make_plan(9, 3).trials
    for row, there in zip(rows, wanted, strict=True):
        assert [row[name] for name in CONFIGURATION] == [there[name] for name in CONFIGURATION]
        assert row["state"] in ("COMPLETE", "PRUNED")
    for row, there in zip(rows[:3], wanted, strict=False):  # those that had ended
        now = {name: row[name] for name in there}  # without what has come since
        assert now | {"seconds": ""} == there | {"seconds": ""}


def test_model_of_an_earlier_version_reads_as_it_did() -> None:
    model = load_model(EARLIER / "32-best.ckpt")
    validation = load_training_data(model.data_spec, Path("nowhere")).validation
    with torch.inference_mode():
        read = model.network()(to_inputs(validation.pixels)).argmax(1)
    right = int((read == validation.labels).sum())
    assert abs(right - model.val_accuracy * len(validation)) <= 1  # on another processor
    assert model.val_accuracy == 0.8
