"""The base of every config model: strict, frozen, and with errors that name the near keys."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from clipmill.schemas.errors import ConfigError, RenamedKeyWarning, near

M = TypeVar("M", bound=BaseModel)


def _no_url(path: str) -> str:
    if "://" in path:
        raise ValueError(
            f"expected a local path, got the URL {path!r}; write to a folder here (or a mounted one) and copy it"
        )
    return path


LocalPath = Annotated[str, Field(min_length=1), AfterValidator(_no_url)]
"""A path of this machine that a verb writes to. A URL would be taken for the name of a folder here."""


class Model(BaseModel):
    """A frozen pydantic model that refuses unknown keys.

    Attributes:
        RENAMED: old name of a key to its name now. The old one is read for one release, with a `RenamedKeyWarning`.
        RENAMED_VALUES: key (by its name now) to old value to the value now, likewise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    RENAMED: ClassVar[Mapping[str, str]] = {}
    RENAMED_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _by_new_names(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        found = dict(data)
        for old, new in _of_all_bases(cls, "RENAMED"):
            if old not in found or old in cls.model_fields:
                continue
            if new in found:
                raise ValueError(f"{old} is the old name of {new}, which is given too; leave {old} out")
            found[new] = found.pop(old)
            _warn(f"the key {old!r} is now {new!r}")
        for key, values in _of_all_bases(cls, "RENAMED_VALUES"):
            given = found.get(key)
            if isinstance(given, str) and given in values:
                found[key] = values[given]
                _warn(f"{key}: {given} is now {key}: {values[given]}")
        return found


def _of_all_bases(model: type[Model], attribute: str) -> list[tuple[str, Any]]:
    return [pair for base in model.__mro__ for pair in base.__dict__.get(attribute, {}).items()]


def _warn(renamed: str) -> None:
    warnings.warn(f"{renamed}; the old name is read until the next release", RenamedKeyWarning, stacklevel=2)


def validate(model: type[M], data: Any, source: str, within: Sequence[str] = ()) -> M:
    """Returns `data` as `model`.

    Args:
        source: what is being read (a file name, ``--set``), for the message.
        within: the keys of `source` that lead to `data`, where it is a part of what is being read.

    Raises:
        ConfigError: one line per problem; an unknown key lists the near ones.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_line(model, item, source, within) for item in error.errors() if not _only_follows(item)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _only_follows(item: Any) -> bool:
    """Returns whether a list is too short only without its bad items, each of which has a line of its own."""
    return item["type"] == "too_short" and bool(len(item["input"]) >= item["ctx"]["min_length"])


def _line(model: type[BaseModel], item: Any, source: str, within: Sequence[str]) -> str:
    path = [str(part) for part in item["loc"]]
    where = ".".join([*within, *path]) or "(top)"
    if item["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        return f"{source} {where}: unknown key; {near(path[-1], known)}" if known else f"{source} {where}: unknown key"
    if item["type"] == "missing":
        return f"{source} {where}: expected a value, got none; add the key"
    got = repr(item.get("input"))
    got = got if len(got) <= 80 else got[:77] + "..."
    if item["type"] == "model_type" and (known := _known_keys(model, path)):
        # Not every key, which may be thirty: enough to see what is meant.
        shown = ", ".join(known[:6]) + (", ..." if len(known) > 6 else "")
        return f"{source} {where}: expected keys, as {shown}, got {got}; write them below it or in braces"
    message = str(item["msg"])
    message = message.removeprefix("Value error, ")
    return f"{source} {where}: {message}; got {got}"


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    current: Any = model
    for part in path:
        fields = getattr(current, "model_fields", None)
        if fields is None:
            return []
        field = _by_key(fields).get(part)
        current = _model_of(field.annotation) if field is not None else current
        if current is None:
            return []
    fields = getattr(current, "model_fields", None)
    return list(_by_key(fields)) if fields else []


def _by_key(fields: Any) -> dict[str, Any]:
    """Returns the fields by the key a file uses: the alias, where the name is a word of Python's (``from``)."""
    return {field.alias or name: field for name, field in fields.items()}


def _model_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_of(argument)
        if found is not None:
            return found
    return None
