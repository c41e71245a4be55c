"""SemArt's first model: canonical correlation analysis of paintings and TF-IDF texts (ECCV workshops 2018).

The text is the TF-IDF of comment and title (`models.semart`), the painting the vector of a network; both are projected
on their canonical directions (`models.cca`) and compared by cosine. Values without a mark are the authors' code's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from clipmill.models.base import Batch, ModelCard, Registration, Side, Sizes, Values
from clipmill.models.cca import Cca, CcaOptions
from clipmill.models.semart import SIDES, SOURCE, SemArtText, TextOptions, text_inputs
from clipmill.schemas.inputs import InputRows
from clipmill.schemas.spaces import Space


class SemArtCcaOptions(TextOptions, CcaOptions):
    """Options of CCA on texts and paintings: those of both.

    ours: ridges, of which cross-validation chooses; theirs is plain CCA. Comment and title have a vocabulary each,
    where theirs have 3,000 words together.
    """

    components: int | None = Field(default=128, ge=1)
    max_comment_words: int = Field(default=3000, ge=1)
    max_title_words: int = Field(default=3000, ge=1)


class SemArtCca(nn.Module):
    """The TF-IDF of texts, and CCA in which they take the place of the videos."""

    scaling = "none"

    def __init__(self, options: SemArtCcaOptions, sizes: Sizes) -> None:
        super().__init__()
        self.texts = SemArtText(options, sizes)
        self.cca = Cca(options, Sizes({"image": sizes.dims["image"], "video": self.texts.width}))

    def prepare(self, inputs: Mapping[str, InputRows], vocabularies: Mapping[str, Sequence[str]]) -> None:
        """Weighs the words by the training texts."""
        self.texts.prepare(inputs, vocabularies)

    def solve(self, items: Batch) -> Iterator[Mapping[str, float]]:
        """Solves for both projections; see `models.cca.Cca.solve`."""
        sides = {"image": items.inputs["image"], "video": Values(self.texts(items.inputs))}
        return self.cca.solve(replace(items, inputs=sides))

    def spaces(self) -> Mapping[str, Space]:
        """Returns the one space it ranks in."""
        return self.cca.spaces()

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``common [B, components]``, the canonical variates of texts (queries) or paintings."""
        if side == "query":
            return self.cca.embed("gallery", {"video": Values(self.texts(inputs))})
        return self.cca.embed("query", {"image": inputs["image"]})


def _card(options: Any) -> ModelCard:
    """Returns the card of the words that are read."""
    return ModelCard(
        name="semart_cca",
        summary="linear projections of paintings and their comments whose correlation is greatest",
        source=SOURCE,
        inputs=text_inputs(options),
        options=SemArtCcaOptions,
        sides=SIDES,
        needs_labels=False,
        closed_form=True,
        variant=_card,
    )


REGISTRATION = Registration(card=_card(SemArtCcaOptions()), build=SemArtCca)
