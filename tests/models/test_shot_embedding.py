"""Shot embeddings: losses by hand, sequences and their padding, the aggregations beside them, and ranked scenes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clipmill.models.base import Batch, Sizes, Values, resolved_loop
from clipmill.models.registry import build, card, resolve_options
from clipmill.models.shot_embedding import pair_losses
from clipmill.pipelines.evaluation.metrics.retrieval_scenes import SceneMap
from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.scorers import Cosine
from clipmill.pipelines.training.loop import train_epoch
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.inputs import InputRows
from tests.models.synthetic_items import DIM, synthetic_items
from tests.pipelines.training.test_training_loop import training_of

ENCODERS = ("lstm", "gru")


def embedder(seed: int = 0, **options: Any) -> Any:
    sizes = Sizes({"image": DIM, "video": DIM})
    return build("shot_embedding", resolve_options("shot_embedding", options), sizes, seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_frames(*frames: Tensor) -> Values:
    """Returns shots of different lengths, filled up with zeros."""
    longest = max(map(len, frames))
    values = torch.stack([functional.pad(rows, (0, 0, 0, longest - len(rows))) for rows in frames])
    return Values(values, torch.arange(longest) < torch.tensor([len(rows) for rows in frames])[:, None])


def test_the_losses_are_those_of_pytorch_and_of_a_hand() -> None:
    cosine = torch.tensor([[0.7, 0.4], [-0.3, 0.05]])
    matching, different = pair_losses(cosine, torch.eye(2, dtype=torch.bool), 0.1)
    assert matching.diagonal().tolist() == pytest.approx([0.3, 0.95])
    assert different[0, 1] == pytest.approx(0.3)
    assert different[1, 0] == 0
    left, right = drawn(6, DIM), drawn(6, DIM, seed=1)
    sign = torch.tensor([1, -1, 1, -1, -1, 1])
    expected = functional.cosine_embedding_loss(left, right, sign, margin=0.1, reduction="none")
    ours = pair_losses(functional.cosine_similarity(left, right), sign > 0, 0.1)
    torch.testing.assert_close(torch.where(sign > 0, *ours), expected)


def test_the_total_is_the_mean_over_random_pairs() -> None:
    """Of which a share of 0.2 match, and the others are drawn evenly."""
    model = embedder(start="random")
    image, frames = drawn(5, DIM), of_frames(*(drawn(4, DIM, seed=seed) for seed in range(5)))
    losses = model.losses(Batch({"image": Values(image), "video": frames}))
    cosine = (model.encode_image(image) @ model.encode_video(frames).T).detach()
    own = float((1 - cosine.diagonal()).mean())
    others = [max(0.0, float(cosine[i, j]) - 0.1) for i in range(5) for j in range(5) if i != j]
    assert losses["total"].item() == pytest.approx(0.2 * own + 0.8 * sum(others) / 20, abs=1e-6)


def test_shots_of_one_label_are_no_pair_that_does_not_match() -> None:
    model = embedder(start="random", margin=-1.0)
    image, frames = drawn(4, DIM), of_frames(*(drawn(3, DIM, seed=seed) for seed in range(4)))
    batch = Batch({"image": Values(image), "video": frames}, torch.tensor([0, 0, 1, 1]))
    cosine = (model.encode_image(image) @ model.encode_video(frames).T).detach()
    expected = torch.cat([cosine[:2, 2:], cosine[2:, :2]]).mean() + 1
    assert model.losses(batch)["different"].item() == pytest.approx(expected.item(), abs=1e-6)
    alone = model.losses(replace(batch, label=torch.zeros(4, dtype=torch.int64)))
    assert alone["different"] == 0


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_shot_of_one_frame_again_and_again_is_that_frame_to_all_that_is_not_learned(encoder: str) -> None:
    model = embedder(encoder=encoder)
    frame = functional.normalize(drawn(DIM), dim=0)
    gallery = model.embed("gallery", {"video": of_frames(frame.repeat(7, 1), frame.repeat(3, 1))})
    query = model.embed("query", {"image": Values(frame[None])})
    for name in ("first", "mean", "max", "embedding"):
        torch.testing.assert_close(gallery[name], frame.expand(2, DIM), msg=name)
    torch.testing.assert_close(model.score(query, gallery), torch.ones(1, 2))
    # As training starts: the image's vector as it is.
    torch.testing.assert_close(query["embedding"][0], frame)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_order_of_frames_means_something_to_the_network_alone(encoder: str) -> None:
    model = embedder(encoder=encoder, start="random")
    frames = drawn(6, DIM)
    one, other = (model.embed("gallery", {"video": of_frames(rows)}) for rows in (frames, frames.flip(0)))
    assert (one["embedding"] - other["embedding"]).abs().max() > 1e-3
    for name in ("mean", "max"):
        torch.testing.assert_close(one[name], other[name], msg=name)
    query = model.embed("query", {"image": Values(drawn(3, DIM, seed=4))})
    torch.testing.assert_close(model.score(query, one), model.score(query, other))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_shots_of_different_lengths_together_are_those_alone(encoder: str) -> None:
    model = embedder(encoder=encoder, start="random")
    # All below zero, so that what fills up would be the greatest.
    shots = [-drawn(length, DIM, seed=length).abs() for length in (5, 1, 9, 3)]
    together = model.embed("gallery", {"video": of_frames(*shots)})
    query = model.embed("query", {"image": Values(drawn(3, DIM, seed=4))})
    for place, rows in enumerate(shots):
        alone = model.embed("gallery", {"video": of_frames(rows)})
        for name in ("first", "mean", "max", "embedding"):
            torch.testing.assert_close(together[name][place], alone[name][0], msg=name)
        torch.testing.assert_close(model.score(query, together)[:, place], model.score(query, alone)[:, 0])
        torch.testing.assert_close(together["max"][place], rows.amax(dim=0))


def test_the_greatest_cosine_over_frames_by_hand() -> None:
    model = embedder()
    shots = [drawn(4, DIM, seed=1), drawn(2, DIM, seed=2)]
    query = drawn(3, DIM, seed=3)
    gallery = model.embed("gallery", {"video": of_frames(*shots)})
    expected = [[float(functional.cosine_similarity(q[None], rows).max()) for rows in shots] for q in query]
    found = model.score(model.embed("query", {"image": Values(query)}), gallery)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_bytes_of_a_shot() -> None:
    found = embedder(start="random", embedding_dim=5).bytes_per_shot(10)
    assert found == {"first": 48, "mean": 48, "max": 48, "frame_max": 480, "embedding": 20}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_overfits_64_pairs_that_have_nothing_in_common(encoder: str) -> None:
    resolved = resolve_options("shot_embedding", {"encoder": encoder, "start": "random", "embedding_dim": 32})
    own = card("shot_embedding", resolved)
    items = synthetic_items(own.inputs, 8, 8)
    random = np.random.default_rng(1)
    lengths = random.integers(2, 6, 64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    inputs = {
        "image": InputRows(random.normal(size=(64, DIM)).astype(np.float32)),
        "video": InputRows(random.normal(size=(offsets[-1], DIM)).astype(np.float32), offsets),
    }
    items = replace(items, inputs=inputs, label=np.arange(64))
    model: Any = build("shot_embedding", resolved, Sizes({"image": DIM, "video": DIM}), seed=0)
    loop = resolved_loop(own, LoopConfig(epochs=150, batch=64, learning_rate=0.01))
    training = replace(training_of(model, items, loop), couples_batch=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for epoch in range(150):
            train_epoch(training, epoch)
    finally:
        torch.set_num_threads(threads)
    values, mask = inputs["video"].padded()
    with torch.no_grad():
        gallery = model.encode_video(Values(torch.from_numpy(values), torch.from_numpy(mask)))
        found = model.encode_image(torch.from_numpy(inputs["image"].values)) @ gallery.T
    assert (found.argmax(dim=1) == torch.arange(64)).all()


def test_shots_become_scenes_by_their_best_one() -> None:
    """Six shots of three videos, ranked as Stanford I2V scores clips: a clip stands where its first shot does."""
    cosines = np.array([0.1, 0.9, 0.5, 0.6, 0.2, 0.3])
    videos = ["a", "b", "b", "c", "a", "c"]
    vectors = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)
    result = evaluate_retrieval(
        Queries(["q"], ["x"], {"v": np.array([[1.0, 0.0]], np.float32)}),
        Gallery([f"{video}#{place}" for place, video in enumerate(videos)], ["y"] * 6, {"v": vectors}),
        {"embedding": Cosine("v", "v")},
        (6,),
        full_ranks=False,
    )
    ranked = [videos[place] for place in result.space("embedding").top[0]]
    assert ranked == ["b", "c", "b", "c", "a", "a"]
    # Scenes b, c, a; relevant are c and a, at ranks 2 and 3: (1/2 + 2/3) / 2.
    score = SceneMap().update({"q": ["a", "c"]}, {"q": ranked}).result()
    assert score.mean_average_precision == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_lengths_that_do_not_fit_are_refused() -> None:
    resolved = resolve_options("shot_embedding", {})
    with pytest.raises(UsageError, match="expected vectors of one length, got 3 and 4"):
        build("shot_embedding", resolved, Sizes({"image": 3, "video": 4}))
    with pytest.raises(UsageError, match="embedding_dim: expected 12, the length of the vectors, got 5; leave it out"):
        embedder(embedding_dim=5)
