"""The YAML file of ``clipmill reproduce map-ivr-table``."""

from typing import Literal

from pydantic import Field

from clipmill.schemas.config import TrainingData
from clipmill.schemas.config_sweep import DottedKeys, TrialsConfig
from clipmill.schemas.model import LocalPath


class MapIvrTableConfig(TrialsConfig):
    """``clipmill reproduce map-ivr-table --config FILE``.

    Attributes:
        data: as of ``clipmill train``. `split.validation_fraction` is taken from the training clips of those systems
            alone whose release chooses an epoch; the others train on these clips as well.
        bags: feature whose rows are a clip's bag, for APIVR; default: `data.video`.
        systems: rows of the table, by their names in results.json; default: all.
        set: row, or ``all``, to dotted keys of its train config.
        published: dataset whose published rows stand beside ours.
    """

    data: TrainingData
    bags: str | None = Field(default=None, min_length=1)
    systems: tuple[str, ...] = ()
    set: dict[str, DottedKeys] = Field(default_factory=dict)
    published: Literal["activitynet", "thumos14"] = "thumos14"
    seeds: tuple[int, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    out: LocalPath = "out/reproduce/map-ivr-table"
