"""What is shipped: every package, every pin, an image without leftovers, and nothing that ties it to one machine."""

import ast
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest

from clipmill.schemas.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("extractors", "jobs", "models", "pipelines", "schemas", "stores")


def setup_constants() -> dict[str, Any]:
    """Returns the literal constants of setup.py without running it."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def of_extras(*names: str) -> list[str]:
    """Returns the requirements of the extras `names`, or of all."""
    extras = setup_constants()["EXTRAS"]
    return [requirement for name in names or extras for requirement in extras[name]]


def pins() -> dict[str, str]:
    """Returns name (normalised) to version of every line of constraints.txt."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9_.]*", line) for line in lines), "a pin is name==version"
    names = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert len(set(names)) == len(names), "a package is pinned twice"
    return dict(zip(names, [line.split("==")[1] for line in lines], strict=True))


def requirement_name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def test_setup_lists_every_package() -> None:
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert setup_constants()["PACKAGES"] == ["clipmill", *sorted(f"clipmill.{folder}" for folder in folders)]


def test_every_room_is_linked_into_the_import_package() -> None:
    links = {path.name: path.readlink().as_posix() for path in (ROOT / "clipmill").iterdir() if path.is_symlink()}
    assert links == {room: f"../{room}" for room in ROOMS}


def test_what_is_installed_is_the_import_package_alone() -> None:
    found = {path.name for path in (ROOT / "src").iterdir()} - {"clipmill.egg-info"}
    assert found == {"clipmill"}
    assert (ROOT / "src" / "clipmill").readlink().as_posix() == "../clipmill"


def test_every_python_file_lies_in_a_package() -> None:
    strays = [
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    ]
    assert strays == []


def test_every_other_file_of_a_package_is_shipped() -> None:
    found = re.search(r"package_data=\{\"\": (\[[^\]]*\])\}", (ROOT / "setup.py").read_text())
    assert found is not None
    patterns = ast.literal_eval(found.group(1))
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()]
    others = [path for path in files if path.suffix != ".py" and "__pycache__" not in path.parts]
    assert others
    assert [path.name for path in others if not any(path.match(pattern) for pattern in patterns)] == []


def test_every_requirement_is_pinned_and_no_pin_is_for_one_machine() -> None:
    constants = setup_constants()
    required = constants["RUNTIME"] + constants["DEVELOPMENT"] + constants["DOCUMENTATION"]
    required += of_extras(*set(constants["EXTRAS"]) - set(constants["UNTESTED"]))
    wanted = {requirement_name(item) for item in required}
    pinned = pins()
    assert wanted <= set(pinned)
    assert not any("+" in version for version in pinned.values())


DISTRIBUTIONS = {
    "lance": "pylance",
    "typing_extensions": "typing-extensions",
    "decord": "decord2",
    "cv2": "opencv-contrib-python-headless",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "apache_beam": "apache-beam",
    "faiss": "faiss-cpu",
    "google_crc32c": "google-crc32c",
    "prometheus_client": "prometheus-client",
}
"""Import name -> distribution, where they differ."""


def test_what_the_packages_import_is_required_and_what_is_required_is_imported() -> None:
    imported: set[str] = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    imported.add(node.module.split(".")[0])
    libraries = imported - set(sys.stdlib_module_names) - {"clipmill"}
    wanted = {DISTRIBUTIONS.get(name, name) for name in libraries}
    constants = setup_constants()
    # Drivers of fsspec are imported by it, and TensorBoard by torch.
    required = constants["RUNTIME"] + of_extras(*set(constants["EXTRAS"]) - {"s3", "gcs", "azure", "tensorboard"})
    assert wanted == {requirement_name(item) for item in required}


def test_an_extra_brings_what_the_errors_say_it_does() -> None:
    for name, libraries in EXTRAS.items():
        brought = {requirement_name(item) for item in of_extras(name)}
        assert {DISTRIBUTIONS.get(library, library) for library in libraries} == brought, name


NEXT_PYTHONS = ("3.12", "3.13")


