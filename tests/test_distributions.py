"""The wheel, the source distribution and the editable install, built without network from a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import clipmill

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("extractors", "jobs", "models", "pipelines", "schemas", "stores")
DIST_INFO = f"clipmill-{clipmill.__version__}.dist-info"
PACKAGE_FILES = ("__init__.py", "__main__.py", "py.typed", "torch.py")


def shipped() -> dict[str, bytes]:
    """Returns path below site-packages to content, read from the rooms themselves and not through the links."""
    files = {f"clipmill/{name}": ROOT / "clipmill" / name for name in PACKAGE_FILES}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.suffix in {".py", ".html"}:
                files[f"clipmill/{path.relative_to(ROOT).as_posix()}"] = path
    return {name: path.read_bytes() for name, path in files.items()}


def build(folder: Path, hook: str, out: Path) -> Path:
    """Returns what the build backend's `hook` makes of the sources in `folder`, as pip calls it."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.{hook}(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-c", code, str(out)], cwd=folder, capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, result.stderr
    return out / result.stdout.split()[-1]


def wheel_files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a checkout holds, links included, with a leftover of a build from before there was one name."""
    folder = tmp_path_factory.mktemp("checkout") / "clipmill"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "out", "benchmarks")
    shutil.copytree(ROOT, folder, symlinks=True, ignore=left_out)
    leftover = folder / "build" / "lib" / "stores"
    leftover.mkdir(parents=True)
    (leftover / "__init__.py").write_text("")
    return folder


@pytest.fixture(scope="session")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(sources, "build_wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def unpacked_sdist(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, made by the command with which Beam packs the code that `--setup_file` names."""
    out = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(out)]
    result = subprocess.run(command, cwd=sources, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    [path] = out.iterdir()
    with tarfile.open(path) as archive:
        assert {member.type for member in archive} <= {tarfile.REGTYPE, tarfile.DIRTYPE}, "a link would lead nowhere"
        archive.extractall(out)
    return out / f"clipmill-{clipmill.__version__}"


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel puts into site-packages."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_installed(site: Path, folder: Path, *arguments: str) -> str:
    """Returns what Python prints in `folder` with `site` before every other place of modules."""
    result = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_only_name_of_the_wheel_is_clipmill(wheel: Path) -> None:
    files = wheel_files(wheel)
    assert {name.split("/")[0] for name in files} == {"clipmill", DIST_INFO}
    assert files[f"{DIST_INFO}/top_level.txt"].split() == [b"clipmill"]


def test_the_wheel_holds_every_module_template_and_marker_of_types(wheel: Path) -> None:
    files = {name: content for name, content in wheel_files(wheel).items() if not name.startswith(DIST_INFO)}
    assert files == shipped()


def test_the_wheel_leaves_the_working_copy_clean(sources: Path, wheel: Path) -> None:
    assert [path.name for path in (sources / "build").iterdir()] == ["lib"]
    assert not (sources / "dist").exists()


def test_the_source_distribution_holds_the_content_of_the_links(unpacked_sdist: Path) -> None:
    source = unpacked_sdist / "src"
    package = (path for path in (source / "clipmill").rglob("*") if path.is_file())
    assert {path.relative_to(source).as_posix(): path.read_bytes() for path in package} == shipped()
    names = {path.name for path in unpacked_sdist.iterdir()}
    assert names >= {"setup.py", "pyproject.toml", "MANIFEST.in", "constraints.txt", "README.md", "LICENSE", "PKG-INFO"}
    assert not names & {"tests", "examples", "docs", "clipmill", *ROOMS}


def test_a_wheel_of_the_source_distribution_is_the_wheel_of_the_checkout(
    unpacked_sdist: Path, wheel: Path, tmp_path: Path
) -> None:
    assert wheel_files(build(unpacked_sdist, "build_wheel", tmp_path)) == wheel_files(wheel)


def test_an_installed_wheel_runs_in_any_folder(site: Path, tmp_path: Path) -> None:
    code = "import clipmill, clipmill.jobs.cli, clipmill.stores; print(clipmill.stores.__file__, clipmill.__version__)"
    assert run_installed(site, tmp_path, "-c", code).split() == [
        str(site / "clipmill" / "stores" / "__init__.py"),
        clipmill.__version__,
    ]
    assert "Usage: clipmill" in run_installed(site, tmp_path, "-m", "clipmill", "--help")


USER_SCRIPT = """
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

import clipmill


def means(url: str, name: str) -> dict[str, npt.NDArray[np.float32]]:
    feature = clipmill.open(url)[name]
    reveal_type(clipmill.open(url))
    reveal_type(feature.items())
    reveal_type(feature["video"].values)
    reveal_type(feature.get("video"))
    return {video_id: rows.values.mean(axis=0) for video_id, rows in feature.items()}


def owners(feature: clipmill.Feature) -> Iterator[tuple[str, ...]]:
    for batch in feature.batches(1024):
        reveal_type(batch.rows.start_seconds)
        yield batch.video_ids


def score(truth: str) -> float | None:
    return clipmill.evaluate("detection", ground_truth=truth, predictions="p.json").run().metrics["map@0.5"]


def labels(store: clipmill.FeatureStore) -> list[str | None]:
    return [clip.label for feature in store.values() for clip in feature.clips()]
"""
USER_ERROR = "import clipmill\n\nlength: str = len(clipmill.open('out')['c3d'])\nclipmill.open(1)\n"


@pytest.fixture(scope="session")
def environment(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel's files in its site-packages, and a path to this one's libraries."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", symlinks=True)
    [packages] = (folder / "venv").glob("lib/python*/site-packages")
    shutil.copytree(site, packages, dirs_exist_ok=True)
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "libraries.pth").write_text("\n".join(libraries))
    return folder / "venv" / "bin" / "python"


