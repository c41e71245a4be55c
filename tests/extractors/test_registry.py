"""Which extractors there are, and what a wrong name is told."""

from importlib.util import find_spec

import pytest

from clipmill.extractors import registry
from clipmill.schemas.errors import UsageError


def test_names_are_sorted_and_each_module_registers_its_name() -> None:
    names = registry.names()
    assert list(names) == sorted(set(names))
    for name, module in registry.BUILT_IN.items():
        assert find_spec(module) is not None
        assert registry.card(name).name == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [("squeezenett", "did you mean 'squeezenet'?"), ("vgg-16", "did you mean 'vgg16'?"), ("zzz", "known: c3d, ")],
)
def test_an_unknown_name_is_told_the_near_ones(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        registry.card(name)
    message = str(raised.value)
    assert message.startswith(f"extractor {name}: expected a registered name")
    assert hint in message
