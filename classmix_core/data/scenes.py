"""The embedded data set: street scenes, drawn by a seeded generator, so that everything runs with no data at hand.

Light, weather, colours and textures vary far more than a few labelled images can cover, and colour alone tells no
class: walls, cars and coats come in every colour, trees in spring, autumn and winter, roads wet, dry and in shadow.
"""

from functools import lru_cache

import numpy as np
import torch

from classmix_core.data.samples import ArraySamples

CLASSES = ("sky", "road", "building", "tree", "car", "person")
SKY, ROAD, BUILDING, TREE, CAR, PERSON = range(6)
PALETTE = ((70, 130, 180), (128, 64, 128), (70, 70, 70), (107, 142, 35), (0, 0, 142), (220, 20, 60))

HEIGHT, WIDTH = 48, 96
LABELLED = 8
COUNTS = {"train": 264, "val": 48, "test": 96}

Array = np.ndarray
Random = np.random.Generator

ROW, COLUMN = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)


class Canvas:
    """An image under the painter: float RGB (H, W, 3) 0..1 and labels (H, W)."""

    def __init__(self) -> None:
        self.image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        self.label = np.zeros((HEIGHT, WIDTH), np.uint8)

    def paint(self, mask: Array, colour: Array, label: int | None = None) -> None:
        """Fill a bool (H, W) mask; `colour` is (3,) or (H, W, 3)."""
        self.image[mask] = colour[mask] if colour.ndim == 3 else colour
        if label is not None:
            self.label[mask] = label


def smooth_noise(rng: Random, rows: int, columns: int) -> Array:
    """Noise (H, W), about -1..1, with features as large as the image over `rows` and `columns`."""
    grid = rng.standard_normal((rows + 1, columns + 1)).astype(np.float32)
    y, x = ROW * (rows / HEIGHT), COLUMN * (columns / WIDTH)
    top, left = y.astype(int), x.astype(int)
    fy, fx = y - top, x - left
    upper = grid[top, left] * (1 - fx) + grid[top, left + 1] * fx
    lower = grid[top + 1, left] * (1 - fx) + grid[top + 1, left + 1] * fx
    return (upper * (1 - fy) + lower * fy) * 0.6


def textured(rng: Random, colour: Array, strength: float, rows: int, columns: int) -> Array:
    """A colour (3,) with smooth and fine texture, (H, W, 3)."""
    noise = smooth_noise(rng, rows, columns) + 0.5 * rng.standard_normal((HEIGHT, WIDTH)).astype(np.float32)
    return colour * (1 + strength * noise[..., None])


def any_colour(rng: Random, saturation: float) -> Array:
    """A random colour: grey of any brightness, tinted up to `saturation`."""
    tint = 1 + saturation * rng.uniform(-1, 1, 3)
    return (rng.uniform(0.12, 0.85) * tint).astype(np.float32)


def draw_sky(canvas: Canvas, rng: Random) -> None:
    tops = ((0.25, 0.45, 0.85), (0.6, 0.62, 0.66), (0.85, 0.55, 0.4), (0.12, 0.14, 0.3), (0.85, 0.88, 0.92))
    top = np.array(tops[rng.integers(len(tops))], np.float32) * rng.uniform(0.8, 1.1)
    bottom = top + (np.float32(0.9) - top) * rng.uniform(0, 0.8)
    blend = (ROW / (HEIGHT * rng.uniform(0.4, 1.0))).clip(0, 1)[..., None]
    clouds = smooth_noise(rng, 4, 5).clip(0, 1)[..., None] * rng.uniform(0, 0.6)
    sky = top * (1 - blend) + bottom * blend
    canvas.paint(np.ones((HEIGHT, WIDTH), bool), sky + (0.95 - sky) * clouds, SKY)


