"""All workers hear in the same step that they shall stop."""

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from harness.distributed.contexts import StopSignal


class Told(StopSignal):
    """Rank 0 hears of it before its third step, without an actor."""

    def listen(self) -> None:
        pass

    def seen_at(self, step: int) -> bool:
        if self.rank == 0 and step == 3:
            self.heard.set()
        return self.seen()


def work(rank: int, workers: int, home: str) -> None:
    store = dist.FileStore(f"{home}/store", workers)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=workers)
    nobody: Any = None
    signal = Told(rank, workers, nobody)
    answers = [signal.seen_at(step) for step in range(1, 7)]
    dist.barrier()
    Path(home, f"{rank}.txt").write_text(str(answers))
    dist.destroy_process_group()


@pytest.mark.parametrize("workers", [1, 3])
def test_all_workers_get_the_same_answer_one_step_after_rank_0_has_heard(tmp_path: Path, workers: int) -> None:
    mp.spawn(work, (workers, str(tmp_path)), workers)
    heard = 3 if workers == 1 else 4
    expected = [step >= heard for step in range(1, 7)]
    for rank in range(workers):
        assert (tmp_path / f"{rank}.txt").read_text() == str(expected)
