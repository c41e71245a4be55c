"""Apache Beam: its card. Beam itself comes with the engine."""

import logging

from clipmill.pipelines.features.engines.base import Engine, EngineCard
from clipmill.pipelines.features.engines.beam_config import BeamConfig


def _make(config: BeamConfig) -> Engine:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # what Beam says of clients for Google's cloud that are not installed
    try:
        from clipmill.pipelines.features.engines.beam_pipeline import BeamEngine
    finally:
        logging.disable(before)

    return BeamEngine(config)


ENGINE = EngineCard("beam", BeamConfig, _make)
