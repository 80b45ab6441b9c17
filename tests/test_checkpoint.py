import dataclasses
import pickle
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.errors import UserError
from src.data.files import load_images
from src.training.checkpoint import load_description, load_model, save_model
from src.training.hyperparameters import Hyperparameters
from src.training.network import to_inputs
from src.training.task import CharacterTask
from tests.conftest import Workplace


@pytest.fixture
def checkpoint(finished_search: Workplace, tmp_path: Path) -> Path:
    """A checkpoint that a search left, to be damaged."""
    copy = tmp_path / "model.ckpt"
    copy.write_bytes((finished_search.results / "mnist_5k/best-model.ckpt").read_bytes())
    return copy


def test_saving_and_loading_give_the_same_model(checkpoint: Path, tmp_path: Path) -> None:
    model = load_model(checkpoint)
    save_model(tmp_path / "again.ckpt", model)
    again = load_model(tmp_path / "again.ckpt")
    weights, others = model.weights, again.weights
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    for field in ("hyperparameters", "data_spec", "class_names", "history", "provenance"):
        assert getattr(model, field) == getattr(again, field)
    assert isinstance(model.hyperparameters, Hyperparameters)


def test_description_is_the_model_without_its_weights(checkpoint: Path) -> None:
    model, description = load_model(checkpoint), load_description(checkpoint)
    names = {field.name for field in dataclasses.fields(model)} - {"weights"}
    assert vars(description) == {name: getattr(model, name) for name in names}


def test_lightning_loads_the_checkpoint_too(checkpoint: Path) -> None:
    task = CharacterTask.load_from_checkpoint(
        checkpoint, map_location="cpu", weights_only=True
    ).eval()
    (images,) = load_images("mnist_5k", "test", "nowhere")
    with torch.no_grad():
        assert torch.equal(
            task(images.pixels), load_model(checkpoint).network()(to_inputs(images.pixels))
        )


class _Payload:
    """What a hostile pickle is made of: loading it calls a function of the attacker's choice."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("way", ["zip archive", "bare pickle", "inside a real checkpoint"])
def test_a_pickle_that_would_run_code_is_refused(
    way: str, checkpoint: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "executed"
    content = {"state_dict": _Payload(victim)}
    if way == "bare pickle":
        checkpoint.write_bytes(pickle.dumps(content))
    else:
        if way == "inside a real checkpoint":
            content = torch.load(checkpoint, weights_only=True) | content
        torch.save(content, checkpoint)
    if way == "bare pickle":
        pickle.loads(checkpoint.read_bytes())
    else:
        torch.load(checkpoint, weights_only=False)
    assert victim.exists(), "the attack works on a careless loader"
    victim.unlink()
    with pytest.raises(UserError, match=r"refused: .* could run code"):
        load_model(checkpoint)
    assert not victim.exists()


def test_damage_anywhere_is_a_clear_error(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    generator = random.Random(0)
    for length in [0, 1, 100, *(generator.randrange(len(content)) for _ in range(20))]:
        checkpoint.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"model\.ckpt is"):
            load_model(checkpoint)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"hcr_lightning": {"format": 99}, "state_dict": {}},
        {"hcr_lightning": None, "state_dict": {}},
        [1, 2, 3],
    ],
)
def test_other_peoples_checkpoints_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="no checkpoint of this project"):
        load_model(tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("hyperparameters.dense_units", 33, "has shape"),
        ("hyperparameters.dense_units", 2048, "has shape"),
        ("hyperparameters.dense_units", 10**12, "must be <= 2048"),
        ("hyperparameters.conv1", -1, "`conv1` (=-1) must be >= 1"),
        ("hyperparameters.extra", 1, "extra"),
        ("data_spec.dataset", "foo", "foo"),
        ("data_spec.dataset", [1], "its dataset (=[1]) is no"),
        ("data_spec.dataset", "emnist_letters", "its classes are not those of emnist_letters"),
        ("val_accuracy", float("nan"), "its val_accuracy is nan"),
        ("val_accuracy", "x", "its val_accuracy (=x) is no"),
        ("validation_confusion", [[1]], "does not fit 10 classes"),
        ("history", [1], "what should be Epoch is 1"),
        ("format", 2, "written by another version"),
    ],
)
def test_content_that_makes_no_sense_is_refused(
    path: str, value: object, message: str, checkpoint: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    *parents, name = path.split(".")
    place = content["hcr_lightning"]
    for parent in parents:
        place = place[parent]
    place[name] = value
    torch.save(content, checkpoint)
    with pytest.raises(UserError, match="no checkpoint of this project: .*" + re.escape(message)):
        load_model(checkpoint)


@pytest.mark.parametrize(
    "weights", [{}, {1: 2}, {"model.conv1.bias": "x"}, torch.zeros(3)], ids=repr
)
def test_weights_of_something_else_are_refused(weights: object, checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"state_dict": weights}, checkpoint)
    with pytest.raises(UserError, match="no checkpoint of this project"):
        load_model(checkpoint)


def test_weights_that_are_no_numbers_are_refused(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["model.logits.bias"][3] = float("nan")
    torch.save(content, checkpoint)
    with pytest.raises(UserError, match=r"model\.logits\.bias holds numbers that are not finite"):
        load_model(checkpoint)


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no checkpoint .*nope\.ckpt"):
        load_model(tmp_path / "nope.ckpt")
