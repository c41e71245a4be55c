"""SemArt: paintings and their comments in one space (Garcia, Vogiatzis, *How to Read Paintings*, ECCV workshops 2018).

A text is the TF-IDF of its comment beside that of its title, a painting the vector of a network (ResNet-50's 1000
logits). Each has one layer with tanh and a norm of 1. CML draws pairs: with a probability of 0.2 a text and its own
painting, else a text and any other painting; a pair's loss is 1 - cos, or max(0, cos - 0.1). AMD adds the loss of a
classifier of an attribute (the label: type, school, timeframe, author), one for both embeddings.

Values without a mark are those of the authors' code (noagarcia/SemArt). It trains ResNet-50, too, in turn with the
layers, as a training on images does; where vectors are read from a store the layers are trained alone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import Batch, ModelCard, Registration, Side, Sizes, Values
from clipmill.models.perceptron import Width
from clipmill.models.tf_idf import TfIdf, Words
from clipmill.schemas.inputs import Input, InputRows, Tokens, Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine, Space

MAX_TOKENS = 10_000
"""ours: words of a text that are read."""


class TextOptions(Model):
    """How comments and titles are read.

    Attributes:
        words: which of them; ``content``: of letters alone and no stop words.
        max_comment_words, max_title_words: of the most frequent.
        min_comment_count: so often a word stands in the training comments.
    """

    words: Words = "content"
    max_comment_words: int = Field(default=10_000, ge=1)
    max_title_words: int = Field(default=10_000, ge=1)  # ours: all 9,007 of SemArt's
    min_comment_count: int = Field(default=11, ge=1)


class SemArtOptions(TextOptions):
    """Options of CML and AMD.

    Attributes:
        form: ``cml``, or ``amd``, which needs labels.
        embedding_dim: length of the embeddings.
        margin: cosine up to which a pair that does not match costs nothing.
        matching_share: probability of a matching pair.
        pairs_per_text: pairs of a text in an epoch.
        class_weight: of each of the two class losses of ``amd``.
    """

    form: Literal["cml", "amd"] = "cml"
    embedding_dim: Width = 128
    margin: float = Field(default=0.1, ge=-1, le=1)
    matching_share: float = Field(default=0.2, ge=0, le=1)
    pairs_per_text: int = Field(default=5, ge=1)
    class_weight: float = Field(default=0.01, ge=0)  # ours: not stated


class SemArtText(nn.Module):
    """The TF-IDF rows of comment and title, one beside the other."""

    def __init__(self, options: TextOptions, sizes: Sizes) -> None:
        super().__init__()
        self.words = options.words
        self.comment = TfIdf(sizes.dims["comment"], options.max_comment_words)
        self.title = TfIdf(sizes.dims["title"], options.max_title_words)
        self.width = self.comment.width + self.title.width

    def prepare(self, inputs: Mapping[str, InputRows], vocabularies: Mapping[str, Sequence[str]]) -> None:
        """Weighs the words by the training texts."""
        for name, part in (("comment", self.comment), ("title", self.title)):
            part.prepare(inputs[name], vocabularies[name], self.words)

    def forward(self, inputs: Mapping[str, Values]) -> Tensor:
        """Returns ``[B, width]``."""
        return torch.cat([self.comment(inputs["comment"]), self.title(inputs["title"])], dim=1)


class SemArt(nn.Module):
    """Both layers, and the classifier of AMD.

    Args:
        sizes: length of the vector ``image``, sizes of the vocabularies of ``comment`` and ``title``, number of labels.
    """

    scaling = "none"

    def __init__(self, options: SemArtOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        self.texts = SemArtText(options, sizes)
        self.image = nn.Linear(sizes.dims["image"], options.embedding_dim)
        self.text = nn.Linear(self.texts.width, options.embedding_dim)
        if options.form == "amd":
            self.classifier = nn.Linear(options.embedding_dim, sizes.num_labels)

    def prepare(self, inputs: Mapping[str, InputRows], vocabularies: Mapping[str, Sequence[str]]) -> None:
        """Weighs the words by the training texts."""
        self.texts.prepare(inputs, vocabularies)

    def draws(self) -> Mapping[str, tuple[int, ...]]:
        """Returns the noise that chooses the paintings of a text's pairs."""
        return {"pair": (self.options.pairs_per_text, 2)}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the mean loss of the drawn pairs (``pair``), of AMD those of classes, and their sum (``total``)."""
        o, workers = self.options, batch.workers
        image = self.embed("gallery", batch.inputs)["common"]
        text = workers.gather(self.embed("query", batch.inputs)["common"])
        image = workers.gather(image)
        draws = workers.gather(batch.draws["pair"])
        partner, matches = drawn_pairs(draws, o.matching_share)
        cosine = (text[:, None] * image[partner]).sum(dim=-1)
        pair = torch.where(matches, 1 - cosine, (cosine - o.margin).clamp(min=0)).mean()
        if o.form == "cml":
            return {"pair": pair, "total": pair}
        label = workers.gather(batch.labels)
        classes = {
            f"{name}_class": functional.cross_entropy(self.classifier(side), label)
            for name, side in (("image", image), ("text", text))
        }
        total = pair + o.class_weight * torch.stack(list(classes.values())).sum()
        return {"pair": pair, **classes, "total": total}

    def measures(self, query: Mapping[str, Tensor], gallery: Mapping[str, Tensor]) -> dict[str, float]:
        """Returns ``median_rank`` of a text's own painting; the authors' code keeps the epoch where it is least.

        Paintings that are as near as its own stand before it (theirs: in the order of the files).
        """
        cosine = query["common"].double() @ gallery["common"].double().T
        ranks = (cosine >= cosine.diagonal()[:, None]).sum(dim=1).double()
        return {"median_rank": float(ranks.quantile(0.5))}

    def spaces(self) -> Mapping[str, Space]:
        """Returns the one space it ranks in."""
        return {"common": Cosine("common", "common")}

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``common [B, embedding_dim]``, of norm 1, of texts (queries) or paintings."""
        if side == "query":
            rows = self.text(self.texts(inputs).to(self.text.weight.dtype))
        else:
            rows = self.image(inputs["image"].values)
        return {"common": functional.normalize(torch.tanh(rows), dim=-1)}


