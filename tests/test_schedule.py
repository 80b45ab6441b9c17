import pytest
import torch

from src.training.schedule import Schedule, learning_rate_share

STEPS = 137


def theirs(scheduler: str) -> list[float]:
    """Return the learning rates of one of PyTorch's schedulers, whose highest is 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule: torch.optim.lr_scheduler.LRScheduler
    if scheduler == "one_cycle":
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=1.0, total_steps=STEPS, cycle_momentum=False
        )
    else:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    rates = []
    for _ in range(STEPS):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_schedules_are_those_of_pytorch(schedule: Schedule) -> None:
    ours = [learning_rate_share(schedule, step, STEPS) for step in range(STEPS)]
    assert ours == pytest.approx(theirs(schedule), abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("schedule", ["constant", "one_cycle", "cosine"])
def test_shortest_fits_have_a_learning_rate(schedule: Schedule, steps: int) -> None:
    shares = [learning_rate_share(schedule, step, steps) for step in range(steps)]
    assert all(0 < share <= 1 for share in shares)