def draw_building(canvas: Canvas, rng: Random, horizon: float) -> None:
    width, height = rng.uniform(10, 34), rng.uniform(8, 30)
    left = rng.uniform(-8, WIDTH - 4)
    wall = (COLUMN >= left) & (COLUMN < left + width) & (ROW >= horizon - height) & (ROW < horizon + 3)
    if rng.random() < 0.3:  # a gable
        wall |= (np.abs(COLUMN - left - width / 2) < width / 2 - (horizon - height - ROW) * 1.5) & (
            (ROW < horizon - height) & (ROW > horizon - height - width / 3)
        )
    canvas.paint(wall, textured(rng, any_colour(rng, 0.45), rng.uniform(0.02, 0.2), 8, 16), BUILDING)
    if rng.random() < 0.85:
        step_x, step_y = rng.uniform(3, 7), rng.uniform(4, 8)
        share_x, share_y = rng.uniform(0.3, 0.7, 2)
        in_x = ((COLUMN - left) / step_x % 1 < share_x) & (COLUMN > left + 1) & (COLUMN < left + width - 1)
        window = wall & in_x & ((ROW - horizon + height) / step_y % 1 < share_y)
        canvas.paint(window, any_colour(rng, 0.3))


def draw_tree(canvas: Canvas, rng: Random, horizon: float) -> None:
    greens = (
        (0.15, 0.4, 0.12),
        (0.3, 0.5, 0.15),
        (0.55, 0.4, 0.1),
        (0.6, 0.25, 0.1),
        (0.35, 0.3, 0.25),
        (0.8, 0.6, 0.7),
    )
    colour = np.array(greens[rng.integers(len(greens))], np.float32) * rng.uniform(0.5, 1.4)
    x, base = rng.uniform(0, WIDTH), horizon + rng.uniform(0, 6)
    height, radius = rng.uniform(10, 26), rng.uniform(4, 11)
    trunk = (np.abs(COLUMN - x) < rng.uniform(0.6, 1.6)) & (ROW > base - height) & (ROW < base)
    canvas.paint(trunk, np.array((0.25, 0.18, 0.12), np.float32) * rng.uniform(0.5, 1.6), TREE)
    ragged = 1 + 0.35 * smooth_noise(rng, 12, 24)
    crown = ((COLUMN - x) / radius) ** 2 + ((ROW - base + height) / (radius * rng.uniform(0.7, 1.4))) ** 2 < ragged
    canvas.paint(crown, textured(rng, colour, rng.uniform(0.2, 0.5), 16, 32), TREE)


def draw_road(canvas: Canvas, rng: Random, horizon: float) -> None:
    ground = ROW >= horizon
    tint = np.array((1, rng.uniform(0.9, 1.02), rng.uniform(0.8, 1.08)), np.float32)
    colour = rng.uniform(0.15, 0.75) * tint
    road = textured(rng, colour, rng.uniform(0.03, 0.25), 6, 10)
    if rng.random() < 0.4:  # wet: the image above, mirrored
        mirror = canvas.image[(2 * int(horizon) - ROW[:, 0]).astype(int).clip(0, HEIGHT - 1)]
        road = road + (mirror - road) * rng.uniform(0.15, 0.5)
    canvas.paint(ground, road, ROAD)
    depth = (ROW - horizon + 1) / (HEIGHT - horizon)
    if rng.random() < 0.7:  # lane markings towards a vanishing point
        vanish = rng.uniform(0.3, 0.7) * WIDTH
        for lane in rng.uniform(-1.2, 1.2, rng.integers(1, 4)):
            line = np.abs(COLUMN - vanish - lane * WIDTH * 0.6 * depth) < 1.2 * depth
            dashes = (12 / (depth + 0.15) + rng.uniform(0, 2)) % 2 < 1.3
            canvas.paint(ground & line & dashes, np.full(3, rng.uniform(0.6, 0.95), np.float32))
    if rng.random() < 0.5:  # the shadow of something beside the road
        shadow = ground & (smooth_noise(rng, 3, 4) > rng.uniform(0, 0.5))
        canvas.image[shadow] *= rng.uniform(0.4, 0.75)


def place(rng: Random, horizon: float) -> tuple[float, float, float]:
    """Column, row of the foot, and size 0..1 of something that stands on the road: nearer is lower and larger."""
    foot = rng.uniform(horizon + 3, HEIGHT + 2)
    return rng.uniform(0, WIDTH), foot, 0.35 + 0.65 * (foot - horizon) / (HEIGHT - horizon)


