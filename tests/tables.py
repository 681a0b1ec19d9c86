"""A table of trainings for `harness.tune --simulate`, made up after a known truth."""

from pathlib import Path

import numpy as np

PIXELS = 4000
"""Of each of the two classes in an image."""
STEPS = np.array([10, 20, 30, 40])


def share_right(tau: np.ndarray, lr: np.ndarray) -> np.ndarray:
    """Of the pixels of each class; best at tau 0.6 and lr 0.02 (0.8)."""
    return np.asarray(0.8 - 0.6 * (tau - 0.6) ** 2 - 0.02 * np.log10(lr / 0.02) ** 2)


def true_miou(tau: float, lr: float) -> float:
    right = float(share_right(np.array(tau), np.array(lr)))
    return right / (2 - right)


def build_table(path: Path, runs: int = 80, noise: float = 0.01, luck: float = 0.01, loss: float = 0.1) -> Path:
    """
    Args:
        noise: standard deviation of a run's share of right pixels.
        luck: the same, of what runs of one seed have in common.
        loss: how much less is right without unlabelled images.
    """
    rng = np.random.default_rng(0)
    repeated = 24
    tau, lr = rng.uniform(0.3, 0.95, runs), 10 ** rng.uniform(-3, -0.5, runs)
    tau[-repeated:], lr[-repeated:] = np.repeat([0.5, 0.6, 0.7], repeated // 3), 0.02
    seeds = np.concatenate([1000 + np.arange(runs - repeated), np.tile(np.arange(repeated // 3), 3)])
    common = {seed: rng.normal(0, luck) for seed in seeds.tolist()}
    helped = np.arange(runs) % 4 != 0
    right = share_right(tau, lr) - np.where(helped, 0, loss) + rng.normal(0, noise, runs)
    right += np.array([common[seed] for seed in seeds.tolist()])

    def counts(images: int) -> np.ndarray:
        found = np.round(PIXELS * (right[:, None] + rng.normal(0, 0.02, (runs, images)))).clip(0, PIXELS)
        return np.stack([np.stack([found, found], -1), np.full((runs, images, 2), PIXELS)], 2).astype(np.uint32)

    val, test = counts(20), counts(30)
    last = val[:, :, 0].sum((1, 2)) / (2 * 20 * PIXELS)
    curves = (last / (2 - last))[:, None] * np.array([0.5, 0.8, 0.9, 1.0])
    np.savez_compressed(
        path,
        keys=np.array(["ssl.tau", "optim.lr", "ssl.unlabelled_weight"]),
        classes=np.array(["a", "b"]),
        values=np.stack([tau, lr, helped.astype(float)], 1),
        seeds=seeds,
        steps=STEPS,
        curves=curves,
        val_counts=val,
        test_counts=test,
        val_labelled=np.full((20, 2), PIXELS),
        test_labelled=np.full((30, 2), PIXELS),
    )
    return path
