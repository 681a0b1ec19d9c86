"""Flags and YAML to values of checked types: jsonargparse, with errors of one line and shipped files known by name."""

import argparse
import atexit
import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from classmix_core.errors import InvalidValue
from harness import __version__
from harness.errors import UserError
from harness.storage import is_address, local_copy, storage_path

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)

closed_at_exit = ExitStack()
atexit.register(closed_at_exit.close)
CONFIGURATIONS = ("--config", "--train")
"""Flags whose value is a file that other flags override."""
RANGES = ("--gpus", "--workers")
"""Flags that take MIN:MAX as well."""
SHIPPED = {"--space": "search_spaces", "--config": "recipes", "--train": "recipes"}
"""Flags whose value may be the name of a file that comes with the harness, and the folder that holds those."""


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse, but for errors: UserError with one line and the nearest key there is."""

    def read(self, args: Sequence[str] | None = None) -> jsonargparse.Namespace:
        """Parse the command line, or a list of its words.

        Raises:
            UserError: an unknown key, a value of a wrong type, an unreadable file.
        """
        words = files_first(with_shipped_files(with_ranges(sys.argv[1:] if args is None else args)))
        with self.errors_in_one_line(last_config_file(words), always=False):
            return self.parse_args(words)

    def read_file(self, path: Path) -> jsonargparse.Namespace:
        """Parse a YAML file; keys that are not there have their defaults.

        Raises:
            UserError: as `read`.
        """
        with self.errors_in_one_line(str(path)), local_copy(path) as here:
            return self.parse_path(here)

    def read_mapping(self, values: Mapping[str, Any], source: str) -> jsonargparse.Namespace:
        """Check the types of nested values; keys that are not given have their defaults.

        Raises:
            UserError: as `read`; the message starts with `source`.
        """
        with self.errors_in_one_line(source):
            return self.parse_object(dict(values))

    @contextmanager
    def errors_in_one_line(self, source: str, always: bool = True) -> Iterator[None]:
        """
        Args:
            always: name the source also in errors that may have come from a flag.
        """
        try:
            yield
        except (argparse.ArgumentError, yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
            line = " ".join(str(error).split())
            line = re.sub(
                r"Does not validate .*Subtypes: (\[.*?\]) Errors: .*Given value: ",
                r"Expected one of \1. Got value: ",
                line,
            )
            if source not in line and (always or re.match("Option|Group|Problems", line)):
                line = f"{source}: {line}"
            unknown = re.search(r"[Oo]ption '(.+?)'|unrecognized arguments: -*([^\s=]+)", line)
            known = [action.dest for action in self._actions if action.dest != "print_shtab"]  # not in --help
            nearest = difflib.get_close_matches(unknown[1] or unknown[2], known, 1, 0.5) if unknown else []
            raise UserError(line + (f" (nearest key: {nearest[0]})" if nearest else "")) from error


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Name the source of what is read in the block in its errors, where they do not do so themselves."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if source in str(error) else f"{source}: {error}") from error


@contextmanager
def naming_keys(section: str) -> Iterator[None]:
    """Name the whole key of a value that the core refuses in the block: it knows the last part alone.

    Raises:
        UserError: a value breaks a rule.
    """
    try:
        yield
    except InvalidValue as error:
        raise UserError(f"{section}.{error.field}: {error}") from error


def replace_flags(words: Sequence[str], flags: Mapping[str, object]) -> list[str]:
    """The words of a command line with the flags set to these values, wherever they were set before."""
    kept, is_value = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        if not is_value and name not in flags:
            kept.append(word)
        is_value = not is_value and name in flags and not equals
    return [*kept, *(f"{name}={value}" for name, value in flags.items())]


def last_config_file(words: Sequence[str]) -> str:
    """The file that an error in a file is blamed on: jsonargparse does not name it."""
    flags = [word.partition("=") for word in words]
    files = [
        value or after for (flag, _, value), after in zip(flags, [*words[1:], ""], strict=False) if flag == "--config"
    ]
    return files[-1] if files else "command line"


def make_parser(command: str, description: str) -> Parser:
    """A parser with --help and --version; jsonargparse adds --print_config where there is a `config` argument."""
    return Parser(
        prog=command,
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        version=__version__,
    )


def files_first(words: Sequence[str]) -> list[str]:
    """The words of a command line, the files of configurations before all else: flags win wherever they stand."""
    files: list[str] = []
    rest: list[str] = []
    is_value = False
    for word in words:
        flag, equals, _ = word.partition("=")
        is_file = is_value or flag in CONFIGURATIONS
        (files if is_file else rest).append(word)
        is_value = flag in CONFIGURATIONS and not equals and not is_value
    return files + rest


def with_ranges(words: Sequence[str]) -> list[str]:
    """The words of a command line, with `--workers 1:8` as `--workers=8 --min_workers=1`. (YAML takes 1:8 for 68.)"""
    found: list[str] = []
    for word in words:
        flag = f"{found.pop()}=" if found and found[-1] in RANGES else ""
        text = f"{flag}{word}"
        name, _, value = text.partition("=")
        parts = re.fullmatch(r"(--\w+)=(\d+):(\d+)", text)
        if parts and parts[1] in RANGES:
            found += [f"{parts[1]}={parts[3]}", f"--min_workers={parts[2]}"]
        elif name in RANGES and ":" in value:
            raise UserError(f"{name}: must be N or MIN:MAX, but got {value!r}.")
        else:
            found += [flag[:-1], word] if flag else [word]
    return found


def with_shipped_files(words: Sequence[str]) -> list[str]:
    """The words of a command line, with the names of shipped files (`--space tau_ema`) as paths."""
    found: list[str] = []
    for word in words:
        flag, equals, value = word.partition("=")
        if equals and flag in SHIPPED:
            word = f"{flag}={shipped_file(flag, value)}"
        elif found and found[-1] in SHIPPED:
            word = shipped_file(found[-1], word)
        found.append(word)
    return found


@cache
def copied(address: str, flag: str) -> str:
    """The path of a copy of a file in object storage, which is there until the process ends."""
    try:
        return closed_at_exit.enter_context(local_copy(storage_path(address, flag))).as_posix()
    except OSError as error:
        raise UserError(f"{flag}: must be a file, but got {address}: {error}") from error


def shipped_file(flag: str, name: str) -> str:
    """The path of the shipped file of that name, if there is one and no file of the user's lies at `name`; of one in
    object storage that of a copy."""
    if is_address(name):
        return copied(name, flag)
    if os.path.isfile(name):  # Path.is_file raises for a name that is too long, such as a mapping
        return name
    here = Path(__file__).parents[1]
    places = [home / SHIPPED[flag] / f"{Path(name).stem}.yaml" for home in (here, here.parent)]  # a wheel, a checkout
    return next((str(path) for path in places if Path(name).parent == Path() and os.path.isfile(path)), name)
