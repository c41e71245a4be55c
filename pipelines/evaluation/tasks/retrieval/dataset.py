"""What a retrieval's page says of the data: counts, features with their weights, quarantine, and where time went."""

from collections.abc import Mapping
from dataclasses import dataclass

from clipmill.pipelines.reports.blocks import Block, Counts, Facts, Side, Tile
from clipmill.pipelines.reports.runs import SpeedOfLight, StageTime, reasons_table, speed_table, stages_table
from clipmill.schemas.recipe import IMPORTED


@dataclass(frozen=True, slots=True)
class FeatureLine:
    """One feature of the dataset and where its numbers come from.

    Attributes:
        role: what it was used for, such as ``query`` or ``gallery``.
        weights: as in the provenance records: ``random(0)``, or the name of a published file.
        digest: SHA-256 of the weights, as many digits as wanted; empty where there are none.
        decoders: which decoders served its videos, such as ``decord 0.6.0``.
    """

    name: str
    extractor: str
    layer: str
    role: str
    num_rows: int
    dim: int
    weights: str
    digest: str = ""
    decoders: str = ""

    @property
    def is_random(self) -> bool:
        """Whether the weights were drawn, not learned."""
        return self.weights.startswith("random")

    @property
    def is_imported(self) -> bool:
        """Whether the rows were made elsewhere."""
        return self.extractor == IMPORTED

    @property
    def source(self) -> str:
        """The weights and the beginning of their digest, as text."""
        return f"{self.weights} {self.digest[:12]}".strip()


@dataclass(frozen=True, slots=True)
class DatasetCounts:
    """What the numbers were computed over; `split` says in words how training and test were separated."""

    name: str
    num_videos: int
    num_clips: int
    num_labels: int
    num_train: int
    num_test: int
    split: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The data and their history.

    Attributes:
        quarantine: number of videos by reason code.
        stages: in order.
    """

    counts: DatasetCounts
    features: tuple[FeatureLine, ...] = ()
    quarantine: Mapping[str, int] | None = None
    stages: tuple[StageTime, ...] = ()
    speed_of_light: SpeedOfLight | None = None


def random_weights_notes(dataset: Dataset) -> tuple[str, ...]:
    """Returns a warning where features come from weights that were never trained."""
    drawn = ", ".join(f"{feature.name} ({feature.weights})" for feature in dataset.features if feature.is_random)
    if not drawn:
        return ()
    return (
        f"⚠ Random weights: {drawn}, never trained on anything. Such a network still tells colours, textures and "
        "amounts of motion apart, and little else: these numbers show that the pipeline works, not what the method can "
        "do with trained weights.",
    )


def dataset_blocks(dataset: Dataset) -> tuple[Block, ...]:
    """Returns what the page's section of data begins with."""
    counts = dataset.counts
    quarantined = sum((dataset.quarantine or {}).values())
    tiles = (
        ("videos", counts.num_videos),
        ("clips", counts.num_clips),
        ("labels", counts.num_labels),
        ("train", counts.num_train),
        ("test", counts.num_test),
        ("quarantined", quarantined),
    )
    blocks: list[Block] = [Counts(tuple(Tile(name, f"{count:,}") for name, count in tiles))]
    said = [("dataset", counts.name)]
    if counts.split:
        said.append(("split", counts.split))
    if not quarantined:
        said.append(("quarantine", "no video was quarantined"))
    blocks.append(Facts("Dataset", tuple(said)))
    if dataset.features:
        blocks.append(Side(tuple(_feature(feature) for feature in dataset.features)))
    if dataset.quarantine:
        blocks.append(reasons_table(dataset.quarantine, _QUARANTINE))
    history: list[Block] = []
    if dataset.stages:
        history.append(stages_table(dataset.stages))
    if dataset.speed_of_light is not None:
        history.append(speed_table(dataset.speed_of_light))
    return (*blocks, Side(tuple(history))) if history else tuple(blocks)


_QUARANTINE = "They are in no number above. clipmill status lists them with messages, clipmill requeue puts them back."


def _feature(feature: FeatureLine) -> Facts:
    warned = "⚠ " if feature.is_random else ""
    facts = (
        ("network", f"{feature.extractor} {feature.layer}"),
        ("used for", feature.role),
        ("rows", f"{feature.num_rows:,} of {feature.dim:,} values"),
        ("weights", f"{warned}{feature.source}"),
        ("decoded by", feature.decoders or "–"),
    )
    return Facts(feature.name, facts)
