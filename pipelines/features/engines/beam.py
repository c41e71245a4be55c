"""Apache Beam: its card. Beam itself comes with the engine."""

from clipmill.pipelines.features.engines.base import Engine, EngineCard
from clipmill.pipelines.features.engines.beam_config import BeamConfig


def _make(config: BeamConfig) -> Engine:
    from clipmill.pipelines.features.engines.beam_pipeline import BeamEngine

    return BeamEngine(config)


ENGINE = EngineCard("beam", BeamConfig, _make)
