"""From a configuration to the four sets of images, and the check of all their files."""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from classmix_core.config import DataConfig
from classmix_core.data.cache import CachedSamples, open_cache
from classmix_core.data.datasets import LOAD
from classmix_core.data.samples import EVALUATED, ArraySamples, Data, FileSamples, Role, Samples
from classmix_core.errors import DataError, InvalidValue


def load_data(config: DataConfig, roles: Sequence[Role] = EVALUATED) -> Data:
    """List (scenes: draw) the images of the roles; files are not opened yet.

    Args:
        roles: which of val and test are wanted; the files of one that is not are never looked for.

    Raises:
        DataError: something is missing in the folder.
        InvalidValue: more labelled images asked for than there are, or a bad split file.
    """
    data = LOAD[config.name](Path(config.root or ""), config, roles)
    return data if config.cache == "none" else with_cache(data, config)


def with_cache(data: Data, config: DataConfig) -> Data:
    """The same, read through the cache. Labels of val and test stay as large as they are."""
    folder = open_cache(config.cache_dir)

    def cached(samples: Samples | None, resize_labels: bool) -> CachedSamples:
        assert isinstance(samples, FileSamples)
        return CachedSamples(samples, folder, config.resize, resize_labels)

    labelled, unlabelled = cached(data.labelled, True), cached(data.unlabelled, True)
    val, test = (None if samples is None else cached(samples, False) for samples in (data.val, data.test))
    return replace(data, labelled=labelled, unlabelled=unlabelled, val=val, test=test)


def check_data(data: Data, config: DataConfig, roles: Collection[str]) -> Iterator[tuple[int, int]]:
    """Read every image and label once, so that a bad file is found before a long training, not in it.

    Args:
        roles: of labelled, unlabelled, val and test those that will be used.

    Yields:
        how many are read, of how many.

    Raises:
        DataError: with the first file that breaks a rule.
        InvalidValue: there is no unlabelled image, or sizes differ and neither resize nor crop is set.
    """
    if "unlabelled" in roles and not data.unlabelled.names:
        rule = "labelled leaves images that serve unlabelled (or ssl.unlabelled_weight is 0)"
        raise InvalidValue("labelled", rule, config.labelled)
    if isinstance(data.labelled, ArraySamples):
        return
    used = [(role, samples) for role, samples in data.roles().items() if role in roles]
    jobs = [(role, samples, index) for role, samples in used for index in range(len(samples.names))]
    sizes = set()
    with ThreadPoolExecutor() as pool:
        try:
            found = pool.map(lambda job: (job[0], job[1].check(job[2], len(data.classes))), jobs)
            for done, (role, size) in enumerate(found, 1):
                yield done, len(jobs)
                if role in ("labelled", "unlabelled"):
                    sizes.add(size)
        except DataError:
            pool.shutdown(cancel_futures=True)
            raise
    if len(sizes) > 1 and config.resize is None and config.crop is None:
        first, second = sorted(sizes)[:2]
        rule = f"resize or crop is set where images differ in size ({first} and {second} do)"
        raise InvalidValue("resize", rule, None)
