"""The rooms of docs/design.md: who may import whom, where each heavy library lives, and what start-up may load."""

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    "schemas": set(),
    "stores": {"schemas"},
    "extractors": {"schemas"},
    "models": {"schemas"},
    "pipelines": set(),
    "pipelines.decode": {"schemas", "extractors"},
    "pipelines.datasets": {"schemas", "stores"},
    "pipelines.reports": {"schemas"},
    "pipelines.process_guard": set(),
    "pipelines.listening": {"schemas"},
    "pipelines.worker_errors": {"schemas"},
    "pipelines.ray_cluster": {"schemas", "pipelines.process_guard", "pipelines.listening"},
    "pipelines.features": {
        "schemas",
        "stores",
        "extractors",
        "pipelines.decode",
        "pipelines.listening",
        "pipelines.process_guard",
        "pipelines.ray_cluster",
        "pipelines.worker_errors",
    },
    "pipelines.training": {
        "schemas",
        "stores",
        "models",
        "extractors",
        "pipelines.datasets",
        "pipelines.decode",
        "pipelines.ray_cluster",
        "pipelines.worker_errors",
    },
    "pipelines.evaluation": {
        "schemas",
        "stores",
        "models",
        "pipelines.datasets",
        "pipelines.reports",
        "pipelines.worker_errors",
    },
    "pipelines.sweeps": {
        "schemas",
        "stores",
        "models",
        "pipelines.datasets",
        "pipelines.training",
        "pipelines.features",
        "pipelines.evaluation",
        "pipelines.reports",
        "pipelines.ray_cluster",
    },
    "pipelines.reproductions": {
        "schemas",
        "extractors",
        "models",
        "pipelines.training",
        "pipelines.evaluation",
        "pipelines.process_guard",
        "pipelines.sweeps",
        "pipelines.reports",
    },
    "jobs": {
        "schemas",
        "stores",
        "extractors",
        "models",
        "pipelines.decode",
        "pipelines.datasets",
        "pipelines.reports",
        "pipelines.features",
        "pipelines.training",
        "pipelines.evaluation",
        "pipelines.sweeps",
        "pipelines.reproductions",
    },
    "clipmill": {"schemas", "stores", "extractors", "pipelines.datasets", "pipelines.evaluation", "jobs"},
}
"""Room -> rooms it may import, itself aside; ``clipmill`` is the package's own file, which offers the public names."""

PACKAGES = sorted({room.split(".")[0] for room in MAY_IMPORT} - {"clipmill"})
"""Top-level folders."""

HOMES = {
    "decord": ("pipelines/decode/",),
    "av": ("pipelines/decode/",),
    "ray": (
        "pipelines/ray_cluster.py",
        "pipelines/features/engines/ray",
        "pipelines/training/",
        "pipelines/sweeps/tune_trials.py",
    ),
    "apache_beam": ("pipelines/features/engines/beam",),
    "dask": ("pipelines/evaluation/", "stores/dask_rows.py", "stores/feature.py"),
    "distributed": ("pipelines/evaluation/",),
    "zarr": ("stores/",),
    "lance": ("stores/",),
    "webdataset": ("stores/",),
    # The others read weights published as HDF5: extractors read their weights, and may not import stores.
    "h5py": ("stores/", "extractors/c3d/projection.py", "extractors/keras.py"),
    # An optional extra.
    "onnx": ("extractors/onnx_program/",),
    "onnxruntime": ("extractors/onnx_program/", "extractors/compiled_network.py"),
    "openvino": ("extractors/compiled_network.py",),
    "prometheus_client": ("jobs/prometheus_metrics.py",),
}
"""Heavy library -> the only paths that may import it (prefixes)."""

ONE_METHOD = {("stores/dask_rows.py", "dask"), ("stores/feature.py", "dask")}
"""Pairs of file and library where the import must stand inside one function, not at the top of the module."""

WITHOUT_TORCH = (
    "schemas/",
    "stores/",
    "pipelines/features/plan",
    "pipelines/features/windows",
    "pipelines/features/clips",
)

SCHEMAS_LIBRARIES = {"numpy", "pyarrow", "pydantic", "typing_extensions", "yaml"}

VAGUE = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"}


def room_of(module: str) -> str | None:
    """Returns the room a dotted module name lies in, or None for another library."""
    parts = module.split(".")
    if parts[0] != "clipmill":
        return None
    if len(parts) == 1 or parts[1] not in PACKAGES:
        return "clipmill"
    two = ".".join(parts[1:3])
    return two if two in MAY_IMPORT else parts[1]


