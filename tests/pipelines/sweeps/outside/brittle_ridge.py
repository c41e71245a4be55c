"""A model from outside the project: ridge regression, which raises an error or ends its process where it is told to."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from clipmill.models.base import Batch, Registration
from clipmill.models.ridge import REGISTRATION as RIDGE
from clipmill.models.ridge import Ridge, RidgeOptions


class BrittleOptions(RidgeOptions):
    fails: Literal["never", "raises", "dies"] = "never"


class Brittle(Ridge):
    def solve(self, items: Batch) -> Iterator[Mapping[str, float]]:
        if self.options.fails == "raises":
            raise RuntimeError("the factorisation could not be completed")
        if self.options.fails == "dies":
            os._exit(9)
        yield from super().solve(items)


REGISTRATION = Registration(replace(RIDGE.card, name="brittle_ridge", options=BrittleOptions), Brittle)
