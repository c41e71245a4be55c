"""SemArt: TF-IDF by hand and against scikit-learn, drawn pairs, losses, CCA on made pairs, chance, and overfitting."""

from dataclasses import replace
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor
from torch.nn import functional

from clipmill.models.base import Batch, Sizes, Values, resolved_loop
from clipmill.models.registry import build, card, resolve_options
from clipmill.models.semart import drawn_pairs
from clipmill.models.tf_idf import STOP_WORDS, TfIdf
from clipmill.pipelines.datasets.text import Vocabulary
from clipmill.pipelines.datasets.tokenisers import words_of
from clipmill.pipelines.evaluation.metrics.retrieval_rank import pessimistic_first_rank
from clipmill.pipelines.training.loop import train_epoch, validation_losses
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.inputs import InputRows
from tests.models.synthetic_items import DIM, synthetic_items
from tests.pipelines.training.test_training_loop import training_of

DOCUMENTS = ["the red boat", "red red sea, a boat in 1802", "sea of clouds"]


def texts_of(documents: list[str]) -> tuple[InputRows, tuple[str, ...]]:
    words = [words_of(document) for document in documents]
    vocabulary = Vocabulary.of(words)
    return vocabulary.rows(words, 100), vocabulary.words


def rows_of(module: TfIdf, texts: InputRows) -> Tensor:
    values, mask = texts.padded()
    rows: Tensor = module(Values(torch.from_numpy(values), torch.from_numpy(mask)))
    return rows


def test_three_documents_by_hand() -> None:
    texts, vocabulary = texts_of(DOCUMENTS)
    # By frequency, then alphabet: a, the, in, of and 1802 are left out.
    kept = [word for word in vocabulary if word.isalpha() and word not in STOP_WORDS]
    assert kept == ["red", "boat", "sea", "clouds"]
    module = TfIdf(len(vocabulary) + 2, 4)
    module.prepare(texts, vocabulary, "content")
    often, once = log(4 / 3) + 1, log(4 / 2) + 1
    expected = np.array([[often, often, 0, 0], [2 * often, often, often, 0], [0, 0, often, once]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(rows_of(module, texts), expected, atol=1e-6)
    fewer = TfIdf(len(vocabulary) + 2, 2)
    fewer.prepare(texts, vocabulary, "content")
    np.testing.assert_allclose(rows_of(fewer, texts)[2], [0, 0])


def test_rows_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(40)])
    documents = [" ".join(random.choice(words, random.integers(1, 30))) for _ in range(25)]
    texts, vocabulary = texts_of(documents)
    module = TfIdf(len(vocabulary) + 2, 1000).double()
    module.prepare(texts, vocabulary, "all")
    expected = TfidfVectorizer(vocabulary=list(vocabulary)).fit_transform(documents).toarray()
    np.testing.assert_allclose(rows_of(module, texts), expected, atol=1e-12)
    # Unknown words and a text without any known one.
    new = Vocabulary(vocabulary).rows([("word3", "never", "word3"), ("never",)], 10)
    found = rows_of(module, new)
    assert found[1].abs().sum() == 0
    assert found[0].count_nonzero() == 1


def test_pairs_match_with_the_probability_asked_for_and_others_are_even() -> None:
    draws = torch.randn(5, 40_000, 2, generator=torch.Generator().manual_seed(0))
    partner, matches = drawn_pairs(draws, 0.2)
    for text in range(5):
        shares = (torch.bincount(partner[text], minlength=5) / 40_000).tolist()
        assert shares == pytest.approx([0.2] * 5, abs=0.01)
        assert torch.equal(partner[text] == text, matches[text])
    assert not drawn_pairs(draws, 0.0)[1].any()
    partner, matches = drawn_pairs(draws[:1, :9], 0.2)
    assert matches.all()
    assert not partner.any()


