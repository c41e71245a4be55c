"""Switches of exported programs."""

from typing import Literal

from pydantic import Field, model_validator

from clipmill.schemas.model import Model

NO_PREPROCESSOR = "none"


class ProgramOptions(Model):
    """Switches of an exported program.

    Attributes:
        axes: of its input, where the shape alone does not tell: frames ``nchw``, clips ``ncthw`` or ``ntchw``.
        pool: how an output of more than one vector becomes a row: tokens ``[N, L, D]`` by the first of them (``cls``),
            their ``mean`` or ``max``; maps ``[N, C, (T,) H, W]`` by the ``mean`` or ``max`` over positions; ``none``
            keeps all of it, one after the other.
        skip_tokens: first tokens that ``mean`` and ``max`` leave out, such as the class token's 1.
        preprocessor: path of a ``preprocessor_config.json``; None: the one beside the program, if there is one;
            ``none``: no such file is read. Once resolved, what it says is in the recipe's preprocessing.
    """

    axes: Literal["nchw", "ncthw", "ntchw"] | None = None
    pool: Literal["cls", "mean", "max", "none"] | None = None
    skip_tokens: int = Field(default=0, ge=0)
    preprocessor: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _tokens_are_pooled(self) -> "ProgramOptions":
        if self.skip_tokens and self.pool not in ("mean", "max"):
            raise ValueError(f"skip_tokens belongs to pool mean or max: expected one of them, got pool {self.pool}")
        return self
