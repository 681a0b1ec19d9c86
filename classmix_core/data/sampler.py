"""The endless order in which a worker sees the training images."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EndlessSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (sample number, position in the endless stream), for one of several workers.

    The stream is one permutation after the other, each drawn from the seed and the epoch alone; a step takes the next
    `world_size * batch` of it. So where it stands is the number of the step, and nothing else need be saved.

    Args:
        count: how many samples there are, at least 1.
        batch: samples a step, of each worker.
        rank: of this worker, 0..world_size-1.
        first_step: the step at which the batches begin.
    """

    def __init__(self, count: int, batch: int, *, seed: int, rank: int, world_size: int, first_step: int) -> None:
        self.count, self.batch, self.seed = count, batch, seed
        self.rank, self.world_size, self.first_step = rank, world_size, first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        position = (self.first_step * self.world_size + self.rank) * self.batch
        epoch, order = -1, np.empty(0, dtype=np.int64)
        while True:
            batch = []
            for place in range(position, position + self.batch):
                if place // self.count != epoch:
                    epoch = place // self.count
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
                batch.append((int(order[place % self.count]), place))
            yield batch
            position += self.world_size * self.batch
