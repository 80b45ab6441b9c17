import io
import os
import struct
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageDraw, features
from sklearn.neighbors import KNeighborsClassifier

from src.core.errors import UserError
from src.data.files import Images, load_images
from src.inference.photo import SIDE, bring_to_emnist
from src.inference.picture_files import load_picture
from tests.conftest import REAL_DATA, needs_emnist

WHITE, BLACK = 255, 0
Pixels = NDArray[np.uint8]
Chosen = list[tuple[Pixels, Pixels, int]]
NARROW = [(0.5, 0.0), (0.5, 1.0)]
ZIGZAG = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]


def write(
    points: list[tuple[float, float]] = ZIGZAG,
    size: tuple[int, int] = (600, 450),
    place: tuple[float, float] = (0.4, 0.3),
    tall: float = 0.4,
    pen: float = 0.02,
) -> Image.Image:
    """Write a line with a round pen, black on white; lengths in longer sides of the picture."""
    fine = 4  # drawn larger, so that edges are smooth
    side = max(size) * fine
    picture = Image.new("L", (size[0] * fine, size[1] * fine), WHITE)
    draw = ImageDraw.Draw(picture)
    corners = [((place[0] + x * tall) * side, (place[1] + y * tall) * side) for x, y in points]
    draw.line(corners, fill=BLACK, width=round(pen * side))
    for x, y in corners:
        draw.circle((x, y), pen * side / 2, fill=BLACK)
    return picture.resize(size, Image.Resampling.BOX)


