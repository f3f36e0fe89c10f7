"""Finding models that are already there, in folders laid out as the other programs lay them out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from quietdesk_models import weights
from quietdesk_models.catalog import STARTER, find_card
from quietdesk_models.errors import BadFileError, MissingWeightsError, UnknownModelError
from quietdesk_models.weights import Places

CARD = find_card("smollm2-360m")
"""Knows no package that carries it, and is in Ollama's library."""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(
        cache=tmp_path / "cache",
        hugging_face=(tmp_path / "hub",),
        ollama=(tmp_path / "ollama",),
        lm_studio=(tmp_path / "lm-studio",),
    )


def sparse(path: Path, size: int | None) -> Path:
    """A file of that size that takes no room."""
    assert size is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def put_into_hub(hub: Path, repo: str, file: str, size: int | None) -> Path:
    """As huggingface_hub does: a blob, and a link to it in the snapshot's folder."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    blob = sparse(folder / "blobs" / "1234", size)
    link = folder / "snapshots" / "abcdef" / file
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    return link


def put_into_ollama(root: Path, name: str, tag: str, digest: str = "sha256:77") -> Path:
    """As Ollama does: a manifest, and the layers by their digests."""
    manifest = root / "manifests" / "registry.ollama.ai" / "library" / name / tag
    manifest.parent.mkdir(parents=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:99", "size": 1},
        {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 4},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return sparse(root / "blobs" / digest.replace(":", "-"), 4)


def test_the_starter_comes_out_of_its_package_and_nothing_of_it_is_imported(
    starter_path: Path,
) -> None:
    found = weights.find(STARTER)
    assert found.origin == "bundled"
    assert found.path == starter_path
    assert found.card == find_card(STARTER)


def test_a_model_that_is_nowhere_is_answered_with_the_command_that_gets_it(places: Places) -> None:
    with pytest.raises(MissingWeightsError, match=f"quietdesk models pull {CARD.name}"):
        weights.locate(CARD.name, places)


def test_own_downloads_come_before_other_programs_folders(places: Places) -> None:
    ollama = put_into_ollama(places.ollama[0], *CARD.ollama.split(":"))
    assert weights.find(CARD.name, places).path == ollama
    studio = sparse(places.lm_studio[0] / CARD.repo / CARD.file, CARD.size_bytes)
    assert weights.find(CARD.name, places).path == studio
    hub = put_into_hub(places.hugging_face[0], CARD.repo, CARD.file, CARD.size_bytes)
    assert weights.find(CARD.name, places).path == hub
    ours = sparse(weights.cached_path(CARD, places), CARD.size_bytes)
    found = weights.find(CARD.name, places)
    assert (found.path, found.origin) == (ours, "cache")


def test_a_file_of_another_size_is_not_the_catalogues_file(places: Places) -> None:
    put_into_hub(places.hugging_face[0], CARD.repo, CARD.file, 5)
    with pytest.raises(MissingWeightsError):
        weights.find(CARD.name, places)
    # Under its own name in the hub's folder it is found all the same.
    assert weights.find(f"hf:{CARD.repo}/{CARD.file}", places).origin == "hugging-face"


def test_everything_that_is_there_is_listed_and_found_again_by_its_name(places: Places) -> None:
    put_into_hub(places.hugging_face[0], "some/Repo-GGUF", "sub/x.Q4.gguf", 9)
    put_into_hub(places.hugging_face[0], "some/vision", "mmproj-x.gguf", 9)
    put_into_ollama(places.ollama[0], "tinyllama", "1.1b")
    for part in (1, 2):
        sparse(places.lm_studio[0] / "me" / "big" / f"big-0000{part}-of-00002.gguf", 9)
    sparse(places.lm_studio[0] / "me" / "big" / "notes.txt", 9)
    found = {model.name: model for model in weights.found(places)}
    assert set(found) - {STARTER} == {
        "hf:some/Repo-GGUF/sub/x.Q4.gguf",
        "ollama:tinyllama:1.1b",
        "lmstudio:me/big/big-00001-of-00002.gguf",
    }
    for name, model in found.items():
        assert weights.find(name, places) == model
        assert model.path.is_file()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"layers": 3}', '{"layers": [{}]}', "\x00\xff"])
def test_a_broken_manifest_is_passed_over(places: Places, text: str) -> None:
    put_into_ollama(places.ollama[0], "good", "1b")
    broken = places.ollama[0] / "manifests" / "registry.ollama.ai" / "library" / "bad" / "1b"
    broken.parent.mkdir()
    broken.write_text(text, encoding="latin-1")
    assert [m.name for m in weights.found(places) if m.origin == "ollama"] == ["ollama:good:1b"]


def test_a_manifest_cannot_lead_out_of_its_folder(places: Places, tmp_path: Path) -> None:
    secret = sparse(tmp_path / "secret", 4)
    put_into_ollama(places.ollama[0], "evil", "1b", digest="sha256:77")
    manifest = places.ollama[0] / "manifests/registry.ollama.ai/library/evil/1b"
    manifest.write_text(manifest.read_text().replace("sha256:77", "../../secret"))
    assert secret.is_file()
    assert [m for m in weights.found(places) if m.origin == "ollama"] == []


def test_a_path_works_wherever_a_name_does(tmp_path: Path, places: Places) -> None:
    path = sparse(tmp_path / "my model.GGUF", 3)
    assert weights.locate(path, places) == path
    assert weights.locate(str(path), places) == path
    plain = sparse(tmp_path / "weights", 3)
    assert weights.locate(str(plain), places) == plain


def test_a_home_folders_tilde_is_understood(
    tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    sparse(tmp_path / "x.gguf", 3)
    assert weights.locate("~/x.gguf", places) == tmp_path / "x.gguf"


@pytest.mark.parametrize("name", ["none.gguf", "./none", "folder/none.gguf", "~/none"])
def test_a_path_to_nothing_is_refused_as_a_file(places: Places, name: str) -> None:
    with pytest.raises(BadFileError, match="no such file"):
        weights.find(name, places)


def test_a_folder_is_refused(tmp_path: Path, places: Places) -> None:
    with pytest.raises(BadFileError, match="not a file"):
        weights.find(tmp_path, places)


def test_an_unknown_name_answers_with_names_of_the_catalogue_and_of_this_machine(
    places: Places,
) -> None:
    put_into_ollama(places.ollama[0], "tinyllama", "1.1b")
    with pytest.raises(UnknownModelError) as caught:
        weights.find("ollama:tinylama:1.1b", places)
    assert caught.value.nearest[0] == "ollama:tinyllama:1.1b"
    assert "llama-3.2-1b" in caught.value.known


def test_places_follow_the_variables_of_the_other_programs(tmp_path: Path) -> None:
    home = tmp_path / "home"
    default = Places.of({}, home)
    assert default.hugging_face == (home / ".cache/huggingface/hub",)
    assert default.ollama[0] == home / ".ollama/models"
    assert default.lm_studio == (home / ".lmstudio/models", home / ".cache/lm-studio/models")
    assert Places.of({"HF_HOME": "/h"}, home).hugging_face == (Path("/h/hub"),)
    assert Places.of({"HF_HOME": "/h", "HF_HUB_CACHE": "/c"}, home).hugging_face == (Path("/c"),)
    assert Places.of({"XDG_CACHE_HOME": "/x"}, home).hugging_face == (Path("/x/huggingface/hub"),)
    assert Places.of({"OLLAMA_MODELS": "/o"}, home).ollama[0] == Path("/o")
    home.mkdir()
    (home / ".lmstudio-home-pointer").write_text("/elsewhere/lm\n")
    assert Places.of({}, home).lm_studio[0] == Path("/elsewhere/lm/models")


def test_a_bundled_model_without_its_package_says_what_to_install(places: Places) -> None:
    card = replace(find_card(STARTER), name="other", package="no-such-distribution")
    with pytest.raises(MissingWeightsError, match=r"quietdesk\[starter\]"):
        weights._path_of(card, places)
