"""Which stored vectors plain cosine may compare."""

from clipmill.pipelines.evaluation.tasks.retrieval.spaces import comparable
from clipmill.pipelines.features.imported.recipe import imported_recipe
from clipmill.schemas.config_import import ImportedFeatureConfig
from clipmill.schemas.recipe import ClipRule, Recipe


def imported(name: str, source: str, dim: int = 8, **keys: str) -> Recipe:
    config = ImportedFeatureConfig(file=f"{name}.npy", **keys)
    return imported_recipe(name, config, ClipRule(), dim, "float32", source)


def test_imported_features_are_comparable_where_one_thing_made_them() -> None:
    frames, clips = (imported(name, name * 32, made_by="one network") for name in "ab")
    assert frames.fingerprint != clips.fingerprint
    assert comparable(frames, clips)
    assert not comparable(frames, imported("c", "c" * 32, made_by="another"))
    assert not comparable(frames, imported("c", "c" * 32, dim=9, made_by="one network"))


def test_imported_features_of_unknown_make_are_comparable_with_themselves_alone() -> None:
    one, other = imported("x", "a" * 32), imported("x", "b" * 32)
    assert comparable(one, one)
    assert not comparable(one, other)
