"""From a configuration to the four sets of images, and the check of all their files."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from classmix_core.config import DataConfig
from classmix_core.data.cache import CachedSamples, open_cache
from classmix_core.data.checked import CheckedFiles
from classmix_core.data.datasets import LOAD
from classmix_core.data.samples import EVALUATED, ArraySamples, Data, FileSamples, Role, Samples
from classmix_core.errors import DataError, InvalidValue


def load_data(
    config: DataConfig, roles: Sequence[Role] = EVALUATED, names: Mapping[str, Sequence[str]] | None = None
) -> Data:
    """List (scenes: draw) the images of the roles; files are not opened yet.

    Args:
        roles: which of val and test are wanted; the files of one that is not are never looked for.
        names: by role, as a run has stored them; None: as the folder gives them now.

    Raises:
        DataError: something is missing in the folder.
        InvalidValue: more labelled images asked for than there are, or a bad split file.
    """
    root = Path(config.root or "")
    data = LOAD[config.name](root, config, roles)
    if names is not None:
        data = with_names(data, names, root)
    return data if config.cache == "none" else with_cache(data, config)


def with_names(data: Data, names: Mapping[str, Sequence[str]], root: Path) -> Data:
    """The same data set with these images in its roles, however the folder would divide them now.

    One that is to serve unlabelled does so, also if it has a label by now. Scenes are drawn, and always the same.

    Args:
        names: of each role that `data` has.
        root: named in errors.

    Raises:
        DataError: an image is gone, or has lost its label.
    """
    if data.pool is None:
        return data
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for samples in (data.unlabelled, data.pool, data.val, data.test):
        if samples is not None:
            assert isinstance(samples, FileSamples)
            images.update(zip(samples.names, samples.image_paths, strict=True))
            labels.update(zip(samples.names, samples.label_paths or (), strict=samples.label_paths is not None))

    def named(role: str) -> FileSamples:
        assert data.pool is not None
        with_label = role != "unlabelled"
        for name in names[role]:
            if name not in images:
                raise DataError(f"{root}: must hold {name}, one of the run's {role} images, but does not.")
            if with_label and name not in labels:
                raise DataError(f"{root}: {name}, one of the run's {role} images, must have a label, but has none.")
        paths = [labels[name] for name in names[role]] if with_label else None
        return replace(
            data.pool, names=names[role], image_paths=[images[one] for one in names[role]], label_paths=paths
        )

    labelled, unlabelled = named("labelled"), named("unlabelled")
    val, test = (None if samples is None else named(role) for role, samples in (("val", data.val), ("test", data.test)))
    return replace(data, labelled=labelled, unlabelled=unlabelled, val=val, test=test, warnings=())


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

    Those that an earlier check found good, and that have the same size and time as then, are not read again.

    Args:
        roles: of labelled, unlabelled, val and test those that will be used.

    Yields:
        how many are checked, of how many.

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
    sizes, checked = set(), CheckedFiles(config)
    with ThreadPoolExecutor() as pool:
        try:
            found = pool.map(lambda job: (job[0], checked.check(job[1], job[2], len(data.classes))), jobs)
            for done, (role, size) in enumerate(found, 1):
                yield done, len(jobs)
                if role in ("labelled", "unlabelled"):
                    sizes.add(size)
        except DataError:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            checked.save()
    if len(sizes) > 1 and config.resize is None and config.crop is None:
        first, second = sorted(sizes)[:2]
        rule = f"resize or crop is set where images differ in size ({first} and {second} do)"
        raise InvalidValue("resize", rule, None)
