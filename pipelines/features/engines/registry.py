"""Which engines there are. To add one: a module with an `EngineCard`, and one line in the table.

One from outside the project registers under the entry point group ``clipmill.engines``.
"""

from clipmill.pipelines.features.engines.base import Engine, EngineCard
from clipmill.schemas.config import EngineConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.registry import Registry

ENGINES = Registry(
    "engine",
    "clipmill.engines",
    EngineCard,
    {
        "beam": "clipmill.pipelines.features.engines.beam:ENGINE",
        "local": "clipmill.pipelines.features.engines.local:ENGINE",
        "ray": "clipmill.pipelines.features.engines.ray:ENGINE",
    },
)


def make_engine(config: EngineConfig) -> Engine:
    """Returns the engine `config` names, not yet started.

    Raises:
        UsageError: there is no such engine, or its options are not of its own model.
    """
    card = ENGINES.get(config.name)
    if not isinstance(config, card.config):
        remedy = "read the file with clipmill.pipelines.features.build_config"
        raise UsageError(describe("engine", config.name, card.config.__name__, type(config).__name__, remedy))
    return card.make(config)