@pytest.mark.slow
def test_a_users_script_is_type_checked_against_the_installed_package(environment: Path, tmp_path: Path) -> None:
    def checked(text: str) -> tuple[int, str]:
        (tmp_path / "script.py").write_text(text)
        result = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(environment), "script.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=280,
        )
        return result.returncode, result.stdout

    code, said = checked(USER_SCRIPT)
    assert code == 0, said
    types = re.findall(r'Revealed type is "(.*)"', said)
    assert types[0] == "clipmill.stores.reader.FeatureStore"
    assert "clipmill.schemas.rows.Rows[numpy.floating[numpy._typing._nbit_base._32Bit]]" in types[1]
    assert "dtype[numpy.floating" in types[2]
    assert types[3].endswith("| None")
    assert "float" in types[4]
    code, said = checked(USER_ERROR)
    assert code == 1
    assert "script.py:3: error: Incompatible types in assignment" in said
    assert 'script.py:4: error: Argument 1 to "open" has incompatible type "int"; expected "str"' in said


def test_an_editable_install_is_a_path_that_type_checkers_can_follow(sources: Path, tmp_path: Path) -> None:
    """mypy and Pyright read paths from .pth files and run no import hooks."""
    files = wheel_files(build(sources, "build_editable", tmp_path))
    [path] = [content for name, content in files.items() if not name.startswith(DIST_INFO)]
    assert path.decode().split() == [str(sources / "src")]


@pytest.mark.parametrize(
    ("link", "named"),
    [("src/clipmill", "src/clipmill"), ("clipmill/stores", "src/clipmill/stores")],
    ids=["package", "room"],
)
def test_a_checkout_without_links_is_refused_in_one_line(sources: Path, tmp_path: Path, link: str, named: str) -> None:
    folder = tmp_path / "checkout"
    shutil.copytree(sources, folder, symlinks=True)
    target = (folder / link).readlink().as_posix()
    (folder / link).unlink()
    (folder / link).write_text(target)
    command = [sys.executable, "setup.py", "--version"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)
    assert result.returncode == 1
    assert re.fullmatch(rf"setup\.py {named}: expected .*, got a file; .*core\.symlinks=true\n", result.stderr)
