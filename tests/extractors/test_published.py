"""The published files that are known: unique names, facts that fit the layouts, and digests that are held to."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from clipmill.extractors import registry
from clipmill.extractors.base import WeightsFile
from clipmill.extractors.published import (
    MIN_DIGEST_DIGITS,
    card_choices,
    git_blob_sha1,
    identify,
    published,
    published_files,
    verify_file,
)
from clipmill.extractors.weights import digest
from clipmill.schemas.errors import UsageError, WeightsError
from tests.extractors.registered import built_in

REAL = "weights/squeezenet1_0_imagenet_decoded.pt"


def test_names_are_unique_and_facts_are_well_formed() -> None:
    files = [item.file for item in published_files() if item.file is not None]
    assert len({file.name for file in files}) == len(files) >= 19
    for file in files:
        assert "/" not in file.name
        assert file.sha256 is None or re.fullmatch(f"[0-9a-f]{{{MIN_DIGEST_DIGITS},64}}", file.sha256)
        assert file.git_blob is None or re.fullmatch("[0-9a-f]{40}", file.git_blob)
        assert file.url is None or re.match(r"https?://[^ ]+$", file.url)
    assert all(item.licence and item.source for item in published_files())


@pytest.mark.parametrize("name", built_in())
def test_every_layout_has_a_card_one_can_choose_and_every_file_a_layout_of_its_extractor(name: str) -> None:
    layouts = registry.registration(name).layouts
    if layouts is None:
        assert published_files(name) == []
        return
    choices = card_choices(name)
    assert {layout.card for layout in layouts()} <= set(choices)
    cards = {layout.name: set(layout.cards) for layout in layouts()}
    # R-MAC pools networks whose cards it does not need all.
    assert set().union(*cards.values()) <= set(choices) or name == "rmac"
    for choice in choices.values():
        for file in choice.card.files:
            assert file.layout in cards
            assert choice.card.name in cards[file.layout]


def test_cards_that_an_option_brings_are_found_with_the_option() -> None:
    assert card_choices("i3d")["kinetics-flow"].options == {"stream": "flow"}
    assert card_choices("i3d")["kinetics-rgb"].options == {}
    assert card_choices("rc3d")["caffe-thumos14"].options == {"form": "caffe-thumos14"}


def test_digests_in_file_names_are_those_that_are_known() -> None:
    """torchvision and mmaction2 end a file's name in the first eight digits of its SHA-256."""
    named = re.compile(r"-([0-9a-f]{8})\.pth$")
    found = [
        (match[1], item.file) for item in published_files() if item.file and (match := named.search(item.file.name))
    ]
    assert len(found) >= 8
    assert all(file.sha256 is not None and file.sha256.startswith(digits) for digits, file in found)


def test_an_unknown_name_lists_the_near_ones() -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet50-0676ba61.pth'"):
        published("resnet50-0676ba6.pth")
    with pytest.raises(UsageError, match="expected a registered name"):
        published_files("resnet")


def test_git_names_a_file_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")
    # What `git hash-object` prints for this content.
    assert git_blob_sha1(str(path)) == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_the_real_file_is_identified_and_a_changed_one_is_not(shared_data: Path, tmp_path: Path) -> None:
    (found,) = identify(str(shared_data / REAL))
    assert (found.extractor, found.use) == ("squeezenet", "imagenet-caffe")
    assert found.file is not None
    assert verify_file(str(shared_data / REAL), found.file) == "size, SHA-256"
    changed = tmp_path / "changed.pt"
    changed.write_bytes((shared_data / REAL).read_bytes()[:-1] + b"x")
    assert identify(str(changed)) == []
    with pytest.raises(WeightsError, match="expected SHA-256 2a5bc28f"):
        verify_file(str(changed), found.file)


def test_whatever_is_known_is_verified(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    sha256 = digest(str(path))
    nothing = WeightsFile("file", "layout", "source")
    assert verify_file(str(path), nothing) == ""
    assert verify_file(str(path), replace(nothing, num_bytes=6, sha256=sha256)) == "size, SHA-256"
    assert verify_file(str(path), replace(nothing, sha256=sha256[:8])) == "the first 8 digits of SHA-256"
    blob = "ce013625030ba8dba906f756967f9e9ca394464a"
    assert verify_file(str(path), replace(nothing, git_blob=blob)) == "git blob"
    with pytest.raises(WeightsError, match=r"weights file: expected 7 bytes, got 6; fetch it again"):
        verify_file(str(path), replace(nothing, num_bytes=7))
    with pytest.raises(WeightsError, match=f"expected SHA-256 00000000, got {sha256[:8]}"):
        verify_file(str(path), replace(nothing, sha256="0" * 8))
    with pytest.raises(WeightsError, match=f"expected git blob {'0' * 40}, got {blob}"):
        verify_file(str(path), replace(nothing, git_blob="0" * 40))
