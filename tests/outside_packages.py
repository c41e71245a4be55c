"""Packages from outside the project, laid out as pip would install them."""

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from clipmill.extractors import registry as extractors
from clipmill.schemas.registry import Registry

REGISTRIES = {
    "clipmill.models.registry": "_REGISTRY",
    "clipmill.stores.shard_formats": "SHARD_FORMATS",
    "clipmill.stores.feature_files.registry": "FEATURE_FORMATS",
    "clipmill.stores.formats.registry": "_REGISTRY",
    "clipmill.stores.loaders.registry": "LOADERS",
    "clipmill.pipelines.evaluation.tasks.measures": "_REGISTRY",
    "clipmill.pipelines.evaluation.tasks.registry": "_REGISTRY",
    "clipmill.pipelines.features.engines.registry": "ENGINES",
}
"""Every table of named things, by the module it is in; that of the extractors is a module of its own."""


def install(example: Path, site: Path) -> Path:
    """Puts the modules of `example` and the metadata of its pyproject.toml into `site`; returns `site`."""
    project = tomllib.loads((example / "pyproject.toml").read_text())["project"]
    metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    for module in example.glob("*.py"):
        (site / module.name).write_bytes(module.read_bytes())
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), ""])
        for group, points in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    return site


@contextmanager
def found_in(site: Path) -> Iterator[None]:
    """Lets this process find the packages installed in `site`, as PYTHONPATH lets a fresh one; takes all of it back."""
    before = sys.path[:]
    sys.path.insert(0, str(site))
    _forget()
    try:
        yield
    finally:
        sys.path[:] = before
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(f"{site}/"):
                del sys.modules[name]
        _forget()


def _forget() -> None:
    """Has the entry points read again by the next that asks for one of them."""
    for module, name in REGISTRIES.items():
        registry: Registry[object] = getattr(import_module(module), name)
        registry._get.cache_clear()
        registry._outside.cache_clear()
    for cached in (extractors._outside, extractors.registration, extractors._card_of):
        cached.cache_clear()
