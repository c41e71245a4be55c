"""What has a name and can be added: built-in ones by module path, others by the entry points of installed packages."""

from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from clipmill.schemas.errors import UsageError, describe, near

N = TypeVar("N")


def own_name(record: Any) -> str:
    """Returns the name that a record says it has."""
    name: str = record.name
    return name


class Registry(Generic[N]):
    """Records by name. Nothing is imported until it is asked for, and a built-in name costs no look at packages.

    A built-in name cannot be taken from outside: what a stored recipe or store says must not depend on what else is
    installed.

    Args:
        thing: what an error calls one of them, such as ``engine``.
        group: the entry point group of those from outside, such as ``clipmill.engines``.
        kind: the record each name leads to.
        built_in: name to ``module:ATTRIBUTE``.
        page: the document that says how to add one.
        name_of: the name under which a record must be registered.
    """

    def __init__(
        self,
        thing: str,
        group: str,
        kind: type[N],
        built_in: Mapping[str, str],
        page: str,
        name_of: Callable[[N], str] = own_name,
    ) -> None:
        self.thing = thing
        self._group = group
        self._kind = kind
        self._built_in = dict(built_in)
        self._page = page
        self._name_of = name_of
        self._records: dict[str, N] = {}

    @cached_property
    def _outside(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self._group) if point.name not in self._built_in}

    def names(self) -> tuple[str, ...]:
        """Returns the registered names: the built-in ones in the order of their table, then those from outside."""
        return (*self._built_in, *sorted(self._outside))

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in self._outside

    def __getitem__(self, name: str) -> N:
        """Returns the record of `name`.

        Raises:
            UsageError: there is none (near names are listed), or the package that brings it is broken.
        """
        if name not in self._records:
            self._records[name] = self._load(name)
        return self._records[name]

    def _load(self, name: str) -> N:
        if name in self._built_in:
            module, _, attribute = self._built_in[name].partition(":")
            found: object = getattr(import_module(module), attribute)
        elif name in self._outside:
            try:
                found = self._outside[name].load()
            except Exception as error:
                got = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                remedy = "fix or remove it"
                raise UsageError(describe(self.thing, name, "a package that imports", got, remedy)) from error
        else:
            expected, remedy = f"one of {', '.join(self.names())}", near(name, self.names())
            raise UsageError(describe(self.thing, name, expected, "an unknown one", remedy))
        if not isinstance(found, self._kind):
            expected = f"a {self._kind.__module__}.{self._kind.__name__}"
            raise UsageError(describe(self.thing, name, expected, type(found).__name__, f"see {self._page}"))
        if self._name_of(found) != name:
            expected, remedy = f"a {self.thing} of that name", f"give the entry point the name of its {self.thing}"
            raise UsageError(describe(self.thing, name, expected, self._name_of(found), remedy))
        return found