def semart(seed: int = 0, num_labels: int = 4, **options: Any) -> Any:
    given = {"words": "all", "min_comment_count": 1, "embedding_dim": 8} | options
    sizes = Sizes({"comment": 9, "title": 7, "image": DIM}, num_labels)
    return build("semart", resolve_options("semart", given), sizes, seed)


def some_batch(model: Any, num: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    comment, title = (torch.randint(2, most, (num, 5), generator=generator) for most in (9, 7))
    inputs = {
        "comment": Values(comment, torch.ones(num, 5, dtype=torch.bool)),
        "title": Values(title, torch.ones(num, 5, dtype=torch.bool)),
        "image": Values(torch.randn(num, DIM, generator=generator)),
    }
    draws = {name: torch.randn(num, *shape, generator=generator) for name, shape in model.draws().items()}
    return Batch(inputs, torch.arange(num) % 4, draws)


def test_losses_are_those_of_pytorch() -> None:
    model = semart(form="amd", class_weight=0.5)
    batch = some_batch(model)
    text, image = (model.embed(side, batch.inputs)["common"] for side in ("query", "gallery"))
    partner, matches = drawn_pairs(batch.draws["pair"], 0.2)
    sign = torch.where(matches, 1.0, -1.0).flatten()
    pair = functional.cosine_embedding_loss(text.repeat_interleave(5, 0), image[partner.flatten()], sign, margin=0.1)
    classes = [functional.cross_entropy(model.classifier(side), batch.labels) for side in (text, image)]
    losses = model.losses(batch)
    torch.testing.assert_close(losses["pair"], pair)
    torch.testing.assert_close(losses["total"], pair + 0.5 * (classes[0] + classes[1]))
    plain = semart().losses(batch)
    assert set(plain) == {"pair", "total"}


def test_which_form_needs_labels() -> None:
    needs = [card("semart", resolve_options("semart", {"form": form})).needs_labels for form in ("cml", "amd")]
    assert needs == [False, True]


def ranks_of(scores: np.ndarray) -> np.ndarray:
    return pessimistic_first_rank(scores, np.eye(len(scores), dtype=bool))


def test_the_median_rank_of_a_texts_own_painting_by_hand() -> None:
    # Cosines of four texts with four paintings, of which each text's own is 1st, 2nd, 4th, and 2nd beside an equal one.
    query = torch.tensor([[0.9, 0.3, 0.1, 0.0], [0.8, 0.5, 0.2, 0.1], [0.4, 0.6, 0.1, 0.5], [0.5, 0.3, 0.1, 0.5]])
    gallery, alike = torch.eye(4), torch.ones(4, 4)
    assert semart().measures({"common": query}, {"common": gallery}) == {"median_rank": 2.0}
    assert semart().measures({"common": alike}, {"common": alike}) == {"median_rank": 4.0}
    # Of an even number the mean of the middle two.
    assert semart().measures({"common": query[:2, :2]}, {"common": gallery[:2, :2]}) == {"median_rank": 1.5}


def test_the_median_rank_is_that_among_all_that_validate() -> None:
    options = resolve_options("semart", {"words": "all", "min_comment_count": 1, "embedding_dim": 8})
    items = synthetic_items(card("semart", options).inputs, 4, 10)
    num_words = {name: len(words) + 2 for name, words in items.vocabularies.items()}
    model: Any = build("semart", options, Sizes({**num_words, "image": DIM}), 0)
    model.prepare(items.inputs, items.vocabularies)
    training = replace(training_of(model, items, LoopConfig(epochs=1, batch=7)), couples_batch=True)
    found = validation_losses(training, training.items)
    everything = torch.arange(40)
    batch = training.items.batch(everything, training.items.lengths(everything))
    with torch.no_grad():
        text, image = (model.embed(side, batch.inputs)["common"].double().numpy() for side in ("query", "gallery"))
    assert found["median_rank"] == np.median(ranks_of(text @ image.T))
    assert {"pair", "total"} < found.keys()


def test_without_training_ranks_are_those_of_chance() -> None:
    num = 400
    random = np.random.default_rng(0)
    text, image = (random.normal(size=(num, 8)) for _ in range(2))
    ranks = ranks_of(text @ image.T)
    assert (ranks <= 10).mean() == pytest.approx(10 / num, abs=0.02)
    assert np.median(ranks) == pytest.approx(num / 2, abs=40)


def test_cml_overfits_64_pairs_that_have_nothing_in_common() -> None:
    options = {"words": "all", "min_comment_count": 1, "embedding_dim": 64}
    resolved = resolve_options("semart", options)
    own = card("semart", resolved)
    items = synthetic_items(own.inputs, 8, 8)
    random = np.random.default_rng(2)
    words = [[f"word{number}" for number in random.integers(0, 60, 8)] for _ in range(64)]
    vocabulary = Vocabulary.of(words)
    rows = vocabulary.rows(words, 100)
    vectors = InputRows(random.normal(size=(64, 32)).astype(np.float32))
    items = replace(items, inputs={"comment": rows, "title": rows, "image": vectors})
    sizes = Sizes({"comment": vocabulary.size, "title": vocabulary.size, "image": 32})
    model: Any = build("semart", resolved, sizes, seed=0)
    model.prepare(items.inputs, {"comment": vocabulary.words, "title": vocabulary.words})
    loop = resolved_loop(own, LoopConfig(epochs=150, batch=32, learning_rate=0.01))
    training = replace(training_of(model, items, loop), couples_batch=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for epoch in range(150):
            train_epoch(training, epoch)
    finally:
        torch.set_num_threads(threads)
    values, mask = rows.padded()
    text = Values(torch.from_numpy(values), torch.from_numpy(mask))
    inputs = {"comment": text, "title": text, "image": Values(torch.from_numpy(vectors.values))}
    with torch.no_grad():
        scores = model.embed("query", inputs)["common"] @ model.embed("gallery", inputs)["common"].T
    assert (ranks_of(scores.numpy()) == 1).mean() >= 0.95


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_cca_on_texts_finds_what_the_noise_leaves(noise: float) -> None:
    """A text is counts of words, a painting a linear map of its TF-IDF row, and noise."""
    random = np.random.default_rng(3)
    words = [[f"word{number}" for number in random.integers(0, 12, 20)] for _ in range(300)]
    vocabulary = Vocabulary.of(words)
    rows = vocabulary.rows(words, 100)
    options = {"words": "all", "min_comment_count": 1, "components": 12, "ridges": [0.0]}
    sizes = Sizes({"comment": vocabulary.size, "title": 3, "image": 16})
    model: Any = build("semart_cca", resolve_options("semart_cca", options), sizes)
    title = Vocabulary(("x",)).rows([("x",)] * 300, 5)
    names = {"comment": vocabulary.words, "title": ("x",)}
    model.prepare({"comment": rows, "title": title}, names)
    padded = {
        name: Values(*map(torch.from_numpy, texts.padded())) for name, texts in (("comment", rows), ("title", title))
    }
    text = model.texts(padded)[:, : len(vocabulary.words)].double().numpy()
    image = (text - text.mean(axis=0)) @ random.normal(size=(len(vocabulary.words), 16))
    image += noise * image.std() * random.normal(size=image.shape)
    inputs = {**padded, "image": Values(torch.from_numpy(image.astype(np.float32)))}
    (reached,) = model.solve(Batch(inputs))
    with torch.no_grad():
        left, right = (model.embed(side, inputs)["common"].double().numpy() for side in ("query", "gallery"))
    scores = left @ right.T / np.outer(np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1))
    found = (ranks_of(scores) == 1).mean()
    if noise:
        assert 0.2 < reached["correlation"] < 0.99
        assert 0.05 < found < 1
    else:
        assert reached["correlation"] == pytest.approx(1, abs=1e-3)
        assert found > 0.99