def test_nothing_stands_in_the_way_of_the_next_versions_of_python() -> None:
    files = [path for room in (*ROOMS, "clipmill") for path in (ROOT / room).rglob("*.py")]
    # Modules that 3.12 and 3.13 no longer have (PEP 594, and distutils, asyncore, asynchat, imp, smtpd).
    removed = set(
        "distutils asyncore asynchat imp smtpd aifc audioop cgi cgitb chunk crypt imghdr mailcap msilib nis nntplib "
        "ossaudiodev pipes sndhdr spwd sunau telnetlib uu xdrlib lib2to3".split()
    )
    for path in files:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an escape that 3.12 warns of
            tree = ast.parse(path.read_text("utf-8"), str(path))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not removed & {name.partition(".")[0] for name in names}, path
    for version in NEXT_PYTHONS:
        target = f"py{version.replace('.', '')}"
        command = [sys.executable, "-m", "ruff", "check", "--quiet", "--isolated", "--select", "E9,F63,F7,F82"]
        checked = subprocess.run([*command, "--target-version", target, "."], cwd=ROOT, timeout=280, check=False)
        assert checked.returncode == 0, version
    supported = re.search(r'python_requires=">=3\.11,<3\.(\d+)"', (ROOT / "setup.py").read_text())
    assert supported is not None
    assert int(supported.group(1)) == 14


@pytest.mark.slow
def test_nothing_is_used_that_came_after_python_3_11() -> None:
    files = [path for room in (*ROOMS, "clipmill") for path in (ROOT / room).rglob("*.py")]
    done = subprocess.run(
        [Path(sys.executable).with_name("vermin"), "--no-tips", "--violations", "--target=3.11-", *map(str, files)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_there_is_one_opencv() -> None:
    assert [name for name in pins() if name.startswith("opencv")] == ["opencv-contrib-python-headless"]


def test_every_marker_is_described_and_slow_tests_are_left_out_by_default() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert {marker.split(":")[0] for marker in options["markers"]} == {"slow", "ray", "beam", "gpu", "browser"}
    assert "-m 'not slow'" in options["addopts"]


def dockerfile() -> list[list[str]]:
    """Returns the instructions as words, with continued lines joined and comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [line.split() for line in text.splitlines() if line.strip()]


def test_the_image_runs_clipmill_as_an_ordinary_user() -> None:
    last_stage = dockerfile()[max(i for i, words in enumerate(dockerfile()) if words[0] == "FROM") :]
    users = [words[1] for words in last_stage if words[0] == "USER"]
    assert users
    assert users[-1].split(":")[0] not in {"root", "0"}
    assert last_stage[-1] == ["ENTRYPOINT", '["clipmill"]'] or last_stage[-2] == ["ENTRYPOINT", '["clipmill"]']


def test_the_image_has_no_development_leftovers() -> None:
    instructions = dockerfile()
    starts = [index for index, words in enumerate(instructions) if words[0] == "FROM"]
    assert len(starts) >= 2, "expected a stage that builds and one that runs"
    for words in instructions[starts[-1] :]:
        assert words[0] not in {"ADD"}
        assert words[0] != "COPY" or any(word.startswith("--from=") for word in words), f"copies the tree: {words}"
        assert not {"pip", "gcc", "build-essential", "git", "make"} & set(words), f"installs tools: {words}"
    for words in instructions:
        assert words[0] != "COPY" or words[1] != ".", "copies the whole working copy"
        if "pip" in words and "install" in words:
            assert "--no-cache-dir" in words
            assert not any("[dev]" in word for word in words)
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = [line for line in lines if line and not line.startswith("#")]
    assert ignored[0] == "*", "expected everything to be left out and rooms to be named"
    copied = {words[1] for words in instructions[: starts[-1]] if words[0] == "COPY" and len(words) == 3}
    assert {"src", "clipmill", *ROOMS} <= copied
    assert {f"!{folder}" for folder in ("src", "clipmill", *ROOMS)} <= set(ignored)
    assert not {"!tests", "!.git", "!.venv"} & set(ignored)


@pytest.mark.parametrize("name", ["setup.py", "Makefile", "constraints.txt", "Dockerfile", ".ci/run", "README.md"])
def test_nothing_names_a_host_or_a_folder_of_one_machine(name: str) -> None:
    text = (ROOT / name).read_text()
    found = re.findall(r"(?:/root/|/home/\w+|index-url[ =]+https?://\S+|https?://\S*(?:pypi|whl)\S*)", text)
    assert found == []


def test_the_readme_links_to_what_is_there() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
