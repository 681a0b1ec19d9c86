"""Batch norm over the images of two workers, against torch's over all of them at once."""

import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn

from classmix_core.models.frozen_norm import freeze_batch_norm_
from classmix_core.models.sync_norm import SyncBatchNorm, synchronise_batch_norm_

SHAPE = (6, 5, 3, 7)


def two_workers(work: Callable[[int, Callable[[Tensor], Tensor]], None]) -> None:
    """Run two threads whose mean is over both; the gradient's own thread counts as the worker's."""
    barrier, values = threading.Barrier(2), [torch.empty(0)] * 2

    def run(rank: int) -> None:
        def mean(value: Tensor) -> Tensor:
            barrier.wait(10)
            values[rank] = value
            barrier.wait(10)
            return (values[0] + values[1]) / 2

        with torch.autograd.set_multithreading_enabled(False):
            work(rank, mean)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def norm() -> nn.Sequential:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    nn.init.uniform_(network[1].weight)
    nn.init.uniform_(network[1].bias)
    return network


def test_two_workers_have_the_outputs_gradients_and_statistics_of_one_with_all_images() -> None:
    whole, image = norm(), 3 * torch.randn(SHAPE) + torch.arange(6.0).view(-1, 1, 1, 1)
    target = whole(image)
    target.square().mean().backward()
    networks, outputs = [norm(), norm()], [torch.empty(0)] * 2

    def work(rank: int, mean: Callable[[Tensor], Tensor]) -> None:
        synchronise_batch_norm_(networks[rank], mean, 2)
        outputs[rank] = networks[rank](image[3 * rank : 3 * rank + 3])
        outputs[rank].square().mean().backward()

    two_workers(work)
    torch.testing.assert_close(torch.cat(outputs), target)
    for name, parameter in whole.named_parameters():
        gradients = [network.get_parameter(name).grad for network in networks]
        torch.testing.assert_close((gradients[0] + gradients[1]) / 2, parameter.grad)  # type: ignore[operator]
    for network in networks:
        assert isinstance(network[1], SyncBatchNorm)
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(network.state_dict()[name], value)


def test_without_it_each_worker_has_statistics_of_its_own() -> None:
    image = torch.randn(SHAPE) + torch.arange(6.0).view(-1, 1, 1, 1)
    apart = torch.cat([norm()(image[:3]), norm()(image[3:])])
    assert (apart - norm()(image)).abs().max() > 0.5


def test_a_frozen_norm_stays_frozen() -> None:
    network = norm()
    freeze_batch_norm_(network, "frozen")
    image = 3 * torch.randn(SHAPE)
    expected, statistics = network(image), network.state_dict()["1.running_mean"].clone()
    synchronise_batch_norm_(network, lambda value: value / 0, 2)
    assert torch.equal(network.train()(image), expected)
    assert torch.equal(network.state_dict()["1.running_mean"], statistics)


def test_in_evaluation_mode_it_is_the_plain_one() -> None:
    plain, network = norm().eval(), norm().eval()
    synchronise_batch_norm_(network, lambda value: value / 0, 2)
    image = torch.randn(SHAPE)
    assert torch.equal(network(image), plain(image))


def test_what_timm_puts_behind_a_norm_stays() -> None:
    layer = nn.BatchNorm2d(4)
    layer.act = nn.ReLU()
    network = nn.Sequential(layer)
    synchronise_batch_norm_(network, lambda value: value, 1)
    output = network(torch.randn(2, 4, 3, 3))
    assert output.min() == 0
    assert set(network.state_dict()) == set(nn.Sequential(nn.BatchNorm2d(4)).state_dict())
