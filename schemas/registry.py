"""A table of named things: ours, imported when used, and those that installed packages bring by entry points."""

from collections.abc import Mapping
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from clipmill.schemas.errors import UsageError, describe, near

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name. A built-in name cannot be taken from outside: what it means must not depend on that.

    Args:
        thing: what one of them is called in messages, such as ``task``.
        group: the entry point group of those from outside.
        kind: their class.
        built_in: name to ``module:ATTRIBUTE``.
        name_attribute: attribute of a thing that must be its name.
    """

    def __init__(
        self, thing: str, group: str, kind: type[T], built_in: Mapping[str, str], name_attribute: str = "name"
    ) -> None:
        self.thing = thing
        self.group = group
        self.kind = kind
        self.built_in = built_in
        self.name_attribute = name_attribute
        self._get = cache(self._load)
        self._outside = cache(partial(_entry_points, group))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all: ours in the order of the table, then those from outside."""
        return (*self.built_in, *(name for name in self._outside() if name not in self.built_in))

    def get(self, name: str) -> T:
        """Returns the thing called `name`.

        Raises:
            UsageError: there is none (near names are listed), or the package that brings it is broken.
        """
        return self._get(name)

    def _load(self, name: str) -> T:
        if name in self.built_in:
            module, _, attribute = self.built_in[name].partition(":")
            found: object = getattr(import_module(module), attribute)
        elif name in self._outside():
            try:
                found = self._outside()[name].load()
            except Exception as error:
                got = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                remedy = "fix or remove it"
                raise UsageError(describe(self.thing, name, "a package that imports", got, remedy)) from error
        else:
            expected = f"one of {', '.join(self.names)}"
            raise UsageError(describe(self.thing, name, expected, "an unknown one", near(name, self.names)))
        if not isinstance(found, self.kind):
            expected = f"a {self.kind.__module__}.{self.kind.__qualname__}"
            raise UsageError(describe(self.thing, name, expected, type(found).__name__, "see docs/extending.md"))
        own = getattr(found, self.name_attribute)
        if own != name:
            remedy = f"give the entry point the name of its {self.thing}"
            raise UsageError(describe(self.thing, name, f"a {self.thing} of that name", own, remedy))
        return found


def _entry_points(group: str) -> Mapping[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}
