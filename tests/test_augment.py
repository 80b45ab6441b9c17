import numpy as np
import pytest
import torch
from scipy import ndimage

from src.data.catalog import DataSpec
from src.data.split import load_training_data
from src.training.augment import ELASTIC_ALPHA, ELASTIC_SIGMA, SHIFT, Distortion

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """100 real digits."""
    return load_training_data(DataSpec(dataset="mnist_5k", limit=125), "nowhere").train.pixels


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_affine_distortion_is_scipys_affine_transform(pixels: torch.Tensor) -> None:
    distortion = Distortion(affine=True, elastic=False, device=CPU)
    maps = distortion.draw_maps(len(pixels), seeded()).numpy()
    distorted = distortion(pixels, seeded()).numpy()
    middle = np.array([13.5, 13.5])
    for image, found, (to_x, to_y, shift) in zip(pixels.numpy(), distorted, maps, strict=True):
        # SciPy counts in rows and columns, y before x.
        matrix = np.array([[to_y[1], to_x[1]], [to_y[0], to_x[0]]])
        offset = middle - matrix @ middle + shift[::-1]
        expected = ndimage.affine_transform(image.astype(float), matrix, offset, order=1)
        assert np.abs(found - expected).max() <= 1  # a value between two is rounded


def test_maps_turn_shear_scale_and_shift_a_little() -> None:
    distortion = Distortion(affine=True, elastic=False, device=CPU)
    maps = distortion.draw_maps(20_000, seeded()).numpy()
    linear, shift = maps[:, :2], maps[:, 2]
    assert np.abs(shift).max() == pytest.approx(SHIFT, abs=0.01)
    areas = np.abs(np.linalg.det(linear))
    assert 0.81 <= areas.min() < 0.85
    assert 1.15 < areas.max() <= 1.21
    angles = np.degrees(np.arctan2(linear[:, 0, 1], linear[:, 0, 0]))  # where the rows go
    assert np.abs(angles).max() == pytest.approx(10, abs=2.5)
    assert np.abs(maps.mean(axis=0) - [[1, 0], [0, 1], [0, 0]]).max() < 0.03


def test_elastic_distortion_bends_by_smoothed_noise(pixels: torch.Tensor) -> None:
    distortion = Distortion(affine=False, elastic=True, device=CPU)
    noise = torch.rand((len(pixels), 2, 28, 28), generator=seeded()).numpy() * 2 - 1
    bends = np.stack(
        [
            ndimage.gaussian_filter(field, ELASTIC_SIGMA, mode="constant", truncate=8)
            for field in noise.reshape(-1, 28, 28)
        ]
    ).reshape(noise.shape) * ELASTIC_ALPHA  # fmt: skip
    assert bends[..., 7:21, 7:21].std() == pytest.approx(0.8, abs=0.1)
    distorted = distortion(pixels, seeded()).numpy()
    rows, columns = np.mgrid[:28, :28].astype(float)
    for image, found, (x, y) in zip(pixels.numpy(), distorted, bends, strict=True):
        expected = ndimage.map_coordinates(
            image.astype(float), [rows + y, columns + x], order=1, mode="constant"
        )
        # At the border SciPy has nothing half a pixel outside of an image.
        assert np.abs(found - expected)[2:-2, 2:-2].max() <= 1


@pytest.mark.parametrize(("affine", "elastic"), [(True, False), (False, True), (True, True)])
def test_distortions_follow_from_the_generator(
    affine: bool, elastic: bool, pixels: torch.Tensor
) -> None:
    distortion = Distortion(affine=affine, elastic=elastic, device=CPU)
    first, again = distortion(pixels, seeded()), distortion(pixels, seeded())
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, distortion(pixels, seeded(1)))
    same = pixels[:1].expand(50, -1, -1)
    assert len(torch.unique(distortion(same, seeded()), dim=0)) == 50  # each image its own
