"""MAP-IVR: motion-assisted activity-proposal-based image-to-video retrieval (AAAI 2021, pp. 2145-2153), paper variant.

A video vector v is encoded into appearance a_v and motion m_v, an image vector u into appearance a_u. Motion gives the
posterior of a latent z; a decoder translates the image's appearance and z into a video vector. The authors released no
code: what the publication states is implemented as stated, every other value is marked `ours:` and is an option.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import Batch, ModelCard, Registration, Side, Sizes, Values
from clipmill.models.perceptron import Activation, perceptron
from clipmill.schemas.inputs import Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import BestOfSamples, Combined, Cosine, Space

Orth = Literal["cosine", "absolute_cosine", "squared_cosine"]


class MapIvrOptions(Model):
    """Options of MAP-IVR. A loss whose weight is 0 is switched off: it is not computed and its space is not offered.

    Attributes:
        appearance_dim, motion_dim, latent_dim: lengths of a, m and z; a and m are compared by orth, so m has the length
            of a unless it says otherwise.
        video_hidden: widths of the hidden layers of both video encoders.
        image_hidden: widths of the hidden layers of the image encoder.
        decoder_hidden: widths of the hidden layers of the decoder D_v.
        activation: inside every network.
        output_activation: of the encoders' last layer.
        orth: form of the orthogonality loss. ``cosine`` is signed, as printed: with ReLU outputs it is at least 0; with
            others its minimum is anti-parallel, so take ``absolute_cosine`` or ``squared_cosine`` there.
        orth_weight, class_weight, kl_weight, reconstruction_weight: of the four losses; lambda_o is the first.
        reconstruction_reduction: the squared L2 distance is the ``sum`` over the video vector's elements, as printed,
            or their ``mean``. Its size against the other losses depends on this and on `scaling`.
        scaling: of the input vectors, fitted on the training clips; see models/scaling.py.
        num_samples: h, latent samples decoded per query.
        sample_seed: of those samples.
        lambda_v: weight of the video space in the combined distance.
    """

    appearance_dim: int = Field(default=64, ge=1)  # ours: the study of the dimensions is a figure without numbers
    motion_dim: int = Field(default_factory=lambda given: given.get("appearance_dim", 64), ge=1)  # ours: as above
    latent_dim: int = Field(default=64, ge=1)  # ours: not stated
    video_hidden: tuple[int, ...] = (500, 200)  # ours: not stated; APIVR's released shape
    image_hidden: tuple[int, ...] = (100, 80)  # ours: not stated; APIVR's released shape
    decoder_hidden: tuple[int, ...] = (512, 2048)  # ours: not stated
    activation: Activation = "relu"  # ours: not stated; APIVR uses tanh
    output_activation: Activation = "relu"  # ours: not stated; it is what makes the signed orth loss mean its name
    orth: Orth = "cosine"
    orth_weight: float = Field(default=0.1, ge=0)  # ours: lambda_o is a figure without numbers
    class_weight: float = Field(default=1.0, ge=0)
    kl_weight: float = Field(default=1.0, ge=0)
    reconstruction_weight: float = Field(default=1.0, ge=0)
    reconstruction_reduction: Literal["sum", "mean"] = "sum"
    scaling: Literal["min_max", "l2", "none"] = "min_max"  # ours: not stated; APIVR's, fitted once, applied to both
    num_samples: int = Field(default=10, ge=1)  # ours: h is a figure without numbers
    sample_seed: int = Field(default=0, ge=0)  # ours: the same latent samples for every query, so that runs repeat
    lambda_v: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _values_fit_each_other(self) -> "MapIvrOptions":
        if not (self.class_weight or self.reconstruction_weight):
            raise ValueError("expected class_weight or reconstruction_weight above 0: without both no space is learned")
        if self.orth_weight and self.appearance_dim != self.motion_dim:
            raise ValueError("orth compares appearance and motion: expected appearance_dim equal to motion_dim")
        if any(width < 1 for width in (*self.video_hidden, *self.image_hidden, *self.decoder_hidden)):
            raise ValueError("expected hidden widths of at least 1")
        return self


@dataclass(frozen=True, slots=True)
class MapIvrOutputs:
    """One forward pass over B pairs.

    Attributes:
        appearance_image, appearance_video: ``float32[B, appearance_dim]``, a_u and a_v.
        motion: ``float32[B, motion_dim]``, m_v.
        mean, log_variance: ``float32[B, latent_dim]`` of the posterior q(z | m_v).
        reconstruction: ``float32[B, video_dim]``, D_v([a_u, z]).
        logits_image, logits_video: ``float32[B, num_labels]``.
    """

    appearance_image: Tensor
    appearance_video: Tensor
    motion: Tensor
    mean: Tensor
    log_variance: Tensor
    reconstruction: Tensor
    logits_image: Tensor
    logits_video: Tensor


def orth_loss(motion: Tensor, appearance: Tensor, form: Orth = "cosine") -> Tensor:
    """Returns ``[B]``: the cosine of each motion and appearance vector (0 where one is zero), in the given form."""
    cosine = functional.cosine_similarity(motion, appearance, dim=-1)
    if form == "absolute_cosine":
        return cosine.abs()
    return cosine.square() if form == "squared_cosine" else cosine


def class_loss(logits_image: Tensor, logits_video: Tensor, label: Tensor) -> Tensor:
    """Returns ``[B]``: -log p(a_v)_y - log p(a_u)_y."""
    image = functional.cross_entropy(logits_image, label, reduction="none")
    return functional.cross_entropy(logits_video, label, reduction="none") + image


def kl_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Returns ``[B]``: KL(N(mean, exp(log_variance)) || N(0, I)), summed over the latent dimensions, in closed form."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=-1)


def reconstruction_loss(video: Tensor, reconstruction: Tensor, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
    """Returns ``[B]``: the squared L2 distance of each video vector and its reconstruction, or its mean per element."""
    squares = (video - reconstruction).square()
    return squares.sum(dim=-1) if reduction == "sum" else squares.mean(dim=-1)


class MapIvr(nn.Module):
    """The networks of MAP-IVR and what its spaces are made of. It sees scaled vectors; scaling is the caller's.

    Args:
        sizes: lengths of u (``image``) and v (``video``), and the classes of the one linear classifier shared by both.
    """

    def __init__(self, options: MapIvrOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        image_dim, video_dim = sizes.dims["image"], sizes.dims["video"]
        hidden, output = options.activation, options.output_activation
        video = (video_dim, *options.video_hidden)
        self.video_appearance = perceptron((*video, options.appearance_dim), hidden, output)
        self.video_motion = perceptron((*video, options.motion_dim), hidden, output)
        self.image_appearance = perceptron((image_dim, *options.image_hidden, options.appearance_dim), hidden, output)
        self.posterior_mean = nn.Linear(options.motion_dim, options.latent_dim)  # ours: one linear layer each
        self.posterior_log_variance = nn.Linear(options.motion_dim, options.latent_dim)  # ours: sigma as log variance
        latent = options.appearance_dim + options.latent_dim
        self.decoder = perceptron((latent, *options.decoder_hidden, video_dim), hidden, "none")
        self.classifier = nn.Linear(options.appearance_dim, sizes.num_labels)  # ours: one linear layer

    @property
    def scaling(self) -> Literal["min_max", "l2", "none"]:
        """How the vectors it is given are scaled."""
        return self.options.scaling

    def draws(self) -> Mapping[str, tuple[int, ...]]:
        """Returns the shape of the noise one pair takes: eps of the posterior sample."""
        return {"eps": (self.options.latent_dim,)}

    def forward(self, image: Tensor, video: Tensor, noise: Tensor) -> MapIvrOutputs:
        """Returns everything the losses need.

        Args:
            image: ``float32[B, image_dim]``.
            video: ``float32[B, video_dim]``, the clip each image was taken from.
            noise: ``float32[B, latent_dim]``, eps of z = mean + eps * sigma.
        """
        appearance_image, appearance_video = self.image_appearance(image), self.video_appearance(video)
        motion = self.video_motion(video)
        mean, log_variance = self.posterior_mean(motion), self.posterior_log_variance(motion)
        latent = mean + noise * (0.5 * log_variance).exp()
        return MapIvrOutputs(
            appearance_image,
            appearance_video,
            motion,
            mean,
            log_variance,
            self.decode(appearance_image, latent),
            self.classifier(appearance_image),
            self.classifier(appearance_video),
        )

    def decode(self, appearance_image: Tensor, latent: Tensor) -> Tensor:
        """Returns ``[..., video_dim]``: D_v([a_u, z])."""
        decoded: Tensor = self.decoder(torch.cat([appearance_image, latent], dim=-1))
        return decoded

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the losses that are on, unweighted, each ``[B]``, and their weighted sum under ``total``.

        Each element depends on its own pair alone, so a batch may be cut over workers at will.
        """
        o = self.options
        out: MapIvrOutputs = self(batch["image"], batch["video"], batch.draws["eps"])
        terms: dict[str, tuple[float, Tensor]] = {}
        if o.orth_weight:
            terms["orth"] = (o.orth_weight, orth_loss(out.motion, out.appearance_video, o.orth))
        if o.class_weight:
            terms["class"] = (o.class_weight, class_loss(out.logits_image, out.logits_video, batch.labels))
        if o.kl_weight:
            terms["kl"] = (o.kl_weight, kl_loss(out.mean, out.log_variance))
        if o.reconstruction_weight:
            distance = reconstruction_loss(batch["video"], out.reconstruction, o.reconstruction_reduction)
            terms["reconstruction"] = (o.reconstruction_weight, distance)
        weighted = torch.stack([weight * term for weight, term in terms.values()]).sum(dim=0)
        return {name: term for name, (_, term) in terms.items()} | {"total": weighted}

    def spaces(self) -> Mapping[str, Space]:
        """Returns the spaces its losses give a meaning to: S_A, S_V and S = (1 - lambda_v) S_A + lambda_v S_V.

        Appearance vectors of images and videos meet only in the classifier, and decoded vectors resemble videos only by
        the reconstruction loss; the published ablation leaves the same cells empty.
        """
        o = self.options
        spaces: dict[str, Space] = {}
        if o.class_weight:
            spaces["appearance"] = Cosine("appearance", "appearance")
        if o.reconstruction_weight:
            spaces["video"] = BestOfSamples("samples", "video")
        if len(spaces) == 2:
            spaces["combined"] = Combined({"appearance": 1.0 - o.lambda_v, "video": o.lambda_v})
        return spaces

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns what queries are searched with, and what videos are found by.

        Of a query ``appearance [B, appearance_dim]`` and ``samples [B, h, video_dim]``, decoded from h latent samples;
        of a video ``appearance`` and ``video``, which is v itself, as scaled.
        """
        if side == "gallery":
            video = inputs["video"].values
            return {"appearance": self.video_appearance(video), "video": video}
        image = inputs["image"].values
        appearance = self.image_appearance(image)
        latent = self.latent_samples().to(image)
        num_images, num_samples = image.shape[0], latent.shape[0]
        repeated = appearance[:, None, :].expand(num_images, num_samples, -1)
        samples = self.decode(repeated, latent.expand(num_images, -1, -1))
        return {"appearance": appearance, "samples": samples}

    def latent_samples(self) -> Tensor:
        """Returns ``float32[h, latent_dim]`` drawn from N(0, I): the same for every query and every call."""
        generator = torch.Generator().manual_seed(self.options.sample_seed)
        return torch.randn(self.options.num_samples, self.options.latent_dim, generator=generator)


REGISTRATION = Registration(
    card=ModelCard(
        name="map_ivr",
        summary="appearance and motion of a video apart, and videos decoded from an image's appearance",
        source="MAP-IVR, AAAI 2021, pp. 2145-2153; no code was released",
        inputs={"image": Vector("first"), "video": Vector("mean")},
        options=MapIvrOptions,
        # ours: APIVR's released values, which MAP-IVR's text does not override.
        loop={"epochs": 200, "batch": 70, "learning_rate": 1e-4, "beta1": 0.7},
    ),
    build=MapIvr,
)
