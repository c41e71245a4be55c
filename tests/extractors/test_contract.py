"""What every extractor promises, tested the moment it is registered."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipmill.extractors import registry
from clipmill.extractors.base import QueueingExtractor, card_for
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Clip
from tests.extractors.registered import built_in, default_run, frames_for, recipe, rows_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=built_in())
def name(request: pytest.FixtureRequest) -> str:
    """Of an extractor; all tests of one stand together, so that one network is kept at a time."""
    return str(request.param)


def test_defaults_run_and_make_rows(name: str) -> None:
    found, extractor, outputs = default_run(name)
    rows = rows_of(extractor, outputs, found)
    assert rows.values.ndim == 2
    assert rows.values.shape[1] == found.dim
    assert rows.values.dtype == np.dtype(found.dtype)
    assert np.isfinite(rows.values).all()
    assert (rows.clip == 3).all()
    assert rows.clip.dtype == np.int32
    assert (rows.stop_seconds > rows.start_seconds).all()
    card = registry.card(name)
    card = card_for(card, card.options.model_validate(found.options))
    assert {key: str(column.dtype) for key, column in rows.extras.items()} == dict(card.extras)


def test_one_call_gives_what_single_calls_give_and_a_second_build_the_same(name: str) -> None:
    found, outputs = default_run(name)[::2]
    frames = frames_for(found)
    default_run.cache_clear()
    again = registry.build(found, "cpu")
    for key, values in again.forward(frames).items():
        np.testing.assert_array_equal(values, outputs[key], err_msg=f"a second build: {key}")
    for index in range(len(frames)):
        alone = again.forward(frames[index : index + 1])
        for key, values in outputs.items():
            expected = values[index : index + 1]
            if alone[key].shape != expected.shape:
                # Padding after the valid entries depends on the batch; what is valid does not.
                count = int(alone["num_valid"][0])
                expected, alone[key] = expected[:, :count], alone[key][:, :count]
            # Sums in another order differ in the last bits.
            scale = float(np.abs(expected).max()) or 1.0
            np.testing.assert_allclose(alone[key], expected, rtol=0, atol=1e-5 * scale, err_msg=key)


def test_a_window_has_the_same_bits_at_every_place_and_beside_any_others(name: str) -> None:
    found, extractor, _ = default_run(name)
    frames = frames_for(found, 3)
    full = extractor.forward(frames)
    for order in ([2, 0, 1], [1, 1]):
        outputs = extractor.forward(frames[order])
        for key, values in full.items():
            for place, window in enumerate(order):
                expected, got = values[window], outputs[key][place]
                if expected.shape != got.shape:
                    # Padding after the valid entries depends on the batch; what is valid does not.
                    count = int(full["num_valid"][window])
                    expected, got = expected[:count], got[:count]
                np.testing.assert_array_equal(got, expected, err_msg=f"{key} of window {window} at {place}")


def test_every_network_can_be_queued_and_gives_the_same_bits(name: str) -> None:
    if name == "tracks":
        pytest.skip("tracks are found on the CPU, whatever the device")
    found, extractor, expected = default_run(name)
    assert isinstance(extractor, QueueingExtractor)
    assert not extractor.queues, "on a CPU nothing works on its own"
    outputs = extractor.submit(frames_for(found))()
    assert outputs.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(outputs[key], values, key)


def test_other_frames_give_other_values(name: str) -> None:
    _, _, outputs = default_run(name)
    assert not np.allclose(outputs["values"][0], outputs["values"][1], rtol=1e-3)


def test_every_layer_has_the_length_its_card_says(name: str) -> None:
    card = registry.card(name)
    if card.program is not None:
        pytest.skip("the layers of an exported program are in its file")
    layers = {layer.name: layer for layer in card.layers}
    for group in registry.groups([recipe(name, layer) for layer in layers]):
        for found, extractor in zip(group, registry.build_group(group, "cpu"), strict=True):
            expected = layers.pop(str(found.layer))
            assert (found.dim, found.dtype) == (expected.dim, expected.dtype)
            assert not expected.maps or int(np.prod(expected.maps)) == expected.dim
            values = extractor.forward(frames_for(found, 1))["values"]
            assert values.shape[-1] == expected.dim
    assert not layers


def test_a_clip_without_windows_has_no_rows(name: str) -> None:
    _, extractor, _ = default_run(name)
    assert len(extractor.reducer(Clip(0, 0.0, 1.0)).rows()) == 0


def test_the_recipe_survives_being_written_down(name: str) -> None:
    found = recipe(name)
    again = Recipe.model_validate_json(found.model_dump_json(by_alias=True))
    assert again == found
    assert again.fingerprint == found.fingerprint
    assert found.weights.source in ("random(0)", "none", "file")
    assert (found.weights.source == "file") == (registry.card(name).program is not None)


def test_cards_are_whole(name: str) -> None:
    registration = registry.registration(name)
    card = registration.card
    assert (card.name, bool(card.summary), card.version >= 1) == (name, True, True)
    assert len({layer.name for layer in card.layers}) == len(card.layers) > 0
    assert len({weights.name for weights in card.weights}) == len(card.weights) > 0
    assert all(weights.source and weights.licence for weights in card.weights)
    assert card.gmac_per_window > 0
    assert card.sampling.frames is None or card.sampling.frames >= card.min_frames
    if registration.layouts is not None:
        known = {layout.name for layout in registration.layouts()}
        # Every layout a card is the default for exists, and names that card.
        assert {layout for weights in card.weights for layout in weights.layouts} <= known
        for layout in registration.layouts():
            takers = [weights.name for weights in card.weights if layout.name in weights.layouts]
            # Of an extractor with several networks, files of the others are taken by their own cards.
            assert takers == [layout.card] or (card.variant is not None and not takers), layout.name


def test_published_weights_are_documented(name: str) -> None:
    text = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    card = registry.card(name)
    lines = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    table = "\n".join(lines)
    for weights in card.weights:
        assert f"`{weights.name}`" in table, f"docs/weights.md: no row of {name} names the card {weights.name}"
        assert all(f"`{layout}`" in table for layout in weights.layouts), weights.layouts
        for file in weights.files:
            assert f"`{file.name}`" in table, f"docs/weights.md: no row of {name} names the file {file.name}"
            assert file.sha256 is None or file.sha256 in table
            assert file.git_blob is None or file.git_blob in table
            assert file.num_bytes is None or f"{file.num_bytes:,} bytes" in table


def test_planning_reads_every_card_without_torch() -> None:
    code = (
        "import sys\n"
        "from clipmill.extractors import registry\n"
        "print(','.join(registry.card(name).name for name in registry.BUILT_IN))\n"
        "print(','.join({'torch', 'ray', 'av', 'decord'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    names, heavy = done.stdout.split("\n")[:2]
    assert sorted(names.split(",")) == built_in()
    assert heavy == ""
