"""Files of images: which formats are read, opened so that nothing can hang or grow, and what else a file seems to be.

Read are AVIF (where Pillow can), BMP, GIF, JPEG (of several pictures, the first: MPO), PNG, PPM (PBM, PGM), TIFF and WebP.
Every other format of Pillow's is left out on purpose: some run other programs (EPS), some know no signature (TGA), and each
is one more parser for the files of strangers.
"""

import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from PIL import Image, UnidentifiedImageError

from reforg.errors import ImageError
from reforg.files import OPENING

FORMATS = ("Jpeg", "Png", "WebP", "Tiff", "Gif", "Bmp", "Ppm", "Avif")  # as Pillow calls its plugins
LARGEST_HEADER = 2**20
BYTES_A_PIXEL = 8  # that a file may have at most for every pixel that is allowed: four channels of 16 bits

READ = {
    b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF",
    b"II+\0": "TIFF", b"MM\0+": "TIFF",
}  # fmt: skip
OTHERS = {
    b"%PDF": "PDF", b"PK\3\4": "a ZIP archive", b"\x1f\x8b": "compressed (gzip)", b"8BPS": "Photoshop's", b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript", b"\x93NUMPY": "an array of NumPy's", b"version https://": "a Git LFS pointer, not the file",
    b"<svg": "SVG", b"<": "a web page or XML", b"\0\0\1\0": "an icon", b"qoif": "QOI", b"SIMPLE  =": "FITS",
    b"\xff\x4f\xff\x51": "JPEG 2000", b"\0\0\0\x0cjP  ": "JPEG 2000", b"\0\0\0\x0cJXL ": "JPEG XL", b"\xff\x0a": "JPEG XL",
    b"\x89HDF": "HDF5", b"\x7fELF": "a program", b"MZ": "a program",
}  # fmt: skip
BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF"}
for _format in FORMATS:  # a plugin registers itself when it is imported
    with suppress(ImportError):  # Pillow has AVIF since 11.3
        import_module(f"PIL.{_format}ImagePlugin")


@contextmanager
def open_picture(path: Any, name: str) -> Iterator[Image.Image]:
    """The image in a file, only its header read yet; ImageError where there is none, or one too large. name: for the error."""
    with os.fdopen(_descriptor(path, name), "rb") as file:
        head = file.read(32)
        try:
            image = Image.open(file, formats=[known for known in map(str.upper, FORMATS) if known in Image.OPEN])
        except UnidentifiedImageError as error:
            raise ImageError(f"images: {name} is not an image that is read: it {_seems(head)}") from error
        with image:
            check_pixels(image, name)
            yield image


def check_pixels(image: Image.Image, name: str) -> None:
    """ImageError for an image of no pixels, or of more than PIL.Image.MAX_IMAGE_PIXELS."""
    most = Image.MAX_IMAGE_PIXELS
    if not image.width or not image.height:
        raise ImageError(f"images: {name} has no pixels ({image.height}x{image.width})")
    if most is not None and image.width * image.height > most:
        raise too_large(name)


def too_large(name: str) -> ImageError:
    """The error of an image with too many pixels, and how to allow them."""
    most = Image.MAX_IMAGE_PIXELS
    return ImageError(f"images: {name} has more than {most:,} pixels (PIL.Image.MAX_IMAGE_PIXELS raises the limit)")


def _descriptor(path: Any, name: str) -> int:
    """The open file of a path that may be anything; ImageError for what is no file with an image's number of bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | OPENING)
    except FileNotFoundError as error:
        raise ImageError(f"images: there is no file {name}") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ImageError(f"images: {name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    wrong = _wrong_with(os.fstat(descriptor))
    if wrong:
        os.close(descriptor)
        raise ImageError(f"images: {name} {wrong}")
    return descriptor


def _wrong_with(status: os.stat_result) -> str:
    """Why an open file cannot be an image, or nothing; some formats are read into memory as a whole."""
    most = Image.MAX_IMAGE_PIXELS
    if not stat.S_ISREG(status.st_mode):
        return "is a folder" if stat.S_ISDIR(status.st_mode) else "is no regular file"
    if not status.st_size:
        return "is empty"
    if most is not None and status.st_size > LARGEST_HEADER + most * BYTES_A_PIXEL:
        told = f"has {status.st_size:,} bytes, more than an image of {most:,} pixels"
        return f"{told} (PIL.Image.MAX_IMAGE_PIXELS raises the limit)"
    return ""


def _seems(head: bytes) -> str:
    """What a file that begins so is, in words."""
    if head[4:8] == b"ftyp":
        told = BRANDS.get(head[8:12], "a video")
        return "seems to be a damaged AVIF, or Pillow is too old for it" if told == "AVIF" else f"seems to be {told}"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "seems to be a damaged WebP"
    for known, prefix in ((READ, "a damaged "), (OTHERS, "")):
        for magic, told in known.items():
            if head.startswith(magic):
                return f"seems to be {prefix}{told}"
    return "seems to be text" if _is_text(head) else "is of no known format"


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", errors="replace")[:-1]  # the last letter may be cut
    return bool(text) and all(letter.isprintable() or letter.isspace() for letter in text) and "\ufffd" not in text


class _Silence:
    """While anybody decodes, what Pillow warns of is not shown: it either ends in an error here or does not matter.

    `warnings.catch_warnings` changes the whole process and undoes it in the order of leaving, which threads do not keep;
    so the first of them enters it and the last leaves it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._caught.__exit__(None, None, None)


silence = _Silence()