def drawn_pairs(draws: Tensor, matching_share: float) -> tuple[Tensor, Tensor]:
    """Returns, of B texts, the paintings ``int64[B, P]`` of their pairs, and whether they match.

    A pair that does not match has any other painting of the batch, each as likely; a batch of one has none.

    Args:
        draws: standard normal noise ``[B, P, 2]``.
    """
    chance, place = ((1 + torch.erf(draws / math.sqrt(2))) / 2).unbind(dim=-1)
    num_items = len(draws)
    own = torch.arange(num_items, device=draws.device)[:, None]
    matches = (chance < matching_share) | (num_items == 1)
    # Of the others, in the order of the batch: those after the text's own are one further.
    other = (place * (num_items - 1)).long().clamp(max=max(0, num_items - 2))
    return torch.where(matches, own, other + (other >= own)), matches


def text_inputs(options: TextOptions) -> dict[str, Input]:
    """Returns the inputs of a text and of a painting."""
    comment = Tokens(MAX_TOKENS, options.min_comment_count)
    return {"comment": comment, "title": Tokens(MAX_TOKENS), "image": Vector("first")}


SIDES: Mapping[Side, tuple[str, ...]] = {"query": ("comment", "title"), "gallery": ("image",)}
SOURCE = "Garcia and Vogiatzis, ECCV workshops 2018; github.com/noagarcia/SemArt"


def _card(options: Any) -> ModelCard:
    """Returns the card of the form and of the words that are read."""
    return ModelCard(
        name="semart",
        summary="paintings and their comments in one space, by drawn pairs and an attribute",
        source=SOURCE,
        inputs=text_inputs(options),
        options=SemArtOptions,
        sides=SIDES,
        loop={"epochs": 120, "batch": 28, "learning_rate": 1e-4, "seed": 123},
        couples_batch=True,
        gathers=True,
        needs_labels=options.form == "amd",
        variant=_card,
    )


REGISTRATION = Registration(card=_card(SemArtOptions()), build=SemArt)
