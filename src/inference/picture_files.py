"""Load picture files with Pillow; name the kinds of files that it does not read."""

import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from src.core import checks
from src.core.errors import UserError

_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "TGA")
"""Pillow's formats that are read, none of which starts another program, as EPS would."""

_HEIC, _AVIF, _RAW, _VIDEO = "a HEIC picture", "an AVIF picture", "a camera's raw file", "a video"

_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), _AVIF),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), _HEIC),
    **dict.fromkeys((b"mif1", b"msf1"), _HEIC),
    b"crx ": _RAW,
    **dict.fromkeys((b"isom", b"mp41", b"mp42", b"qt  "), _VIDEO),
}
"""What the brands of an ISO base media file stand for (ISO/IEC 14496-12 and 23008-12); of several,
the first one here counts."""

_BEGINNINGS = {
    rb"\Z": "an empty file",
    rb"\s*%PDF-": "a PDF document",
    rb"%!PS|\xc5\xd0\xd3\xc6": "a PostScript drawing",
    rb"\s*<(!doctype html|html)[\s>]": "a web page",
    rb"[^\0]*?<svg[\s>]": "an SVG drawing",
    rb"8BPS": "a Photoshop file",
    rb"gimp xcf": "a GIMP file",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "a JPEG XL picture",
    rb"II\*\0.{4}CR|FUJIFILMCCD-RAW|IIRO|IIRS|MMOR|IIU\0|FOVb|\0MRM": _RAW,
    rb"\x1aE\xdf\xa3": _VIDEO,
    rb"\x1f\x8b": "a gzip archive",
    rb"PK\x03\x04": "a ZIP archive or an office document",
}
"""How files begin, as regular expressions, and what they are."""

_RAW_SUFFIXES = {".arw", ".dng", ".nef", ".nrw", ".pef", ".raw", ".srw"}
"""Names of raw files that begin as any TIFF does."""

_LOOKED_AT = 4096
"""Bytes that tell the kind of a file."""


def load_picture(path: str | Path) -> Image.Image:
    """Load a picture, or the first one of an animation, the way up that its EXIF says.

    Returns:
        A picture with 8 bits a channel.

    Raises:
        UserError: there is no such file, it is no whole picture, one too large to be read, or of a
            kind that is not read.
    """
    path, kind = Path(path), None
    if not path.exists():  # a name such as ~draft.png is no home folder
        path = checks.absolute_path("picture", path)
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of odd metadata, which do not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            kind = _kind(file.peek(_LOOKED_AT)[:_LOOKED_AT], path.suffix.lower())
            with Image.open(file, formats=_formats(with_heif=kind == _HEIC)) as picture:
                picture.load()
                return with_8_bits(ImageOps.exif_transpose(picture))
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        most = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UserError(f"larger than {most} megapixels; make it smaller") from error
    except Exception as error:  # whatever a damaged file makes its decoder raise
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif kind == _HEIC or (kind == _AVIF and features.check("avif")):
            reason = f"{kind}, but damaged"
        elif kind is not None:
            reason = f"{kind}, which is not read; give a PNG or JPEG instead"
        elif isinstance(error, UnidentifiedImageError):
            reason = "no picture, or of a kind that is not known"
        else:
            reason = "damaged"
        raise UserError(reason) from error


def with_8_bits(picture: Image.Image) -> Image.Image:
    """Return a picture of more bits a channel with 8; other ones as they are."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture, dtype=np.float64)
    holes = ~np.isfinite(values)  # as scientific cameras leave them
    if holes.any():
        values = np.where(holes, 0.0 if holes.all() else np.median(values[~holes]), values)
    low = 0.0 if picture.mode.startswith("I;16") else values.min()
    span = max(float(values.max() - low), 1e-9)  # cameras of 10 or 12 bits do not fill 16
    return Image.fromarray(((values - low) * (255 / span)).astype(np.uint8))


def _formats(with_heif: bool) -> list[str]:
    """Return the names of Pillow's formats that can be read here.

    Raises:
        UserError: the plugin for HEIF is wanted and not installed.
    """
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    if with_heif:
        try:
            import pillow_heif
        except ImportError as error:
            raise UserError(
                f"{_HEIC}, which needs pillow-heif to be read; pip install -e '.[heic]', "
                "or give a JPEG instead"
            ) from error
        pillow_heif.register_heif_opener()
        formats.insert(0, "HEIF")
    return formats


def _kind(beginning: bytes, suffix: str) -> str | None:
    """Name the kind of a file, if Pillow alone may not read it, by its first bytes and suffix."""
    if beginning[4:8] == b"ftyp":
        box = beginning[8 : int.from_bytes(beginning[:4], "big")]
        brands = {box[i : i + 4] for i in range(0, len(box), 4) if i != 4}  # 4: a version
        return next((kind for brand, kind in _BRANDS.items() if brand in brands), None)
    for expression, kind in _BEGINNINGS.items():
        if re.match(expression, beginning, re.DOTALL | re.IGNORECASE):
            return kind
    return _RAW if suffix in _RAW_SUFFIXES else None
