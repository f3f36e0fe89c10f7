"""Downloads against a local server that drops, lies, forgets ranges, and changes its mind."""

import contextlib
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from quietdesk_models import download, weights
from quietdesk_models.catalog import ModelCard
from quietdesk_models.download import pull
from quietdesk_models.errors import ChecksumError, DownloadError
from quietdesk_models.weights import Places


@dataclass
class Hub:
    """A server of one file, and how it misbehaves."""

    content: bytes
    address: str = ""
    ranges: bool = True
    etag: str = '"v1"'
    drop_after: list[int] = field(default_factory=list)
    """Bytes that are sent before each of the first connections is cut."""
    statuses: list[int] = field(default_factory=list)
    """Answers of the first connections, instead of the file."""
    length: int | None = None
    """A lie about the length."""
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of every request."""


@pytest.fixture
def hub(tiny_models: dict[str, Path]) -> Iterator[Hub]:
    hub = Hub(tiny_models["llama"].read_bytes())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            hub.seen.append((urllib.parse.unquote(self.path), wanted))
            if hub.statuses:
                self.send_error(hub.statuses.pop(0))
                return
            start, size = 0, len(hub.content)
            same = self.headers.get("If-Range") in {None, hub.etag}
            if wanted and hub.ranges and same:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            else:
                self.send_response(200)
            self.send_header("ETag", hub.etag)
            self.send_header("Content-Length", str(hub.length or size - start))
            self.end_headers()
            body = hub.content[start:]
            if hub.drop_after:
                body = body[: hub.drop_after.pop(0)]
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def card(hub: Hub) -> ModelCard:
    return ModelCard(
        name="tiny-1m",
        title="Tiny",
        repo="some/Tiny-GGUF",
        revision="a" * 40,
        file="tiny model.gguf",
        quantisation="F16",
        n_ctx=2048,
        n_params=1,
        template="ChatML",
        licence="MIT",
        size_bytes=len(hub.content),
        sha256=hashlib.sha256(hub.content).hexdigest(),
    )


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(cache=tmp_path / "cache")


def fetch(card: ModelCard, places: Places, hub: Hub) -> download.Pulled:
    return pull(card, places, endpoint=hub.address, wait_s=0)


def part_of(card: ModelCard, places: Places) -> Path:
    target = weights.cached_path(card, places)
    return target.with_name(target.name + ".part")


def test_a_file_arrives_whole_under_its_name(card: ModelCard, places: Places, hub: Hub) -> None:
    told: list[tuple[int, int]] = []
    pulled = pull(card, places, lambda done, size: told.append((done, size)), endpoint=hub.address)
    assert pulled.path == weights.cached_path(card, places)
    assert pulled.path.read_bytes() == hub.content
    assert (pulled.sha256, pulled.trusted, pulled.was_here) == (card.sha256, True, False)
    assert hub.seen == [(f"/some/Tiny-GGUF/resolve/{'a' * 40}/tiny model.gguf", None)]
    assert told == sorted(told)
    assert told[-1] == (len(hub.content), len(hub.content))
    assert download.record_of(pulled.path)["sha256"] == card.sha256
    assert not part_of(card, places).exists()


def test_a_file_that_is_here_is_checked_and_not_fetched_again(
    card: ModelCard, places: Places, hub: Hub
) -> None:
    fetch(card, places, hub)
    again = fetch(card, places, hub)
    assert again.was_here
    assert len(hub.seen) == 1
    again.path.write_bytes(again.path.read_bytes()[:-1] + b"!")
    with pytest.raises(ChecksumError):
        fetch(card, places, hub)
    assert not again.path.exists()


def test_a_connection_that_drops_goes_on_where_it_stopped(
    card: ModelCard, places: Places, hub: Hub
) -> None:
    hub.drop_after = [100_000, 0, 1, 50_000]
    pulled = fetch(card, places, hub)
    assert pulled.path.read_bytes() == hub.content
    ranges = [wanted for _, wanted in hub.seen]
    assert ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=100001-", "bytes=150001-"]


def test_a_server_that_gives_nothing_more_is_given_up_and_what_came_is_kept(
    card: ModelCard, places: Places, hub: Hub
) -> None:
    hub.drop_after = [100_000] + [0] * download.ATTEMPTS
    with pytest.raises(DownloadError, match="100,000 bytes are kept"):
        fetch(card, places, hub)
    assert part_of(card, places).stat().st_size == 100_000
    assert not weights.cached_path(card, places).exists()
    assert fetch(card, places, hub).path.read_bytes() == hub.content
    assert hub.seen[-1][1] == "bytes=100000-"


def test_a_killed_download_goes_on_in_the_next_process(
    card: ModelCard, places: Places, hub: Hub, tmp_path: Path
) -> None:
    hub.drop_after = [200_000]
    hub.length = len(hub.content)
    code = (
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from quietdesk_models.catalog import ModelCard\n"
        "from quietdesk_models.download import pull\n"
        "from quietdesk_models.weights import Places\n"
        "def die(done, size):\n"
        "    if done >= 100_000: os.kill(os.getpid(), 9)\n"
        "card, cache, hub = sys.argv[1:]\n"
        "pull(ModelCard(**json.loads(card)), Places(Path(cache)), die, endpoint=hub)\n"
    )
    fields = {name: getattr(card, name) for name in ModelCard.__slots__}
    run = subprocess.run(
        [sys.executable, "-c", code, json.dumps(fields), str(places.cache), hub.address]
    )
    assert run.returncode == -9
    hub.length = None
    assert fetch(card, places, hub).path.read_bytes() == hub.content


def test_a_server_that_knows_no_ranges_sends_it_all_again(
    card: ModelCard, places: Places, hub: Hub
) -> None:
    hub.ranges = False
    hub.drop_after = [100_000]
    assert fetch(card, places, hub).path.read_bytes() == hub.content


def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(
    card: ModelCard, places: Places, hub: Hub
) -> None:
    card = replace(card, sha256=None)
    hub.drop_after = [100_000] + [0] * download.ATTEMPTS
    with pytest.raises(DownloadError):
        fetch(card, places, hub)
    new = bytearray(hub.content)
    new[50_000:50_010] = b"0123456789"
    new[-10:] = b"0123456789"
    hub.content, hub.etag = bytes(new), '"v2"'
    assert fetch(card, places, hub).path.read_bytes() == hub.content


def test_a_tampered_file_is_refused_and_leaves_nothing(
    card: ModelCard, places: Places, hub: Hub
) -> None:
    good = hub.content
    hub.content = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(ChecksumError) as caught:
        fetch(card, places, hub)
    assert caught.value.expected == card.sha256
    assert caught.value.actual == hashlib.sha256(hub.content).hexdigest()
    assert not weights.cached_path(card, places).exists()
    assert not part_of(card, places).exists()
    hub.content = good
    assert fetch(card, places, hub).trusted


def test_a_part_that_was_tampered_with_is_refused(
    card: ModelCard, places: Places, hub: Hub
) -> None:
    part = part_of(card, places)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 100_000)
    with pytest.raises(ChecksumError):
        fetch(card, places, hub)
    assert fetch(card, places, hub).path.read_bytes() == hub.content


def test_a_part_longer_than_the_file_is_dropped(card: ModelCard, places: Places, hub: Hub) -> None:
    part = part_of(card, places)
    part.parent.mkdir(parents=True)
    part.write_bytes(hub.content + b"more")
    assert fetch(card, places, hub).path.read_bytes() == hub.content


def test_the_first_download_without_a_known_sha256_is_noted_and_demanded_later(
    card: ModelCard, places: Places, hub: Hub
) -> None:
    unchecked = replace(card, sha256=None, size_bytes=None)
    first = fetch(unchecked, places, hub)
    assert not first.trusted
    assert download.record_of(first.path)["sha256_known_before"] is False
    first.path.unlink()
    hub.content = hub.content[:-1] + b"!"
    with pytest.raises(ChecksumError):
        fetch(unchecked, places, hub)


def test_another_size_than_the_catalogues_is_refused_before_anything_is_written(
    card: ModelCard, places: Places, hub: Hub
) -> None:
    hub.content += b"more"
    with pytest.raises(DownloadError, match="another file"):
        fetch(card, places, hub)
    assert not part_of(card, places).exists()


def test_what_is_no_model_is_refused_though_nothing_was_known_of_it(
    card: ModelCard, places: Places, hub: Hub
) -> None:
    hub.content = b"<html>Please log in</html>"
    with pytest.raises(DownloadError, match="no usable model"):
        fetch(replace(card, sha256=None, size_bytes=None), places, hub)
    assert not part_of(card, places).exists()


@pytest.mark.parametrize(
    ("status", "words"), [(404, "not there"), (401, "licence"), (403, "login")]
)
def test_a_refusal_is_told_at_once(
    card: ModelCard, places: Places, hub: Hub, status: int, words: str
) -> None:
    hub.statuses = [status]
    with pytest.raises(DownloadError, match=words):
        fetch(card, places, hub)
    assert len(hub.seen) == 1


def test_a_server_in_trouble_is_asked_again(card: ModelCard, places: Places, hub: Hub) -> None:
    hub.statuses = [503, 500, 429]
    assert fetch(card, places, hub).path.read_bytes() == hub.content
    assert len(hub.seen) == 4


def test_no_server_at_all_is_an_error_with_the_address(card: ModelCard, places: Places) -> None:
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9"):
        pull(card, places, endpoint="http://127.0.0.1:9", wait_s=0)


def test_two_downloads_of_one_file_do_not_meet(card: ModelCard, places: Places, hub: Hub) -> None:
    def try_a_second_one(_done: int, _size: int) -> None:
        with pytest.raises(DownloadError, match="Another process"):
            fetch(card, places, hub)

    pulled = pull(card, places, try_a_second_one, endpoint=hub.address)
    assert pulled.path.read_bytes() == hub.content


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(
    card: ModelCard, places: Places, hub: Hub
) -> None:
    places.cache.mkdir()
    places.cache.chmod(0o500)
    with pytest.raises(DownloadError, match="cannot be kept"):
        fetch(card, places, hub)


def test_a_cache_that_is_a_file_is_named(card: ModelCard, places: Places, hub: Hub) -> None:
    places.cache.write_text("")
    with pytest.raises(DownloadError, match="cannot be kept"):
        fetch(card, places, hub)


def test_the_hubs_address_comes_from_the_environment(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert download.url(card).startswith("https://huggingface.co/some/Tiny-GGUF/resolve/aaaa")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert download.url(card).startswith("https://mirror.example/some/")
    assert download.url(card).endswith("/tiny%20model.gguf")
