"""``clipmill whiten``: fit a PCA whitening to the regional vectors of a store, for R-MAC on other videos."""

import time
from collections.abc import Sequence

from clipmill.extractors.base import options_of
from clipmill.extractors.rmac.card import CARD, network_identity
from clipmill.extractors.rmac.options import NO_WHITENING, RMACOptions
from clipmill.extractors.whitening import write_whitening
from clipmill.jobs.configs import read_config, tell_config
from clipmill.jobs.output import Outcome
from clipmill.pipelines.evaluation.retrieval.blocks import computing
from clipmill.pipelines.evaluation.whitening import fit_whitening
from clipmill.schemas.config_whiten import WhitenConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.whitening import Whitening
from clipmill.stores import FeatureStore


def run_whiten(path: str, overrides: Sequence[str]) -> Outcome:
    """Fits as the config at `path` says, and writes the whitening."""
    config = read_config(WhitenConfig, path, overrides)
    tell_config(config)
    started = time.monotonic()
    feature = FeatureStore(config.store)[config.feature]
    _check_regions(config.feature, feature.recipe)
    index = feature.index()
    videos = sorted(set(index.column("video_fingerprint").to_pylist()))
    with computing(config.dask) as workers:
        fit = fit_whitening(feature.dask(), config.components, config.floor, workers.run)
    whitening = Whitening(
        mean=fit.mean,
        components=fit.components,
        eigenvalues=fit.eigenvalues,
        num_floored=fit.num_floored,
        num_vectors=fit.num_vectors,
        feature=feature.recipe.fingerprint,
        network=network_identity(feature.recipe),
        videos=tuple(videos),
    )
    write_whitening(config.out, whitening)
    data = whitening.about() | {
        "out": config.out,
        "fingerprint": whitening.fingerprint,
        "store": config.store,
        "num_videos": len(videos),
        "num_dead_channels": fit.num_dead,
        "eigenvalues": [float(fit.eigenvalues[0]), float(fit.eigenvalues[-1])],
        "seconds": round(time.monotonic() - started, 3),
    }
    lines = [
        f"whitening {whitening.fingerprint[:8]}: {len(fit.eigenvalues)} components of {fit.mean.size} channels, fitted "
        f"on {fit.num_vectors} vectors of {len(videos)} videos",
        f"  variances {fit.eigenvalues[0]:.3g} to {fit.eigenvalues[-1]:.3g}",
    ]
    if fit.num_floored:
        lines.append(
            f"  warning: {fit.num_floored} components had less than {config.floor:g} of the greatest variance and were "
            f"raised to it ({fit.num_dead} channels never vary); more videos, or fewer components, would be better"
        )
    lines.append(f"written to {config.out}")
    return Outcome(data, "\n".join(lines))


def _check_regions(name: str, recipe: Recipe) -> None:
    """Makes sure that the feature holds what a whitening is learnt on: regional vectors not whitened yet."""
    expected = "layer regions of extractor rmac"
    remedy = "build one with {extractor: rmac, layer: regions}"
    if recipe.extractor != CARD.name:
        raise UsageError(describe("feature", name, expected, f"{recipe.layer} of {recipe.extractor}", remedy))
    options: RMACOptions = options_of(CARD, recipe)
    if recipe.layer != "regions":
        raise UsageError(describe("feature", name, expected, f"layer {recipe.layer}", remedy))
    if options.whitening != NO_WHITENING:
        got = f"vectors whitened already ({options.whitening[:8]})"
        raise UsageError(describe("feature", name, expected + " without a whitening", got, remedy))
    if recipe.pooling != "none":
        got = f"pooling: {recipe.pooling}"
        raise UsageError(describe("feature", name, expected + ", one row per region", got, remedy))
