"""``search:`` of a retrieval evaluation: exact by default, or an index that proposes candidates."""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from clipmill.schemas.model import Model


class IndexConfig(Model):
    """How the gallery is searched. Every default is ours; all of them are stored with the results.

    Attributes:
        index: ``exact`` compares with every item. ``ivf`` searches `probes` of `num_lists` inverted lists (None:
            4 sqrt(N), at most N / 39), ``hnsw`` walks a graph of `links` per item, ``binary`` compares `num_bits` sign
            bits (None: one per dimension) after a learned (``itq``) or random (``lsh``) rotation.
        candidates: items per query whose exact score is then taken; at least the largest cut-off.
        build_effort, search_effort: of ``hnsw`` (efConstruction, efSearch).
        training_rows: most rows that centres and rotations are learned from.
        recall_queries: queries on which recall against exact search is measured.
        seed: of centres, rotations and samples.
    """

    index: Literal["exact", "ivf", "hnsw", "binary"] = "exact"
    candidates: int = Field(default=200, ge=1)
    num_lists: int | None = Field(default=None, ge=1)
    probes: int = Field(default=16, ge=1)
    links: int = Field(default=32, ge=2)
    build_effort: int = Field(default=200, ge=1)
    search_effort: int = Field(default=256, ge=1)
    codes: Literal["itq", "lsh"] = "itq"
    num_bits: int | None = Field(default=None, ge=8, multiple_of=8)
    training_rows: int = Field(default=100_000, ge=1)
    recall_queries: int = Field(default=100, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _exact_has_no_options(self) -> "IndexConfig":
        given = sorted(self.model_fields_set - {"index"})
        if self.index == "exact" and given:
            raise ValueError(
                f"expected no options with index exact, got {given[0]}; name an index: ivf, hnsw or binary"
            )
        return self

    @model_serializer(mode="wrap")
    def _exact_alone(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A saved config is read again, and exact search takes no options.
        data: dict[str, Any] = dump(self)
        return {"index": "exact"} if self.index == "exact" else data
