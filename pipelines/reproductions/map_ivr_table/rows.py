"""The rows of MAP-IVR's first table, the floors that stand with them, and how each is trained.

A system's loop and options are its publication's or its released code's, as its card has them; what stands here is
what `examples/retrieval` sets besides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clipmill.schemas.errors import UsageError, describe, near


@dataclass(frozen=True, slots=True)
class SystemRow:
    """One trained system.

    Attributes:
        name: in results.json and in the config's `systems` and `set`.
        title: what a reader calls it.
        model: in the registry.
        settings: dotted keys of its train config.
        spaces: the model's space to the title of its row; empty: its only space, under `title`.
        published: title of a row to the method's name in the published table.
        chooses_epoch: it needs clips to validate on.
        is_floor: it is no system of the publication.
    """

    name: str
    title: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    spaces: Mapping[str, str] = field(default_factory=dict)
    published: str | None = None
    chooses_epoch: bool = False
    is_floor: bool = False


def _select(loss: str) -> dict[str, Any]:
    return {"loop.select": loss}


ROWS: tuple[SystemRow, ...] = (
    SystemRow("procrustes", "Procrustes", "procrustes", is_floor=True),
    SystemRow("ridge", "ridge regression", "ridge", is_floor=True),
    SystemRow("cca", "CCA", "cca", is_floor=True),
    SystemRow("cmdn", "CMDN", "cmdn", published="CMDN"),
    # ours: the release's 20 epochs are 5,800 steps on its data; where clips are fewer they would be few.
    SystemRow("dspe", "DSPE", "dspe", {"loop.epochs": 200}, published="DSPE"),
    SystemRow("jfssl", "JFSSL", "jfssl", published="JFSSL"),
    SystemRow("acmr", "ACMR", "acmr", published="ACMR"),
    # ours: CCL overfits where clips are few.
    SystemRow("ccl", "CCL", "ccl", _select("total"), published="CCL", chooses_epoch=True),
    SystemRow("dscmr", "DSCMR", "dscmr", _select("total"), published="DSCMR", chooses_epoch=True),
    SystemRow("sdml", "SDML", "sdml", _select("subspace"), published="SDML", chooses_epoch=True),
    SystemRow("bpbc", "BPBC", "bpbc", published="BPBC"),
    SystemRow("apivr", "APIVR", "apivr", published="APIVR"),
    SystemRow("apivr_released", "APIVR, released code", "apivr", {"model.options.form": "released"}),
    SystemRow(
        "map_ivr",
        "MAP-IVR",
        "map_ivr",
        spaces={
            "appearance": "MAP-IVR appearance",
            "video": "MAP-IVR video",
            "combined": "MAP-IVR combined",
        },
    ),
)


def chosen_rows(names: tuple[str, ...]) -> tuple[SystemRow, ...]:
    """Returns the rows called `names`, or all, in the order of the table.

    Raises:
        UsageError: there is none of such a name (near names are listed).
    """
    known = [row.name for row in ROWS]
    for name in names:
        if name not in known:
            remedy = near(name, known)
            raise UsageError(describe("reproduce map-ivr-table", "systems", "rows of the table", name, remedy))
    return tuple(row for row in ROWS if not names or row.name in names)
