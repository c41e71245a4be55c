"""The pages' code blocks: Python compiles and its names exist, whole configs are valid, commands have their options."""

import ast
import importlib
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from clipmill.jobs.cli import app
from clipmill.pipelines.evaluation.tasks.registry import parse_task_config
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.schemas.config import TrainConfig, parse_config
from clipmill.schemas.config_images import ImageTrainConfig
from clipmill.schemas.config_import import ImportConfig
from clipmill.schemas.config_search import SearchConfig
from clipmill.schemas.config_sweep import SweepConfig
from clipmill.schemas.config_videos import VideoTrainConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SHELL = ("", "bash", "sh", "shell script")
COMMAND = re.compile(r"^(?:\$ )?(?:\w+=\S+ )*(?:\.venv/bin/)?(?:clipmill|python -m clipmill) +(.*)")


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """Yields the text of the page's blocks in one of the languages."""
    for _, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language.strip() in languages:
            yield textwrap.dedent(text)


def each_block(*languages: str) -> list[Any]:
    """One case for each page that has such blocks."""
    cases = [(page, list(blocks(page, *languages))) for page in PAGES]
    return [pytest.param(found, id=str(page.relative_to(ROOT))) for page, found in cases if found]


# --- Python ---------------------------------------------------------------------------------------


def missing_names(code: str) -> list[str]:
    """Returns the names of clipmill that `code` imports or reads and that are not there."""
    missing = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "clipmill":
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    try:
                        importlib.import_module(f"{node.module}.{alias.name}")
                    except ImportError:
                        missing.append(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "clipmill":
                    importlib.import_module(alias.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "clipmill":
            if not hasattr(importlib.import_module("clipmill"), node.attr):
                missing.append(f"clipmill.{node.attr}")
    return missing


@pytest.mark.parametrize("found", each_block("python"))
def test_python_compiles_and_its_names_exist(found: list[str]) -> None:
    for code in found:
        compile(code, "block", "exec")
        assert not missing_names(code), code


def test_a_name_that_is_not_there_is_found() -> None:
    assert missing_names("import clipmill\nclipmill.opne('a')") == ["clipmill.opne"]
    assert missing_names("from clipmill.stores import FeatureStores") == ["clipmill.stores.FeatureStores"]


# --- YAML -----------------------------------------------------------------------------------------


def check_config(data: Any, text: str) -> str | None:
    """Validates `text` as the config its keys make it; returns its kind, or None where it is a part of one."""
    if not isinstance(data, dict):
        return None
    keys = set(data)
    if {"store", "videos", "features"} <= keys:
        parse_build_config(text, (), "block")
        return "build"
    if {"store", "manifest", "features"} <= keys:
        parse_config(ImportConfig, text, (), "block")
        return "import"
    if {"data", "model", "out"} <= keys:
        kinds = {"images": ImageTrainConfig, "videos": VideoTrainConfig}
        found = next((kind for key, kind in kinds.items() if key in (data["data"] or ())), TrainConfig)
        parse_config(found, text, (), "block")
        return "train"
    if "train" in keys and keys & {"grid", "random", "points"}:
        parse_config(SweepConfig, text, (), "block")
        return "sweep"
    if "queries" in keys and keys & {"run", "data"} and "task" not in keys:
        parse_config(SearchConfig, text, (), "block")
        return "search"
    if "task" in keys or {"run", "cutoffs"} <= keys:
        parse_task_config(text, (), "block")
        return "evaluate"
    return None


@pytest.mark.parametrize("found", each_block("yaml"))
def test_yaml_is_read_and_whole_configs_are_valid(found: list[str]) -> None:
    for text in found:
        check_config(yaml.safe_load(text), text)


def test_pages_have_whole_configs_of_each_kind() -> None:
    kinds = {check_config(yaml.safe_load(text), text) for page in PAGES for text in blocks(page, "yaml")}
    assert kinds >= {"build", "import", "train", "sweep", "search", "evaluate", None}


# --- commands -------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[str]:
    """Yields what follows ``clipmill`` in each command line of `text`."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if found := COMMAND.match(line.strip()):
            yield found[1]


def unknown_options(command: str) -> list[str]:
    """Returns what of a command line `clipmill` does not know: its verb, or options of the verb."""
    words = shlex.split(command, comments=True)
    place: Any = typer.main.get_command(app)
    while words and hasattr(place, "commands") and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in place.commands:
            return [name]
        place = place.commands[name]
    known = {"--help", *(name for each in place.params for name in (*each.opts, *each.secondary_opts))}
    return [word for word in words if word.startswith("--") and word.split("=")[0] not in known]


@pytest.mark.parametrize("found", each_block(*SHELL))
def test_commands_have_the_verbs_and_options_named(found: list[str]) -> None:
    wrong = {line: unknown_options(line) for text in found for line in commands(text)}
    assert not {line: names for line, names in wrong.items() if names}


def test_an_option_that_is_not_there_is_found() -> None:
    assert unknown_options("build build.yaml --dry-runs --set a=b") == ["--dry-runs"]
    assert unknown_options("weights chek c3d") == ["chek"]
    assert unknown_options("weights check c3d FILE") == []