def draw_car(canvas: Canvas, rng: Random, horizon: float) -> None:
    x, foot, size = place(rng, horizon)
    length, height = rng.uniform(12, 26) * size, rng.uniform(7, 12) * size
    dx, up = np.abs(COLUMN - x), foot - ROW
    body = (dx < length / 2) & (up >= 0) & (up < height * 0.6)
    cabin = (dx < length * 0.36 - (up - height * 0.6) * 0.5) & (up >= height * 0.6) & (up < height)
    canvas.paint(dx**2 / length**2 + (up + 0.5) ** 2 / 4 < 0.3, np.full(3, 0.08, np.float32))  # shadow, on the road
    paint = any_colour(rng, 0.8)
    canvas.paint(body | cabin, textured(rng, paint, 0.08, 6, 8), CAR)
    glass = (dx < length * 0.28 - (up - height * 0.6) * 0.4) & (up >= height * 0.62) & (up < height * 0.9)
    canvas.paint(glass, np.array((0.2, 0.25, 0.3), np.float32) * rng.uniform(0.4, 2.2))
    for side in (-0.3, 0.3):
        wheel = (COLUMN - x - side * length) ** 2 + up**2 < (height * 0.22) ** 2
        canvas.paint(wheel, np.full(3, rng.uniform(0.03, 0.15), np.float32), CAR)


def draw_person(canvas: Canvas, rng: Random, horizon: float) -> None:
    x, foot, size = place(rng, horizon)
    height = rng.uniform(12, 19) * size
    width = height * rng.uniform(0.13, 0.2)
    up, dx = foot - ROW, COLUMN - x
    legs = (np.abs(np.abs(dx) - width * 0.5) < width * 0.45) & (up >= 0) & (up < height * 0.45)
    torso = (np.abs(dx) < width) & (up >= height * 0.42) & (up < height * 0.8)
    head = dx**2 + (up - height * 0.9) ** 2 < (height * 0.12) ** 2
    canvas.paint(legs, any_colour(rng, 0.4), PERSON)
    canvas.paint(torso, any_colour(rng, 0.9), PERSON)
    skin = np.array((0.85, 0.65, 0.5), np.float32) * rng.uniform(0.35, 1.1)
    canvas.paint(head, skin, PERSON)


def develop(image: Array, rng: Random) -> Array:
    """Light, weather and camera: haze, colour cast, exposure, vignette, noise. uint8 (3, H, W)."""
    haze = rng.uniform(0, 0.45) if rng.random() < 0.4 else 0.0
    image = image * (1 - haze) + haze * rng.uniform(0.5, 0.9)
    image = image * rng.uniform(0.75, 1.25, 3) * rng.uniform(0.45, 1.3)
    image = image * (1 + 0.25 * smooth_noise(rng, 2, 3)[..., None])
    image = image.clip(0, 1) ** rng.uniform(0.7, 1.5)
    image = image + rng.normal(0, rng.uniform(0.01, 0.06), image.shape)
    return (image.clip(0, 1) * 255).astype(np.uint8).transpose(2, 0, 1)


def draw_scene(rng: Random) -> tuple[Array, Array]:
    """One scene.

    Returns:
        uint8 image (3, H, W) and uint8 label (H, W).
    """
    canvas = Canvas()
    horizon = rng.uniform(0.4, 0.65) * HEIGHT
    draw_sky(canvas, rng)
    for _ in range(rng.integers(1, 6)):
        draw_building(canvas, rng, horizon)
    for _ in range(rng.integers(0, 4)):
        draw_tree(canvas, rng, horizon)
    draw_road(canvas, rng, horizon)
    for _ in range(rng.integers(0, 2)):  # trees that stand before the road
        draw_tree(canvas, rng, horizon + 3)
    for _ in range(rng.integers(0, 4)):
        draw_car(canvas, rng, horizon)
    for _ in range(rng.integers(0, 4)):
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
