"""Packages from outside the project, laid out as pip would install them."""

import tomllib
from pathlib import Path


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
