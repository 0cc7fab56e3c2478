"""Make pictures to try things on: a digit as a photograph shows it, and drawings of three shapes.

python examples/sample_pictures.py writes pictures/photo.jpg and 40 files in each of
pictures/shapes/circle, square and triangle.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import distcnn as dc

SHAPES = ("circle", "square", "triangle")


def photograph(digit, rng):
    """A digit of MNIST, light on black, as dark ink on paper that is lit from one side."""
    height, width = 300, 260
    ink = np.asarray(Image.fromarray(digit).resize((width, height), Image.Resampling.BICUBIC))
    light = np.linspace(215, 165, width)
    grey = light * (1 - 0.8 * ink / 255) + rng.normal(0, 4, (height, width))
    paper = grey[:, :, np.newaxis] * (1.0, 0.98, 0.92)
    return Image.fromarray(paper.clip(0, 255).astype(np.uint8))


def drawing(shape, rng):
    """A shape in blue ink, of any size and place, on paper of any tint."""
    image = Image.new("RGB", (64, 64), tuple(rng.integers(225, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    radius = int(rng.integers(12, 24))
    x, y = rng.integers(26, 38, 2).tolist()
    if shape == "circle":
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline="navy", width=5)
    else:
        sides = 4 if shape == "square" else 3
        turn = int(rng.integers(-15, 16))
        pen.regular_polygon((x, y, radius), sides, turn, outline="navy", width=5)
    return image


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data/mnist.h5", help="image set with the digit")
    parser.add_argument("--index", type=int, default=0, help="number of the test image")
    parser.add_argument("--output", type=Path, default=Path("pictures"), help="folder to write to")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    args.output.mkdir(exist_ok=True)
    images, labels = dc.datasets.open(args.data).read("test")
    photograph(images[args.index, :, :, 0], rng).save(args.output / "photo.jpg", quality=90)
    for shape in SHAPES:
        folder = args.output / "shapes" / shape
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(40):
            drawing(shape, rng).save(folder / f"{number:02}.png")
    print(f"{args.output}/photo.jpg shows a {labels[args.index]}")
    print(f"{args.output}/shapes has 40 pictures each of {', '.join(SHAPES)}")


if __name__ == "__main__":
    main()
