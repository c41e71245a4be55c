"""Reading a job's config file."""

from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel

from clipmill.schemas.config import parse_config
from clipmill.schemas.errors import ConfigError, describe

T = TypeVar("T", bound=BaseModel)


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
        raise ConfigError(
            describe("config", path, "a readable YAML file", reason, "give its path to --config")
        ) from None