def on_paper(pixels: Pixels, rng: np.random.Generator) -> Image.Image:
    """Put light strokes on black somewhere on a large white paper, enlarged, as dark strokes."""
    paper = Image.new("L", (600, 450), WHITE)
    side = int(rng.integers(150, 400))
    large = invert(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
    paper.paste(large, (int(rng.integers(600 - side)), int(rng.integers(450 - side))))
    return paper


def invert(picture: Image.Image) -> Image.Image:
    return Image.eval(picture, lambda value: 255 - value)


def photograph(picture: Image.Image, seed: int = 0) -> Image.Image:
    """Put writing on yellowish paper with a grain, in uneven light, through a noisy JPEG camera."""
    rng = np.random.default_rng(seed)
    ink = 1 - np.asarray(picture.convert("L"), dtype=np.float32)[..., None] / 255
    light = np.linspace(1, 0.6, ink.shape[1])[None, :, None]
    grain = rng.normal(0, 4, (ink.shape[0] // 4 + 1, ink.shape[1] // 4 + 1, 1))
    grain = grain.repeat(4, 0).repeat(4, 1)[: ink.shape[0], : ink.shape[1]]
    paper, pen = np.array([235, 228, 205]), np.array([50, 50, 90])
    colours = (paper * (1 - ink) + pen * ink) * light + grain + rng.normal(0, 5, ink.shape)
    stream = io.BytesIO()
    Image.fromarray(colours.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=80)
    return Image.open(stream)


def difference(one: Pixels, other: Pixels) -> float:
    """Return the mean difference of pixels as a share of the mean ink."""
    a, b = one.astype(float), other.astype(float)
    return float(np.abs(a - b).mean() / ((a + b).mean() / 2))


def test_result_is_light_strokes_on_black_centred_with_a_margin() -> None:
    pixels = bring_to_emnist(write())
    assert pixels.shape == (SIDE, SIDE)
    assert pixels.dtype == np.uint8
    assert pixels.max() == 255
    assert pixels[[0, -1]].max() == pixels[:, [0, -1]].max() == 0
    rows, columns = (np.flatnonzero(pixels.max(axis=axis) > 127) for axis in (1, 0))
    assert rows[0] + rows[-1] == columns[0] + columns[-1] == SIDE - 1
    assert rows[-1] - rows[0] + 1 == 22


def test_character_is_upright_and_not_mirrored() -> None:
    pixels = bring_to_emnist(write([(0, 0), (0, 1), (0.6, 1)]))  # an L
    assert pixels[4:20, 6:12].mean() > 5 * pixels[4:20, 14:24].mean()
    assert pixels[20:, 14:24].mean() > 5 * pixels[4:20, 14:24].mean()


def test_aspect_ratio_is_kept() -> None:
    pixels = bring_to_emnist(write(NARROW))
    assert np.ptp(np.flatnonzero(pixels.max(axis=1) > 127)) + 1 == 22
    assert np.ptp(np.flatnonzero(pixels.max(axis=0) > 127)) + 1 <= 4


@pytest.mark.parametrize("points", [ZIGZAG, NARROW])
@pytest.mark.parametrize("pen", [0.005, 0.02, 0.04])
def test_polarity_does_not_matter(points: list[tuple[float, float]], pen: float) -> None:
    picture = write(points, pen=pen)
    assert difference(bring_to_emnist(picture), bring_to_emnist(invert(picture))) < 0.01


@pytest.mark.parametrize("size", [(60, 45), (200, 150), (1200, 900), (2400, 1800)])
def test_size_of_the_picture_does_not_matter(size: tuple[int, int]) -> None:
    assert difference(bring_to_emnist(write(size=size)), bring_to_emnist(write())) < 0.1


@pytest.mark.parametrize("place", [(0.02, 0.02), (0.55, 0.3)])
@pytest.mark.parametrize("tall", [0.2, 0.4])
def test_place_and_size_on_the_paper_do_not_matter(place: tuple[float, float], tall: float) -> None:
    moved = write(place=place, tall=tall, pen=0.05 * tall)
    assert difference(bring_to_emnist(moved), bring_to_emnist(write())) < 0.05


@pytest.mark.parametrize("pen", [0.004, 0.01, 0.03, 0.04])
def test_pen_does_not_matter(pen: float) -> None:
    assert difference(bring_to_emnist(write(pen=pen)), bring_to_emnist(write())) < 0.15


@pytest.mark.parametrize("points", [ZIGZAG, NARROW])
@pytest.mark.parametrize("side", [300, 1200])
def test_paper_light_and_noise_do_not_matter(points: list[tuple[float, float]], side: int) -> None:
    picture = write(points, (side, side * 3 // 4))
    photographed = bring_to_emnist(photograph(picture))
    assert difference(photographed, bring_to_emnist(picture)) < 0.1
    assert difference(bring_to_emnist(photograph(invert(picture))), photographed) < 0.1


def test_edge_of_a_shadow_is_no_stroke() -> None:
    picture = write()
    pixels = np.asarray(picture).copy()
    pixels[:, 300:] //= 2
    assert difference(bring_to_emnist(Image.fromarray(pixels)), bring_to_emnist(picture)) < 0.1


def test_table_around_the_paper_is_no_stroke() -> None:
    paper = write()
    table = Image.new("L", (640, 490), 60)
    table.paste(paper, (20, 20))
    assert difference(bring_to_emnist(table), bring_to_emnist(paper)) < 0.05


def test_specks_are_dropped_and_dots_are_kept() -> None:
    picture = write(NARROW)
    clean = bring_to_emnist(picture)
    ImageDraw.Draw(picture).circle((40, 400), 2, fill=BLACK)
    assert difference(bring_to_emnist(picture), clean) < 0.01
    ImageDraw.Draw(picture).circle((360, 100), 6, fill=BLACK)  # the tip of the pen
    dotted = bring_to_emnist(picture)
    ink = np.flatnonzero(dotted.max(axis=1) > 60)
    assert (np.diff(ink) > 1).sum() == 1
    assert ink[0] < 5


def test_separate_strokes_are_kept() -> None:
    picture = write([(0, 0), (0, 1)])
    picture.paste(write([(1, 0), (1, 1)]), mask=invert(write([(1, 0), (1, 1)])))
    pixels = bring_to_emnist(picture)
    assert (np.diff((pixels[14] > 127).astype(int)) == 1).sum() == 2


def test_exif_turns_the_picture(tmp_path: Path) -> None:
    upright = write()
    for orientation, turn in [(3, 180), (6, 90), (8, 270)]:
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright.rotate(turn, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
        turned = bring_to_emnist(load_picture(tmp_path / "turned.jpg"))
        assert difference(turned, bring_to_emnist(upright)) < 0.02


def on_nothing(picture: Image.Image, ink: int) -> Image.Image:
    """Return strokes of one grey on a transparent ground."""
    strokes = Image.new("LA", picture.size, ink)
    strokes.putalpha(invert(picture))
    return strokes


def with_cut_corners(picture: Image.Image, radius: float) -> Image.Image:
    """Return a page whose corners are rounded off: transparent, as those of screenshots are."""
    opacity = Image.new("L", picture.size, 0)
    box = (0, 0, picture.width - 1, picture.height - 1)
    ImageDraw.Draw(opacity).rounded_rectangle(box, radius * min(picture.size), fill=255)
    page = picture.convert("RGBA")
    page.putalpha(opacity)
    return page


def with_holes(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture).astype(np.float32) / 255
    values[:2, :3] = [[np.nan, np.inf, -np.inf]] * 2
    return Image.fromarray(values)


MODES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "1-bit": lambda picture: picture.convert("1", dither=Image.Dither.NONE),
    "16-bit": lambda p: Image.fromarray(np.asarray(p).astype(np.uint16) * 257),
    "32-bit": lambda p: Image.fromarray(np.asarray(p).astype(np.int32) * 1000),
    "float": lambda p: Image.fromarray(np.asarray(p).astype(np.float32) / 255),
    "float with holes": with_holes,
    "colour": lambda p: Image.merge("RGB", (p, p, p)),
    "palette": lambda p: p.convert("RGB").convert("P"),
    "CMYK": lambda p: p.convert("RGB").convert("CMYK"),
    "cropped to bold strokes": lambda p: on_nothing(p, BLACK).crop(
        invert(p).getbbox() or (0, 0, 1, 1)
    ),
    "black on transparent": lambda p: on_nothing(p, BLACK),
    "white on transparent": lambda p: on_nothing(p, WHITE),
    "transparent colour": lambda p: on_nothing(p, BLACK).convert("RGBA"),
    "10 of 16 bits": lambda p: Image.fromarray(np.asarray(p).astype(np.uint16) * 4),
    "page with cut corners": lambda p: with_cut_corners(p, 0.1),
    "dark page with cut corners": lambda p: with_cut_corners(invert(p), 0.1),
    "round page": lambda p: with_cut_corners(p, 0.5),
    "red on blue": lambda p: Image.composite(
        Image.new("RGB", p.size, (29, 57, 201)), Image.new("RGB", p.size, (190, 20, 20)), p
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_kind_of_picture_does_not_matter(mode: str, tmp_path: Path) -> None:
    picture = MODES[mode](write())
    suffix = "tif" if picture.mode in ("CMYK", "F", "I") else "png"
    picture.save(tmp_path / f"picture.{suffix}")
    pixels = bring_to_emnist(load_picture(tmp_path / f"picture.{suffix}"))
    assert difference(pixels, bring_to_emnist(write())) < 0.1


def test_first_picture_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [write(ZIGZAG), write(NARROW)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    pixels = bring_to_emnist(load_picture(tmp_path / "moving.gif"))
    assert difference(pixels, bring_to_emnist(frames[0])) < 0.02


def noise(scale: float) -> Image.Image:
    grey = np.random.default_rng(0).normal(128, scale, (300, 400))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


EMPTY = {
    "white": Image.new("L", (400, 300), WHITE),
    "black": Image.new("RGB", (400, 300), BLACK),
    "transparent": Image.new("RGBA", (400, 300), (0, 0, 0, 0)),
    "one pixel": Image.new("L", (1, 1), BLACK),
    "one pixel high": Image.new("L", (1000, 1), BLACK),
    "constant float": Image.new("F", (40, 30), 0.3),
    "gradient": Image.linear_gradient("L"),
    "faint noise": noise(2),
    "noise": noise(20),
    "photographed paper": photograph(Image.new("L", (400, 300), WHITE)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_picture_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="nothing is drawn"):
        bring_to_emnist(EMPTY[name])


def test_thinnest_pictures_do_not_crash() -> None:
    rng = np.random.default_rng(0)
    for size in [(1, 2), (2, 2), (3, 1), (5000, 1), (1, 5000), (28, 28)]:
        with np.errstate(all="raise"):
            try:
                pixels = bring_to_emnist(
                    Image.fromarray(rng.integers(0, 2, size[::-1], dtype=np.uint8) * 255)
                )
            except UserError:
                continue
        assert pixels.shape == (SIDE, SIDE)


@pytest.fixture(scope="module")
def emnist() -> tuple[Images, Chosen]:
    """Training digits of EMNIST; six others of each, before and after a photograph."""
    rng = np.random.default_rng(0)
    images = Images.joined(load_images("emnist_digits", "train", str(REAL_DATA)))
    photographed, chosen = [], []
    for label in images.labels.unique():
        for i in rng.choice(images.labels.eq(label).nonzero().flatten(), 6, replace=False):
            before = images.pixels[i].numpy()
            after = bring_to_emnist(photograph(on_paper(before, rng), seed=int(i)))
            photographed.append(i)
            chosen.append((before, after, int(label)))
    others = np.delete(np.arange(len(images.labels)), photographed)
    return images[torch.from_numpy(others)], chosen


@pytest.mark.long
@needs_emnist
def test_photographs_of_emnist_are_read_as_well_as_emnist(
    emnist: tuple[Images, Chosen],
) -> None:
    training, chosen = emnist
    some = np.random.default_rng(0).choice(len(training.labels), 20_000, replace=False)
    neighbours = KNeighborsClassifier(3, weights="distance").fit(
        training.pixels[some].flatten(1).numpy() / 255.0, training.labels[some].numpy()
    )
    before, after, labels = (np.array(column) for column in zip(*chosen, strict=True))
    share = [
        (neighbours.predict(pixels.reshape(-1, SIDE**2) / 255.0) == labels).mean()
        for pixels in (before, after)
    ]
    assert share[0] > 0.9
    assert share[1] > share[0] - 0.04


@pytest.mark.long
@needs_emnist
def test_photographs_of_emnist_have_its_strokes_and_margins(
    emnist: tuple[Images, Chosen],
) -> None:
    _, chosen = emnist
    before, after, _ = (np.array(column) for column in zip(*chosen, strict=True))
    assert after.mean() == pytest.approx(before.mean(), rel=0.1)
    assert (after > 0).mean() == pytest.approx((before > 0).mean(), rel=0.1)
    assert (after > 192).mean() == pytest.approx((before > 192).mean(), rel=0.15)
    assert np.median([difference(a, b) for b, a, _ in chosen]) < 0.35


def test_files_that_are_no_pictures_are_refused_with_a_reason(tmp_path: Path) -> None:
    whole = io.BytesIO()
    photograph(write()).save(whole, "PNG")
    files = {
        "text.png": (b"no picture", "no picture"),
        "empty.png": (b"", "an empty file, which is not read"),
        "truncated.png": (whole.getvalue()[: len(whole.getvalue()) // 2], "damaged|truncated"),
        "bomb.png": (bomb(), "larger than 89 megapixels"),
    }
    for name, (content, reason) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=reason):
            load_picture(tmp_path / name)
    with pytest.raises(UserError, match="No such file"):
        load_picture(tmp_path / "missing.png")
    with pytest.raises(UserError, match="directory"):
        load_picture(tmp_path)


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_of_a_telephone_is_read_as_its_png_is(orientation: int, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed (an extra)")
    picture = photograph(write()).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "one.png", exif=exif)
    heif.from_pillow(picture).save(tmp_path / "one.HEIC", quality=90, exif=exif.tobytes())
    wanted, read = (load_picture(tmp_path / name) for name in ("one.png", "one.HEIC"))
    assert read.size == wanted.size
    assert np.abs(np.asarray(read).astype(int) - np.asarray(wanted)).mean() < 4  # as of a JPEG
    assert difference(bring_to_emnist(read), bring_to_emnist(wanted)) < 0.1
    whole = (tmp_path / "one.HEIC").read_bytes()
    (tmp_path / "part.heic").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="a HEIC picture, but damaged"):
        load_picture(tmp_path / "part.heic")


@pytest.mark.parametrize("brands", [b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic"])
def test_heic_without_its_extra_is_named_with_the_way_out(
    brands: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # what import then takes for missing
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(400))
    with pytest.raises(UserError) as refused:
        load_picture(path)
    assert str(refused.value) == (
        "a HEIC picture, which needs pillow-heif to be read; pip install -e '.[heic]', "
        "or give a JPEG instead"
    )


UNREAD = {
    "empty.png": (b"", "an empty file"),
    "drawing.svgz": (b"\x1f\x8b\x08\0" + bytes(20), "a gzip archive"),
    "scan.pdf": (
        b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj<</Type/Catalog>>endobj\n",
        "a PDF document",
    ),
    "saved as.png": (b"\n<!DOCTYPE html>\n<html><body><svg></svg></body></html>", "a web page"),
    "drawing.svg": (b"<?xml version='1.0'?>\n<!-- -->\n<svg xmlns='#'></svg>", "an SVG drawing"),
    "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript drawing"),
    "picture.psd": (b"8BPS\0\1" + bytes(20), "a Photoshop file"),
    "picture.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "a JPEG XL picture"),
    "IMG_1.CR2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(20), "a camera's raw file"),
    "IMG_1.CR3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(20), "a camera's raw file"),
    "DSC_1.NEF": (b"MM\0*\0\0\0\x08" + bytes(20), "a camera's raw file"),
    "film.mov": (b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(20), "a video"),
    "letter.docx": (b"PK\3\4\x14\0" + bytes(20), "a ZIP archive or an office document"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read_is_named_for_what_it_is(name: str, tmp_path: Path) -> None:
    content, kind = UNREAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^{kind}, which is not read; give a PNG or JPEG instead$"):
        load_picture(tmp_path / name)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_that_pillow_cannot_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "picture.avif"
    write().save(path)
    assert load_picture(path).size == (600, 450)
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    with pytest.raises(UserError, match="an AVIF picture, which is not read"):
        load_picture(path)


def test_picture_may_be_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    write().save(home / "one.png")
    write().save(here / "~draft.png")
    assert load_picture("~/one.png").size == (600, 450)
    assert load_picture("~draft.png").size == (600, 450)


def test_picture_may_come_through_a_pipe(tmp_path: Path) -> None:
    write().save(tmp_path / "one.png")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(
        target=pipe.write_bytes, args=[(tmp_path / "one.png").read_bytes()], daemon=True
    )
    writer.start()
    assert load_picture(pipe).size == (600, 450)


def bomb(side: int = 60_000) -> bytes:
    """Return the beginning of a PNG that says it has 3.6 gigapixels."""
    small = io.BytesIO()
    Image.new("L", (1, 1)).save(small, "PNG")
    content = bytearray(small.getvalue())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)
