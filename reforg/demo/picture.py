"""The demonstration's picture: each image, what EViT kept of it at each stage, and what the models say it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from reforg.errors import ImageError
from reforg.files import check_place, replacing
from reforg.models import embedded
from reforg.tokens import TokenMap

Pixels = npt.NDArray[np.uint8]
ZOOM, GAP, TEXT, MARGIN, HEADING = 4, 12, 250, 24, 96
TILE = 28 * ZOOM
INK, GREY, RIGHT, WRONG, PAPER = (24, 28, 36), (110, 118, 130), (20, 120, 70), (190, 45, 45), (255, 255, 255)
FUSED = np.array((40, 110, 200), dtype=np.float64)  # the colour of patches that live on in the fused token
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def check_target(path: Path) -> None:
    """ImageError where a picture cannot be written there, before anything is computed."""
    check_place(path, "picture:", ImageError, ENDINGS)


def draw(path: Path, pixels: Pixels, labels: Any, answers: Mapping[str, npt.NDArray[Any]], maps: Mapping[str, TokenMap]) -> None:
    """Write the picture: [N, 28, 28] images, their labels, logits of each model, token maps of EViT's reorganizations."""
    columns, rows = 2, -(-len(pixels) // 2)
    width = (1 + len(maps)) * (TILE + GAP) + TEXT
    canvas = Image.new("RGB", (columns * width + 2 * MARGIN, HEADING + rows * (TILE + GAP) + MARGIN), PAPER)
    pen = ImageDraw.Draw(canvas)
    _heading(pen, canvas.width)
    for column in range(columns):
        _column_titles(pen, MARGIN + column * width, list(maps))
    for number, image in enumerate(pixels):
        left, top = MARGIN + (number // rows) * width, HEADING + (number % rows) * (TILE + GAP)
        tiles = [
            np.repeat(image[:, :, None], 3, axis=2).astype(np.float64),
            *(_reorganized(image, number, m) for m in maps.values()),
        ]
        for step, tile in enumerate(tiles):
            enlarged = np.clip(tile, 0, 255).astype(np.uint8).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
            canvas.paste(Image.fromarray(enlarged), (left + step * (TILE + GAP), top))
        texts = {name: logits[number] for name, logits in answers.items()}
        _verdicts(pen, left + len(tiles) * (TILE + GAP), top, int(labels[number]), texts)
    _write(path, canvas)


def _reorganized(image: Pixels, number: int, tokens: TokenMap) -> npt.NDArray[np.float64]:
    """[28, 28] -> [28, 28, 3]: kept patches as they are; fused ones blue, the stronger the larger their share in the token."""
    kept, share = tokens.kept[number], tokens.weights[number][tokens.fused[number]].sum(axis=0)
    strength = 0.35 + 0.65 * share / max(share.max(), 1e-30)
    patch = (image.shape[0] // tokens.grid[0], image.shape[1] // tokens.grid[1])
    spread = [np.kron(value.reshape(tokens.grid), np.ones(patch)) for value in (kept.astype(float), strength)]
    grey = np.repeat(image[:, :, None], 3, axis=2).astype(np.float64)
    mixed = 255 + spread[1][:, :, None] * (FUSED - 255)
    return np.where(spread[0][:, :, None] > 0, grey, 0.12 * grey + 0.88 * mixed)


def _heading(pen: ImageDraw.ImageDraw, width: int) -> None:
    pen.text((MARGIN, 14), "reforg demo: what EViT keeps of an image, and what three models say it is", INK, font=_font(20))
    note = "Uncoloured: still tokens of their own. Blue: patches that live on only in a fused token, darker for more weight."
    pen.text((MARGIN, 42), note, GREY, font=_font(13))
    pen.line((MARGIN, HEADING - 32, width - MARGIN, HEADING - 32), (225, 228, 232))


def _column_titles(pen: ImageDraw.ImageDraw, left: int, blocks: list[str]) -> None:
    titles = ["image", *(f"after block {int(path.rpartition('.')[2]) + 1}" for path in blocks), "answers"]
    for step, title in enumerate(titles):
        pen.text((left + step * (TILE + GAP), HEADING - 24), title, GREY, font=_font(13))


def _verdicts(pen: ImageDraw.ImageDraw, left: int, top: int, label: int, logits: Mapping[str, npt.NDArray[Any]]) -> None:
    pen.text((left, top), embedded.LABELS[label], INK, font=_font(17))
    for line, (name, values) in enumerate(logits.items()):
        shares = np.exp(values - values.max()) / np.exp(values - values.max()).sum()
        best = int(shares.argmax())
        text = f"{name.partition('_')[0]}: {embedded.LABELS[best]} {shares[best]:.0%}"
        pen.text((left, top + 28 + 20 * line), text, RIGHT if best == label else WRONG, font=_font(14))


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _write(path: Path, canvas: Image.Image) -> None:
    try:
        with replacing(path) as unfinished:
            canvas.save(unfinished)
    except OSError as error:
        raise ImageError(f"picture: {str(path)!r} cannot be written: {error.strerror or error}") from error
