"""MAP-IVR's losses against numbers computed by hand or by another implementation, and what its parts depend on."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from clipmill.models.base import Batch, Sizes, Values
from clipmill.models.map_ivr import MapIvr, MapIvrOptions, class_loss, kl_loss, orth_loss, reconstruction_loss
from clipmill.models.registry import build, resolve_options
from clipmill.schemas.errors import ConfigError, UsageError


def small(**changes: Any) -> MapIvr:
    sizes = {"appearance_dim": 6, "motion_dim": 6, "latent_dim": 3, "video_hidden": (9,), "image_hidden": (7,)}
    options = MapIvrOptions(**({**sizes, "decoder_hidden": (8,)} | changes))
    torch.manual_seed(1)
    return MapIvr(options, Sizes({"image": 5, "video": 11}, 4))


def batch(num: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    image, video = torch.randn(num, 5, generator=generator), torch.randn(num, 11, generator=generator)
    return image, video, torch.arange(num) % 4, torch.randn(num, 3, generator=generator)


def pairs(image: Tensor, video: Tensor, label: Tensor, noise: Tensor) -> Batch:
    return Batch({"image": Values(image), "video": Values(video)}, label, {"eps": noise})


def embedded(model: Any, side: Any, values: Tensor) -> Any:
    return model.embed(side, {"image" if side == "query" else "video": Values(values)})


def test_orth_loss_is_the_signed_cosine_as_printed() -> None:
    motion = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    appearance = torch.tensor([[4.0, 3.0], [0.0, 2.0], [-2.0, -2.0], [1.0, 0.0]])
    torch.testing.assert_close(orth_loss(motion, appearance), torch.tensor([24 / 25, 0.0, -1.0, 0.0]))


@pytest.mark.parametrize(("form", "expected"), [("absolute_cosine", [0.96, 1.0]), ("squared_cosine", [0.9216, 1.0])])
def test_the_other_forms_of_orth_are_least_at_a_right_angle(form: Any, expected: list[float]) -> None:
    motion, appearance = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[4.0, 3.0], [-2.0, -2.0]])
    torch.testing.assert_close(orth_loss(motion, appearance, form), torch.tensor(expected))
    assert orth_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), form).item() == 0


def test_class_loss_is_the_sum_of_both_modalities_negative_log_probabilities() -> None:
    logits_image = torch.tensor([[math.log(1.0), math.log(3.0)]])
    logits_video = torch.tensor([[math.log(4.0), math.log(1.0)]])
    expected = -math.log(3 / 4) - math.log(1 / 5)
    torch.testing.assert_close(class_loss(logits_image, logits_video, torch.tensor([1])), torch.tensor([expected]))


def test_kl_loss_is_the_closed_form() -> None:
    mean, log_variance = torch.tensor([[0.0, 0.0], [1.0, -2.0]]), torch.tensor([[0.0, 0.0], [math.log(4.0), 0.0]])
    expected = torch.tensor([0.0, 0.5 * (1 + 4 - 1 - math.log(4)) + 0.5 * 4])
    torch.testing.assert_close(kl_loss(mean, log_variance), expected)


def test_kl_loss_agrees_with_torchs_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = (torch.randn(20, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    posterior = Normal(mean, (0.5 * log_variance).exp())
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(kl_loss(mean, log_variance), kl_divergence(posterior, prior).sum(-1))


def test_reconstruction_loss_sums_over_elements_or_averages_them() -> None:
    video, decoded = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0.0, 2.0, 5.0, 1.0]])
    assert reconstruction_loss(video, decoded, "sum").tolist() == [14.0]
    assert reconstruction_loss(video, decoded, "mean").tolist() == [3.5]


def test_total_is_the_weighted_sum_of_the_losses() -> None:
    weights = {"orth_weight": 0.3, "class_weight": 2.0, "kl_weight": 0.5, "reconstruction_weight": 0.25}
    losses = small(**weights).losses(pairs(*batch()))
    assert set(losses) == {"orth", "class", "kl", "reconstruction", "total"}
    expected = sum(weight * losses[name.removesuffix("_weight")] for name, weight in weights.items())
    torch.testing.assert_close(losses["total"], expected)


@pytest.mark.parametrize("name", ["orth", "class", "kl", "reconstruction"])
def test_each_loss_can_be_switched_off_and_adds_nothing_then(name: str) -> None:
    model = small(**{f"{name}_weight": 0})
    full, part = small().losses(pairs(*batch())), model.losses(pairs(*batch()))
    assert set(full) - set(part) == {name}
    weight = MapIvrOptions().model_dump()[f"{name}_weight"]
    torch.testing.assert_close(part["total"], full["total"] - weight * full[name])


@pytest.mark.parametrize(
    ("off", "spaces"),
    [
        ((), ("appearance", "video", "combined")),
        (("class",), ("video",)),
        (("reconstruction",), ("appearance",)),
        (("kl",), ("appearance", "video", "combined")),
        (("orth",), ("appearance", "video", "combined")),
    ],
)
def test_spaces_are_those_of_the_published_ablation(off: tuple[str, ...], spaces: tuple[str, ...]) -> None:
    assert tuple(small(**{f"{name}_weight": 0 for name in off}).spaces()) == spaces


def test_each_pairs_losses_depend_on_that_pair_alone() -> None:
    model, (image, video, label, noise) = small(), batch()
    whole = model.losses(pairs(image, video, label, noise))
    for part in (slice(0, 0), slice(0, 2), slice(2, 6)):
        share = model.losses(pairs(image[part], video[part], label[part], noise[part]))
        for name, values in share.items():
            torch.testing.assert_close(values, whole[name][part], msg=name)


def test_latent_is_mean_plus_noise_times_sigma() -> None:
    model, (image, video, _, noise) = small(), batch()
    out = model(image, video, noise)
    latent = out.mean + noise * out.log_variance.exp().sqrt()
    torch.testing.assert_close(out.reconstruction, model.decode(out.appearance_image, latent))


def test_the_translation_takes_appearance_from_the_image_and_motion_from_the_video() -> None:
    model, (image, video, _, noise) = small(), batch()
    model(image, video, noise).reconstruction.sum().backward()
    reached = {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None}
    expected = {"image_appearance", "video_motion", "posterior_mean", "posterior_log_variance", "decoder"}
    assert reached == expected


def test_encoder_outputs_are_not_negative_so_the_signed_orth_loss_is_not() -> None:
    image, video, label, noise = batch(50)
    with torch.no_grad():
        out = small()(image, video, noise)
        orth = {
            name: small(output_activation=name).losses(pairs(image, video, label, noise))["orth"].min()
            for name in ("relu", "tanh")
        }
    assert min(value.min() for value in (out.motion, out.appearance_video, out.appearance_image)) == 0
    assert orth["relu"] >= 0
    assert orth["tanh"] < 0


@pytest.mark.parametrize("image_dim", [128, 512, 4096])
def test_default_layers_are_the_documented_ones_for_any_image_vector(image_dim: int) -> None:
    model = MapIvr(MapIvrOptions(), Sizes({"image": image_dim, "video": 4096}, 18))
    shapes = {name: list(value.shape) for name, value in model.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "video_appearance.0.weight": [500, 4096],
        "video_appearance.2.weight": [200, 500],
        "video_appearance.4.weight": [64, 200],
        "video_motion.0.weight": [500, 4096],
        "video_motion.2.weight": [200, 500],
        "video_motion.4.weight": [64, 200],
        "image_appearance.0.weight": [100, image_dim],
        "image_appearance.2.weight": [80, 100],
        "image_appearance.4.weight": [64, 80],
        "posterior_mean.weight": [64, 64],
        "posterior_log_variance.weight": [64, 64],
        "decoder.0.weight": [512, 128],
        "decoder.2.weight": [2048, 512],
        "decoder.4.weight": [4096, 2048],
        "classifier.weight": [18, 64],
    }


def test_embeddings_have_their_documented_shapes() -> None:
    model, (image, video, _, _) = small(num_samples=3), batch(6)
    images, videos = embedded(model, "query", image), embedded(model, "gallery", video)
    assert {name: list(value.shape) for name, value in images.items()} == {"appearance": [6, 6], "samples": [6, 3, 11]}
    assert {name: list(value.shape) for name, value in videos.items()} == {"appearance": [6, 6], "video": [6, 11]}


def test_each_sample_decodes_the_images_appearance_with_one_latent_vector() -> None:
    model, image = small(num_samples=4), batch()[0]
    samples = embedded(model, "query", image)["samples"]
    for row in range(len(image)):
        for sample, latent in enumerate(model.latent_samples()):
            decoded = model.decode(model.image_appearance(image[row]), latent)
            torch.testing.assert_close(samples[row, sample], decoded)


def test_latent_samples_are_standard_normal_and_a_function_of_the_seed() -> None:
    first, again, other = (small(num_samples=4000, sample_seed=seed).latent_samples() for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # 12000 draws: the standard errors of mean and standard deviation are 0.009 and 0.0065.
    assert abs(float(first.mean())) < 0.05
    assert abs(float(first.std()) - 1) < 0.04


def test_drawing_samples_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    small_model = build("map_ivr", MapIvrOptions(), Sizes({"image": 5, "video": 11}, 4))
    embedded(small_model, "query", batch()[0])
    assert torch.equal(before, torch.get_rng_state())


def test_a_fresh_model_is_a_function_of_its_seed() -> None:
    first, again, other = (
        build("map_ivr", MapIvrOptions(), Sizes({"image": 5, "video": 11}, 4), seed).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder.0.weight"], other["decoder.0.weight"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kl_wieght": 0}, "kl_weight"),
        ({"class_weight": 0, "reconstruction_weight": 0}, "no space is learned"),
        ({"motion_dim": 32}, "appearance_dim equal to motion_dim"),
        ({"video_hidden": [0]}, "hidden widths of at least 1"),
        ({"lambda_v": 1.5}, "lambda_v"),
    ],
)
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_options("map_ivr", given)


def test_an_unknown_model_names_the_near_ones() -> None:
    with pytest.raises(UsageError, match=r"model mapivr: .*did you mean 'map_ivr'"):
        resolve_options("mapivr", {})


@pytest.mark.parametrize("orth", ["cosine", "absolute_cosine", "squared_cosine"])
def test_losses_agree_with_a_second_reading(orth: str) -> None:
    """The paper's equations in NumPy, from the weights."""
    options = {"appearance_dim": 5, "motion_dim": 5, "latent_dim": 3, "video_hidden": [9], "image_hidden": [8]}
    weights = {"kl_weight": 0.7, "class_weight": 1.3, "orth_weight": 0.2, "reconstruction_weight": 0.4}
    resolved = resolve_options("map_ivr", options | weights | {"decoder_hidden": [7], "orth": orth})
    model = build("map_ivr", resolved, Sizes({"image": 6, "video": 11}, 4), seed=2).double()
    random = np.random.default_rng(1)
    image, video, eps = random.normal(size=(5, 6)), random.normal(size=(5, 11)), random.normal(size=(5, 3))
    label = np.array([0, 3, 1, 1, 2])
    batch = Batch(
        {"image": Values(torch.from_numpy(image)), "video": Values(torch.from_numpy(video))},
        torch.from_numpy(label),
        {"eps": torch.from_numpy(eps)},
    )
    found = {name: value.detach().numpy() for name, value in model.losses(batch).items()}

    w = {name: value.numpy() for name, value in model.state_dict().items()}

    def layer(name: str, rows: np.ndarray) -> np.ndarray:
        return rows @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def encode(name: str, rows: np.ndarray) -> np.ndarray:
        return np.maximum(layer(f"{name}.2", np.maximum(layer(f"{name}.0", rows), 0)), 0)

    def log_probability(rows: np.ndarray) -> np.ndarray:
        logits = layer("classifier", rows)
        return logits[np.arange(5), label] - np.log(np.exp(logits).sum(axis=1))

    a_u, a_v, m_v = encode("image_appearance", image), encode("video_appearance", video), encode("video_motion", video)
    mean, log_variance = layer("posterior_mean", m_v), layer("posterior_log_variance", m_v)
    z = mean + eps * np.sqrt(np.exp(log_variance))
    hidden = np.maximum(layer("decoder.0", np.concatenate([a_u, z], axis=1)), 0)
    cosine = (m_v * a_v).sum(axis=1) / np.maximum(np.linalg.norm(m_v, axis=1) * np.linalg.norm(a_v, axis=1), 1e-12)
    expected = {
        "orth": {"cosine": cosine, "absolute_cosine": abs(cosine), "squared_cosine": cosine**2}[orth],
        "class": -log_probability(a_v) - log_probability(a_u),
        "kl": (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=1) / 2,
        "reconstruction": ((video - layer("decoder.2", hidden)) ** 2).sum(axis=1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    total = sum(weights[f"{name}_weight"] * values for name, values in expected.items())
    np.testing.assert_allclose(found["total"], total, rtol=1e-9)
