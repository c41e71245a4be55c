"""Distances of the three spaces against loops over single vectors, in blocks and in bounded memory."""

import math
import tracemalloc

import numpy as np
import pytest
import torch

from clipmill.models.retrieval import distances, embed_images, embed_videos
from clipmill.schemas.errors import UsageError
from tests.models.conftest import IMAGE_DIM, VIDEO_DIM, MakeTrained

RANDOM = np.random.default_rng(1)
IMAGES = RANDOM.random((7, IMAGE_DIM)).astype(np.float32)
VIDEOS = (RANDOM.random((9, VIDEO_DIM)) * 10).astype(np.float32)


def cosine(a: list[float], b: list[float]) -> float:
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0


def test_video_distance_is_the_least_over_the_samples_one_by_one(make_trained: MakeTrained) -> None:
    trained = make_trained(num_samples=5)
    model, found = trained.model, np.empty((len(IMAGES), len(VIDEOS)))
    for q, image in enumerate(torch.from_numpy(trained.image_scaling.apply(IMAGES))):
        appearance = model.image_appearance(image)  # type: ignore[attr-defined]
        decoded = [model.decode(appearance, latent).tolist() for latent in model.latent_samples()]  # type: ignore[attr-defined]
        for g, video in enumerate(trained.video_scaling.apply(VIDEOS).tolist()):
            found[q, g] = min(1 - cosine(video, sample) for sample in decoded)
    ours = distances(model, "video", embed_images(trained, IMAGES), embed_videos(trained, VIDEOS))
    assert ours.dtype == np.float32
    # Single precision over 11 elements of order 1.
    np.testing.assert_allclose(ours, found, atol=2e-6)


def test_appearance_distance_is_one_minus_the_cosine(make_trained: MakeTrained) -> None:
    trained = make_trained()
    queries, gallery = embed_images(trained, IMAGES), embed_videos(trained, VIDEOS)
    expected = [[1 - cosine(u, v) for v in gallery["appearance"].tolist()] for u in queries["appearance"].tolist()]
    np.testing.assert_allclose(distances(trained.model, "appearance", queries, gallery), expected, atol=2e-6)


@pytest.mark.parametrize("lambda_v", [0.0, 0.3, 1.0])
def test_combined_distance_is_weighed_by_lambda_v(make_trained: MakeTrained, lambda_v: float) -> None:
    trained = make_trained(lambda_v=lambda_v)
    queries, gallery = embed_images(trained, IMAGES), embed_videos(trained, VIDEOS)
    appearance, video, combined = (
        distances(trained.model, space, queries, gallery) for space in ("appearance", "video", "combined")
    )
    np.testing.assert_allclose(combined, (1 - lambda_v) * appearance + lambda_v * video, atol=1e-6)


def test_distances_do_not_depend_on_the_blocks(make_trained: MakeTrained) -> None:
    trained = make_trained()
    whole = distances(trained.model, "combined", embed_images(trained, IMAGES), embed_videos(trained, VIDEOS))
    parts = [
        [
            distances(trained.model, "combined", embed_images(trained, queries), embed_videos(trained, gallery))
            for gallery in np.array_split(VIDEOS, 4)
        ]
        for queries in np.array_split(IMAGES, 3)
    ]
    # The last bits of a matrix product depend on its shape.
    np.testing.assert_allclose(np.block(parts), whole, atol=1e-6)


def test_evaluation_repeats_itself(make_trained: MakeTrained) -> None:
    first, second = (
        distances(trained.model, "combined", embed_images(trained, IMAGES), embed_videos(trained, VIDEOS))
        for trained in (make_trained(), make_trained())
    )
    np.testing.assert_array_equal(first, second)


def test_a_zero_vector_is_at_distance_one_from_everything(make_trained: MakeTrained) -> None:
    model = make_trained().model
    zero, one = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    for space, queries, gallery in (
        ("appearance", {"appearance": zero}, {"appearance": one}),
        ("video", {"samples": zero[:, None]}, {"video": one}),
    ):
        assert distances(model, space, queries, gallery).tolist() == [[1.0]]


def test_samples_never_meet_the_whole_gallery_at_once(make_trained: MakeTrained) -> None:
    num_queries, num_samples, num_gallery, dim = 40, 64, 4000, 8
    random = np.random.default_rng(0)
    samples = random.random((num_queries, num_samples, dim), np.float32)
    gallery = random.random((num_gallery, dim), np.float32)
    tracemalloc.start()
    distances(make_trained().model, "video", {"samples": samples}, {"video": gallery})
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < num_queries * num_samples * num_gallery * 4 / 8


def test_no_rows_give_empty_arrays_of_the_right_shape(make_trained: MakeTrained) -> None:
    trained = make_trained()
    queries = embed_images(trained, IMAGES[:0])
    assert queries["samples"].shape == (0, 10, VIDEO_DIM)
    assert distances(trained.model, "combined", queries, embed_videos(trained, VIDEOS)).shape == (0, 9)


def test_vectors_of_another_length_are_refused(make_trained: MakeTrained) -> None:
    with pytest.raises(UsageError, match=r"image vectors of vgg16: expected \[n, 5\].*got \[7, 4\]"):
        embed_images(make_trained(), IMAGES[:, :4])
    with pytest.raises(UsageError, match=r"video vectors of c3d: expected \[n, 11\]"):
        embed_videos(make_trained(), IMAGES)


def test_a_space_the_model_lacks_is_refused(make_trained: MakeTrained) -> None:
    with pytest.raises(UsageError, match="space video: expected one of the model's, got none of them; known: appear"):
        distances(make_trained(reconstruction_weight=0).model, "video", {}, {})
