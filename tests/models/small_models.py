"""What makes any registered model small enough for a test."""

from dataclasses import replace
from typing import Any

import numpy as np

from clipmill.schemas.inputs import InputRows

SMALL: dict[str, dict[str, Any]] = {
    "acmr": {"common_dim": 8, "image_hidden": [16], "video_hidden": [16]},
    "apivr": {
        "num_proposals": 7,
        "num_kept": 3,
        "common_dim": 6,
        "proposal_hidden": [16],
        "image_hidden": [16],
        "attention_hidden": 8,
    },
    "bpbc": {"rows": 4, "columns": 4},
    "cmdn": {
        "intra_dims": [10, 8],
        "inter_dims": [10, 8],
        "joint_dim": 10,
        "media_dim": 8,
        "semantic_dims": [8],
        "bimodal_dims": [6, 4],
        "greedy": False,
    },
    "ci_mha": {"dim": 8, "num_heads": 2, "max_steps": 6, "max_words": 3, "word_dim": 6},
    "ccl": {"layer_dims": [16, 12], "correlated_dim": 12, "category_dims": [12, 12], "common_dim": 8},
    "dscmr": {"hidden_dim": 16, "common_dim": 8},
    "dspe": {"hidden_dim": 16, "embedding_dim": 8},
    "excl": {"dim": 8, "max_steps": 6, "max_words": 3, "word_dim": 6},
    "map_ivr": {"appearance_dim": 8, "motion_dim": 8, "latent_dim": 4, "decoder_hidden": [16], "video_hidden": [16]},
    "sdml": {"subspace_dim": 8, "hidden": [16]},
    "semart": {"words": "all", "min_comment_count": 1, "embedding_dim": 8},
    "semart_cca": {"words": "all", "min_comment_count": 1, "components": 2, "ridges": [0.1]},
    "shot_embedding": {"max_frames": 6},
    "similarity_network": {
        "hidden_dims": [16, 16],
        "pairs_per_item": 4,
        "difficult_margin": 0.2,
        "initial_deviation": 0.3,
    },
}
"""Options that make a model small, where its own are not."""


def as_double(rows: InputRows) -> InputRows:
    """Returns the rows in double precision, where they are numbers."""
    return replace(rows, values=rows.values.astype(np.float64)) if rows.values.ndim == 2 else rows
