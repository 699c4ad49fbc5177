"""Put the figure of the README together from the sample grids of two runs on the phantom.

python docs/images/make_overview.py runs/vaegan runs/translation docs/images/overview.png
"""

import sys
from pathlib import Path

from PIL import Image

SIDE, GAP, COLUMNS = 128, 4, 6  # pixels of a slice in the figure and between slices, slices a row
GENERATED = [(0, 3), (1, 5), (2, 5), (4, 1), (3, 6), (7, 5)]  # row and column in the VAE-GAN's grid


def tile(grid: Image.Image, size: int, row: int, column: int) -> Image.Image:
    """A slice of a grid of torchvision, which has 2 pixels between slices."""
    left, top = 2 + column * (size + 2), 2 + row * (size + 2)
    return grid.crop((left, top, left + size, top + size)).convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def last_samples(run: str) -> Image.Image:
    return Image.open(max(Path(run, "samples").glob("epoch_*.png")))


def main(vaegan: str, translation: str, output: str) -> None:
    new, translated = last_samples(vaegan), last_samples(translation)
    rows = [[tile(new, 64, row, column) for row, column in GENERATED]]
    rows += [[tile(translated, 128, row, column) for row in range(6)] for column in range(3)]
    step = SIDE + GAP
    figure = Image.new("L", (COLUMNS * step - GAP, len(rows) * step - GAP), 255)
    for y, tiles in enumerate(rows):
        for x, image in enumerate(tiles):
            figure.paste(image, (x * step, y * step))
    figure.save(output, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
