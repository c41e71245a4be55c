"""A job's config file: reading it, telling and keeping what it came to."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from clipmill.schemas.config import dump_config, parse_config
from clipmill.schemas.errors import ConfigError, StorageUnavailableError, describe
from clipmill.schemas.secrets import masked

logger = logging.getLogger("clipmill.config")

T = TypeVar("T", bound=BaseModel)


def tell_config(config: BaseModel) -> str:
    """Returns the resolved config as YAML. ``--verbose`` prints it, on standard error."""
    text = dump_config(config)
    logger.info("resolved:\n%s", text.rstrip())
    return text


def keep_config(config: BaseModel, folder: str | Path, verb: str) -> None:
    """Writes the resolved config into `folder`, as ``<verb>.yaml``; passwords in its URLs are masked.

    Raises:
        StorageUnavailableError: `folder` cannot be written to.
    """
    path = Path(folder, f"{verb}.yaml")
    try:
        path.write_text(masked(dump_config(config)), encoding="utf-8")
    except OSError as error:
        got = error.strerror or str(error)
        raise StorageUnavailableError(
            describe("config", str(path), "a file that can be written", got, "choose another out")
        ) from None


def read_config(model: type[T], path: str, overrides: Sequence[str]) -> T:
    """Returns the YAML file at `path`, with ``--set`` overrides, as `model`.

    Raises:
        ConfigError: the file cannot be read or does not validate.
    """
    return parse_config(model, read_text_of(path), overrides, path)


def read_text_of(path: str) -> str:
    """Returns the text of the config at `path`.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(describe("config", path, "a readable YAML file", reason, "check its path")) from None
