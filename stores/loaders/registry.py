"""Which repositories an export can be made for. To add one: a file with a `Loader`, and one line in the table.

One from outside the project registers under the entry point group ``clipmill.loaders``.
"""

from clipmill.schemas.registry import Registry
from clipmill.stores.loaders.base import Loader

LOADERS: Registry[Loader] = Registry(
    "loader",
    "clipmill.loaders",
    Loader,
    {
        "2dtan": "clipmill.stores.loaders.two_d_tan:LOADER",
        "vslnet": "clipmill.stores.loaders.vslnet:LOADER",
        "lgi": "clipmill.stores.loaders.lgi:LOADER",
        "actionformer": "clipmill.stores.loaders.actionformer:LOADER",
        "opentad": "clipmill.stores.loaders.opentad:LOADER",
        "bsn": "clipmill.stores.loaders.bsn:LOADER",
        "moment-detr": "clipmill.stores.loaders.moment_detr:LOADER",
        "umt": "clipmill.stores.loaders.umt:LOADER",
    },
)
