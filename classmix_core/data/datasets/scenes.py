"""The embedded data set: street scenes, drawn by a seeded generator, so that everything runs with no data at hand.

Light, weather, colours and textures vary more than a few labelled images can cover, and colour alone tells no class:
walls, cars and coats come in every colour, trees in spring, autumn and winter, roads wet, dry and in shadow. Shapes
stay such that a person can label every image.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from classmix_core.config import DataConfig
from classmix_core.data.samples import EVALUATED, ArraySamples, Data, Role
from classmix_core.data.splits import split_labelled

CLASSES = ("sky", "road", "building", "tree", "car", "person")
SKY, ROAD, BUILDING, TREE, CAR, PERSON = range(6)
PALETTE = ((70, 130, 180), (128, 64, 128), (70, 70, 70), (107, 142, 35), (0, 0, 142), (220, 20, 60))

HEIGHT, WIDTH = 48, 96
LABELLED = 8
COUNTS = {"train": 208, "val": 48, "test": 96}

Array = np.ndarray
Random = np.random.Generator

ROW = np.arange(HEIGHT, dtype=np.float32)[:, None]
COLUMN = np.arange(WIDTH, dtype=np.float32)

SKIES = (
    ((0.25, 0.5, 0.9), (0.75, 0.85, 0.95)),  # clear
    ((0.6, 0.63, 0.68), (0.85, 0.85, 0.85)),  # overcast
    ((0.5, 0.4, 0.6), (0.98, 0.65, 0.4)),  # dusk
    ((0.08, 0.1, 0.25), (0.25, 0.25, 0.4)),  # night
    ((0.85, 0.9, 0.97), (0.95, 0.95, 0.92)),  # bright
)
CROWNS = (
    (0.15, 0.4, 0.12),
    (0.35, 0.55, 0.15),
    (0.7, 0.5, 0.1),
    (0.65, 0.25, 0.1),
    (0.38, 0.32, 0.25),
    (0.85, 0.6, 0.7),
)


class Canvas:
    """An image under the painter: float RGB (H, W, 3) 0..1 and labels (H, W)."""

    def __init__(self) -> None:
        self.image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        self.label = np.full((HEIGHT, WIDTH), SKY, np.uint8)

    def paint(self, mask: Array, colour: Array, label: int | None = None) -> None:
        """Fill a bool (H, W) mask; `colour` is (3,) or (H, W, 3)."""
        pixels = mask.ravel().nonzero()[0]  # most masks are small: 4 times as fast as np.copyto(where=mask)
        self.image.reshape(-1, 3)[pixels] = colour if colour.ndim == 1 else colour.reshape(-1, 3)[pixels]
        if label is not None:
            self.label.reshape(-1)[pixels] = label


@lru_cache(maxsize=64)
def interpolation(size: int, cells: int) -> Array:
    """Matrix (size, cells + 1) that interpolates linearly between the borders of `cells`."""
    position = np.arange(size, dtype=np.float32)[:, None] * (cells / size)
    return (1 - np.abs(position - np.arange(cells + 1, dtype=np.float32))).clip(0)


def normal(rng: Random, *shape: int) -> Array:
    return rng.standard_normal(shape, dtype=np.float32)


def smooth_noise(rng: Random, rows: int, columns: int) -> Array:
    """Noise (H, W), about -1..1, with features as large as the image over `rows` and `columns`."""
    grid = normal(rng, rows + 1, columns + 1)
    return 0.6 * interpolation(HEIGHT, rows) @ grid @ interpolation(WIDTH, columns).T


def textured(rng: Random, colour: Array, strength: float, rows: int, columns: int) -> Array:
    """A colour (3,) with smooth and fine texture, (H, W, 3)."""
    noise = smooth_noise(rng, rows, columns) + 0.4 * normal(rng, HEIGHT, WIDTH)
    return colour * (1 + np.float32(strength) * noise)[..., None]


def rgb(*values: float, gain: float = 1.0) -> Array:
    return np.array(values, np.float32) * np.float32(gain)


def any_colour(rng: Random, saturation: float) -> Array:
    """A random colour: grey of any brightness, tinted up to `saturation`."""
    return rgb(*(1 + saturation * rng.uniform(-1, 1, 3)), gain=rng.uniform(0.15, 0.85))


def contrasting(rng: Random, colour: Array, darker: float) -> Array:
    """A colour clearly darker (with probability `darker`) or brighter than the given one."""
    if rng.random() < darker:
        return colour * np.float32(rng.uniform(0.25, 0.6))
    return colour + (rgb(1, 0.95, 0.8) - colour) * np.float32(rng.uniform(0.4, 0.8))


def draw_sky(canvas: Canvas, rng: Random) -> None:
    top, bottom = (rgb(*colour, gain=rng.uniform(0.85, 1.1)) for colour in SKIES[rng.integers(len(SKIES))])
    blend = (ROW / (HEIGHT * rng.uniform(0.4, 0.7))).clip(0, 1).astype(np.float32)[..., None]
    clouds = (smooth_noise(rng, 6, 5).clip(0, 1) * np.float32(rng.uniform(0, 0.7)))[..., None]
    sky = top * (1 - blend) + bottom * blend
    canvas.image[:] = sky + (rgb(0.9, 0.9, 0.9) - sky) * clouds


def draw_building(canvas: Canvas, rng: Random, horizon: float) -> None:
    width, height = rng.uniform(12, 36), rng.uniform(10, 28)
    left = rng.uniform(-8, WIDTH - 8)
    top = horizon - height
    across = (left <= COLUMN) & (left + width > COLUMN)
    wall = across & (top <= ROW) & (horizon + 2 > ROW)
    colour = any_colour(rng, 0.35)
    canvas.paint(wall, textured(rng, colour, rng.uniform(0.03, 0.1), 12, 24), BUILDING)
    if rng.random() < 0.35:  # a gable
        roof = (np.abs(COLUMN - left - width / 2) < width / 2 - (top - ROW) * 1.6) & (top > ROW)
        canvas.paint(roof, any_colour(rng, 0.4), BUILDING)
    if rng.random() < 0.97:
        step_x, step_y = rng.uniform(4, 7), rng.uniform(5, 8)
        share_x, share_y = rng.uniform(0.35, 0.65, 2)
        columns = ((COLUMN - left) % step_x > step_x * (1 - share_x)) & (left + width - 1 > COLUMN) & across
        rows = ((ROW - top) % step_y > step_y * (1 - share_y)) & (top <= ROW) & (horizon - 1 > ROW)
        canvas.paint(columns & rows, contrasting(rng, colour, 0.6))


def draw_tree(canvas: Canvas, rng: Random, horizon: float) -> None:
    x, base = rng.uniform(0, WIDTH), horizon + rng.uniform(1, 7)
    height, radius = rng.uniform(14, 26), rng.uniform(5, 10)
    trunk = (np.abs(COLUMN - x) < rng.uniform(0.8, 1.8)) & (base - height < ROW) & (base > ROW)
    canvas.paint(trunk, rgb(0.3, 0.2, 0.13, gain=rng.uniform(0.5, 1.5)), TREE)
    colour = rgb(*CROWNS[rng.integers(len(CROWNS))], gain=rng.uniform(0.6, 1.25))
    ragged = 1 + 0.4 * smooth_noise(rng, 12, 24)
    tall = radius * rng.uniform(0.8, 1.3)
    crown = ((COLUMN - x) / radius) ** 2 + ((ROW - base + height) / tall) ** 2 < ragged
    canvas.paint(crown, textured(rng, colour, rng.uniform(0.25, 0.45), 16, 32), TREE)


def draw_road(canvas: Canvas, rng: Random, horizon: float) -> None:
    ground = np.broadcast_to(horizon <= ROW, (HEIGHT, WIDTH))
    colour = rgb(1, rng.uniform(0.92, 1.02), rng.uniform(0.85, 1.1), gain=rng.uniform(0.2, 0.7))
    road = textured(rng, colour, rng.uniform(0.03, 0.2), 6, 10)
    if rng.random() < 0.3:  # wet: the image above, mirrored
        mirror = canvas.image[(2 * int(horizon) - np.arange(HEIGHT)).clip(0, HEIGHT - 1)]
        road = road + (mirror - road) * np.float32(rng.uniform(0.15, 0.4))
    canvas.paint(ground, road, ROAD)
    if rng.random() < 0.6:  # lane markings towards a vanishing point
        depth = (ROW - np.float32(horizon) + 1) / np.float32(HEIGHT - horizon)
        vanish = rng.uniform(0.3, 0.7) * WIDTH
        dashes = ground & ((12 / (depth + 0.15) + rng.uniform(0, 2)) % 2 < 1.3)
        for lane in rng.uniform(-1.2, 1.2, rng.integers(1, 4)):
            line = np.abs(COLUMN - vanish - lane * WIDTH * 0.6 * depth) < 1.2 * depth
            canvas.paint(line & dashes, rgb(1, 1, 0.95, gain=rng.uniform(0.7, 0.95)))
    if rng.random() < 0.4:  # the shadow of something beside the road
        shadow = ground & (smooth_noise(rng, 3, 4) > rng.uniform(0, 0.5))
        canvas.image[shadow] *= np.float32(rng.uniform(0.5, 0.75))


def place(rng: Random, horizon: float) -> tuple[float, float, float]:
    """Column, row of the foot, and size 0..1 of something that stands on the road: nearer is lower and larger."""
    foot = rng.uniform(horizon + 5, HEIGHT - 1)
    return rng.uniform(2, WIDTH - 2), foot, 0.5 + 0.5 * (foot - horizon) / (HEIGHT - horizon)


def draw_car(canvas: Canvas, rng: Random, horizon: float) -> None:
    x, foot, size = place(rng, horizon)
    length, height = rng.uniform(22, 36) * size, rng.uniform(11, 16) * size
    dx, up = np.abs(COLUMN - x), foot - ROW
    canvas.paint(dx**2 / length**2 + (up + 0.5) ** 2 / 6 < 0.28, rgb(0.06, 0.06, 0.07))  # shadow, on the road
    boxy = rng.uniform(0.3, 0.9)  # a van's cabin is upright
    slope = dx + (up - height * 0.55) * boxy
    body = (dx < length / 2) & (up >= height * 0.12) & (up < height * 0.55)
    cabin = (slope < length * 0.38) & (up >= height * 0.5) & (up < height)
    colour = any_colour(rng, 0.8)
    canvas.paint(body | cabin, textured(rng, colour, 0.06, 6, 8), CAR)
    glass = (slope < length * 0.32) & (up >= height * 0.58) & (up < height * 0.9) & (dx > 0.7)
    canvas.paint(glass, contrasting(rng, rgb(0.35, 0.42, 0.5), 0.7), CAR)
    for side in (-0.29, 0.29):
        wheel = (COLUMN - x - side * length) ** 2 + (up - height * 0.12) ** 2 < (height * 0.2) ** 2
        canvas.paint(wheel, rgb(0.06, 0.06, 0.06), CAR)


def draw_person(canvas: Canvas, rng: Random, horizon: float) -> None:
    x, foot, size = place(rng, horizon)
    height = rng.uniform(22, 30) * size
    width = height * rng.uniform(0.15, 0.22)
    dx, up = COLUMN - x, foot - ROW
    legs = (np.abs(np.abs(dx) - width * 0.5) < width * 0.48) & (up >= 0) & (up < height * 0.45)
    torso = (np.abs(dx) < width) & (up >= height * 0.42) & (up < height * 0.8)
    arms = (np.abs(np.abs(dx) - width * 1.3) < width * 0.3) & (up >= height * 0.45) & (up < height * 0.78)
    head = dx**2 + (up - height * 0.9) ** 2 < (height * 0.125) ** 2
    coat = any_colour(rng, 0.8)
    canvas.paint(legs, any_colour(rng, 0.4) * np.float32(0.8), PERSON)
    canvas.paint(torso, coat, PERSON)
    canvas.paint(arms, coat * np.float32(0.75), PERSON)
    canvas.paint(head, rgb(0.9, 0.68, 0.52, gain=rng.uniform(0.4, 1.05)), PERSON)


def develop(image: Array, rng: Random) -> Array:
    """Light, weather and camera: haze, colour cast, exposure, uneven light, noise. uint8 (3, H, W)."""
    haze = np.float32(rng.uniform(0.1, 0.3) if rng.random() < 0.3 else 0)
    image = image * (1 - haze) + haze * np.float32(rng.uniform(0.6, 0.9))
    image = image * rgb(*rng.uniform(0.88, 1.12, 3), gain=rng.uniform(0.7, 1.15))
    image = image * (1 + 0.2 * smooth_noise(rng, 2, 3)[..., None])
    image = image.clip(0, 1) ** np.float32(rng.uniform(0.75, 1.3))
    image = image + np.float32(rng.uniform(0.005, 0.02)) * normal(rng, *image.shape)
    return (image.clip(0, 1) * 255).astype(np.uint8).transpose(2, 0, 1)


def draw_scene(rng: Random) -> tuple[Array, Array]:
    """One scene.

    Returns:
        uint8 image (3, H, W) and uint8 label (H, W).
    """
    canvas = Canvas()
    horizon = rng.uniform(0.4, 0.6) * HEIGHT
    draw_sky(canvas, rng)
    for _ in range(rng.integers(1, 5)):
        draw_building(canvas, rng, horizon)
    for _ in range(rng.integers(1, 4)):
        draw_tree(canvas, rng, horizon)
    draw_road(canvas, rng, horizon)
    for _ in range(rng.integers(0, 2)):  # trees that stand before the road
        draw_tree(canvas, rng, horizon + 3)
    for _ in range(rng.integers(0, 4)):
        draw_car(canvas, rng, horizon)
    for _ in range(rng.integers(1, 5)):
        draw_person(canvas, rng, horizon)
    return develop(canvas.image, rng), canvas.label


@lru_cache(maxsize=3)
def load_split(split: str) -> ArraySamples:
    """Draw `split` (train, val or test), the same on every machine; kept for later calls in the process."""
    seeds = range(COUNTS[split])
    scenes = [draw_scene(np.random.default_rng((list(COUNTS).index(split), seed))) for seed in seeds]
    images = torch.from_numpy(np.stack([image for image, _ in scenes]))
    labels = torch.from_numpy(np.stack([label for _, label in scenes]))
    return ArraySamples([f"{split}/{seed:04d}" for seed in seeds], images, labels)


def load(root: Path, config: DataConfig, roles: Sequence[Role]) -> Data:
    """Labelled and unlabelled out of train, val and test; there are no files, and `root` is not looked at.

    Raises:
        InvalidValue: see `split_labelled`.
    """
    train = load_split("train")
    labelled, rest = split_labelled(train, config, LABELLED)
    val, test = (load_split(role) if role in roles else None for role in EVALUATED)
    return Data(CLASSES, PALETTE, train.subset(labelled), train.subset(rest), val, test)