def imports(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Yields line, dotted module and whether importing the file runs it, for import statements and constant imports."""
    nested = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_for_types_only(outer)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        top = id(node) not in nested
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}", top
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value, top


def _is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def violations(path: str, source: str) -> list[str]:
    """Returns each broken rule of one file as ``path:line: what``.

    Args:
        path: POSIX path relative to the project's root.
        source: the file's text.
    """
    tree = ast.parse(source)
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    room = room_of(module if module.startswith("clipmill") else f"clipmill.{module}")
    if room is None:
        raise ValueError(f"{path}: expected a file of one of {PACKAGES}")
    found: list[tuple[int, str]] = []
    for part in module.split("."):
        if VAGUE & set(part.split("_")):
            found.append((1, f"module name '{part}' says nothing; name what lives there"))
    for line, name, top in imports(tree):
        found += [(line, message) for message in _import_violations(path, room, name, top)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.append((node.lineno, "relative import; write the room's name"))
        if isinstance(node, ast.Assert):
            found.append((node.lineno, "assert outside tests; raise an error of schemas/errors.py"))
    return [f"{path}:{line}: {message}" for line, message in sorted(set(found))]


def _import_violations(path: str, room: str, name: str, top: bool) -> Iterator[str]:
    other = room_of(name)
    library = name.split(".")[0]
    if name == "clipmill.__version__":
        return
    if other is not None:
        if other != room and other not in MAY_IMPORT[room] and other != "pipelines":
            yield f"{room} may not import {other}"
        return
    if library in PACKAGES:
        yield f"{library} is imported as clipmill.{library}"
        return
    homes = HOMES.get(library)
    if homes is not None and not path.startswith(homes):
        yield f"{library} lives in {', '.join(homes)} only"
    if top and (path, library) in ONE_METHOD:
        yield f"{library} belongs inside the one method that needs it"
    if library == "torch" and path.startswith(WITHOUT_TORCH):
        yield "torch may not be imported here"
    if room == "schemas" and library not in SCHEMAS_LIBRARIES | set(sys.stdlib_module_names):
        yield f"schemas may not import {library}"


def sources() -> list[Path]:
    rooms = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [*sorted((ROOT / "clipmill").glob("*.py")), *rooms]


def test_every_file_keeps_to_its_room() -> None:
    paths = sources()
    found = [line for path in paths for line in violations(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))]
    assert not found, "\n" + "\n".join(found)
    assert {path.relative_to(ROOT).parts[0] for path in paths} == {"clipmill", *PACKAGES}


BROKEN = [
    ("stores/zarr_shards.py", "import clipmill.extractors.base", "stores may not import extractors"),
    ("schemas/a.py", "from clipmill.stores import FeatureStore", "schemas may not import stores"),
    ("schemas/a.py", "import fsspec", "schemas may not import fsspec"),
    ("models/a.py", "from clipmill.stores.reader import FeatureStore", "models may not import stores"),
    (
        "pipelines/features/a.py",
        "from clipmill.models import map_ivr",
        "pipelines.features may not import models",
    ),
    (
        "pipelines/training/a.py",
        "from clipmill.pipelines.features import plan",
        "may not import pipelines.features",
    ),
    (
        "pipelines/evaluation/a.py",
        "from clipmill.pipelines.training import loop",
        "may not import pipelines.training",
    ),
    (
        "pipelines/evaluation/a.py",
        "from clipmill.pipelines import training",
        "may not import pipelines.training",
    ),
    (
        "pipelines/features/a.py",
        "def f():\n    import clipmill.jobs.cli",
        "pipelines.features may not import jobs",
    ),
    ("pipelines/features/worker.py", "import decord", "decord lives in"),
    ("jobs/build.py", "import av", "av lives in"),
    ("jobs/build.py", "def f():\n    import ray", "ray lives in"),
    ("jobs/build.py", "import importlib\nimportlib.import_module('ray')", "ray lives in"),
    ("pipelines/features/engines/local.py", "from ray.util import ActorPool", "ray lives in"),
    ("pipelines/features/engines/ray.py", "import apache_beam as beam", "apache_beam lives in"),
    ("stores/store.py", "import dask.array", "dask lives in"),
    ("stores/dask_rows.py", "import dask.array", "dask belongs inside"),
    ("stores/dask_rows.py", "def f():\n    from distributed import Client", "distributed lives in"),
    ("pipelines/evaluation/a.py", "import zarr", "zarr lives in"),
    ("extractors/weights.py", "import h5py", "h5py lives in"),
    ("stores/dask_rows.py", "def f():\n    import torch", "torch may not be imported"),
    ("pipelines/features/plan.py", "from torch import nn", "torch may not be imported"),
    ("extractors/c3d/card.py", "from .base import Extractor", "relative import"),
    ("jobs/build.py", "from stores import FeatureStore", "stores is imported as clipmill.stores"),
    ("jobs/utils.py", "", "says nothing"),
    ("stores/shard_helpers/a.py", "", "says nothing"),
    ("jobs/build.py", "def f(x):\n    assert x", "assert outside tests"),
]


@pytest.mark.parametrize(("path", "source", "message"), BROKEN, ids=[f"{path}-{text}" for path, _, text in BROKEN])
def test_a_broken_rule_is_named_with_its_line(path: str, source: str, message: str) -> None:
    found = violations(path, source)
    assert len(found) == 1
    assert found[0].startswith(f"{path}:{max(1, len(source.splitlines()))}: ")
    assert message in found[0]


ALLOWED = [
    ("stores/dask_rows.py", "from clipmill.schemas.rows import Rows\n\ndef dask(self):\n    import dask.array\n"),
    ("stores/dask_rows.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import dask.array as da\n"),
    ("pipelines/training/ray_train.py", "import ray.train\nfrom clipmill.models import map_ivr\n"),
    ("pipelines/features/engines/beam.py", "import apache_beam as beam\n"),
    ("pipelines/features/passports.py", "from clipmill import __version__\n"),
    ("jobs/train.py", "from clipmill.pipelines.training import loop\nimport clipmill.pipelines.evaluation.report\n"),
]


@pytest.mark.parametrize(("path", "source"), ALLOWED, ids=[path for path, _ in ALLOWED])
def test_what_the_plan_allows_is_allowed(path: str, source: str) -> None:
    assert violations(path, source) == []


HEAVY = {
    "torch",
    "lance",
    "webdataset",
    "pandas",
    "ray",
    "apache_beam",
    "dask",
    "distributed",
    "zarr",
    "h5py",
    "decord",
    "av",
    "cv2",
    "matplotlib",
} | {
    "onnx",
    "onnxruntime",
    "openvino",
    "safetensors",
}


@pytest.mark.parametrize(
    "module",
    [
        "clipmill.schemas.config",
        "clipmill.schemas.tables",
        "clipmill",
        "clipmill.stores",
        "clipmill.extractors.registry",
        "clipmill.pipelines.features.plan",
        "clipmill.jobs.cli",
    ],
)
def test_starting_up_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print('\\n'.join(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert not loaded & HEAVY, f"import {module} loads {sorted(loaded & HEAVY)}"


ALLOWED_CIRCLES: dict[tuple[str, ...], str] = {}
"""Modules that import each other in a circle -> why they may."""


def module_name(path: Path) -> str:
    """Returns the dotted name a file of the project is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "clipmill" else ("clipmill", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _WithoutTypes(ast.NodeTransformer):
    """Leaves out what is imported for types alone."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        return node.orelse if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)


def imported_modules(source: str, known: Collection[str]) -> set[str]:
    """Returns which of `known` a file imports, at its top or inside a function, but not for its types alone."""
    found = set()
    for _, name, _ in imports(_WithoutTypes().visit(ast.parse(source))):
        parts = name.split(".")
        prefixes = (".".join(parts[:stop]) for stop in range(len(parts), 0, -1))
        found.add(next((prefix for prefix in prefixes if prefix in known), None))
    return {name for name in found if name is not None}


def circles(sources: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Returns every set of modules that reach each other by imports (strongly connected, by Tarjan), names sorted.

    Args:
        sources: text of each module by dotted name.
    """
    edges = {name: imported_modules(source, sources) - {name} for name, source in sources.items()}
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[tuple[str, ...]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in sorted(edges[name]):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            start = stack.index(name)
            component, stack[start:] = stack[start:], []
            if len(component) > 1:
                found.append(tuple(sorted(component)))

    for name in sorted(edges):
        if name not in order:
            visit(name)
    return sorted(found)


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = circles({module_name(path): path.read_text("utf-8") for path in sources()})
    new = [" <-> ".join(circle) for circle in found if circle not in ALLOWED_CIRCLES]
    gone = [" <-> ".join(circle) for circle in ALLOWED_CIRCLES if circle not in found]
    assert not new, "import circles:\n" + "\n".join(new)
    assert not gone, "no longer circles, take them from ALLOWED_CIRCLES:\n" + "\n".join(gone)


CIRCLES = [
    ({"a": "import clipmill.b", "b": "from clipmill.a import x"}, [("a", "b")]),
    ({"a": "import clipmill.b", "b": "def f():\n    from clipmill import a"}, [("a", "b")]),
    ({"a": "import clipmill.b", "b": "from importlib import import_module\nimport_module('clipmill.a')"}, [("a", "b")]),
    (
        {"a": "import clipmill.b", "b": "import clipmill.c", "c": "import clipmill.a\nimport clipmill.d", "d": ""},
        [("a", "b", "c")],
    ),
    (
        {"a": "import clipmill.b", "b": "from clipmill.a import x", "c": "import clipmill.d", "d": "import clipmill.c"},
        [("a", "b"), ("c", "d")],
    ),
    ({"a": "import clipmill.b", "b": "if TYPE_CHECKING:\n    from clipmill.a import x"}, []),
    (
        {
            "a": "import clipmill.b",
            "b": "if typing.TYPE_CHECKING:\n    import clipmill.a\nelse:\n    import clipmill.a",
        },
        [("a", "b")],
    ),
    ({"a": "import clipmill.b\nimport clipmill.c", "b": "import clipmill.c", "c": "import os"}, []),
    ({"a": "import clipmill.a"}, []),
]


@pytest.mark.parametrize(("files", "expected"), CIRCLES)
def test_circles_are_found_wherever_an_import_stands(files: dict[str, str], expected: list[tuple[str, ...]]) -> None:
    found = circles({f"clipmill.{name}": source for name, source in files.items()})
    assert found == [tuple(f"clipmill.{name}" for name in circle) for circle in expected]
