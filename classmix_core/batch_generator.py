"""Random numbers for the images of a batch that several workers share."""

from typing import Self

import torch
from torch import Tensor


class BatchGenerator(torch.Generator):
    """Draws one set of numbers for each image of a batch, whichever worker has the image.

    All workers hold it in the same state. Each draws the numbers of the whole batch and takes those of its own images.
    So what happens to an image depends on its place in the batch, and not on how many workers there are.

    Args:
        device: of the images.
        rank, world_size: of this worker, which has part `rank` of `world_size` equal parts of the batch.
    """

    def __new__(cls, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1) -> Self:
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(self, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size

    def manual_seed(self, seed: int) -> Self:
        super().manual_seed(seed)
        return self

    def rand(self, *shape: int, batch_dim: int = 0) -> Tensor:
        """Uniform in 0..1, float32 of `shape`: that of this worker's part, which has its images along `batch_dim`."""
        whole = torch.rand(self.whole(shape, batch_dim), generator=self, device=self.device)
        return self.own_part(whole, batch_dim)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal, float32 of `shape`, which has the images first."""
        return self.own_part(torch.randn(self.whole(shape, 0), generator=self, device=self.device), 0)

    def whole(self, shape: tuple[int, ...], batch_dim: int) -> list[int]:
        return [size * self.world_size if dim == batch_dim else size for dim, size in enumerate(shape)]

    def own_part(self, whole: Tensor, batch_dim: int) -> Tensor:
        size = whole.shape[batch_dim] // self.world_size
        return whole.narrow(batch_dim, self.rank * size, size)
