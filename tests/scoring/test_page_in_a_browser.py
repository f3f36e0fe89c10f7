"""The HTML report in a real browser; skipped where there is no Chromium."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from quietdesk.scoring import score
from quietdesk.scoring.compare import compare
from quietdesk.scoring.page import page

METRICS = ("bleu", "chrf", "labels", "outcome", "turns", "latency", "misunderstandings")
MEASURE = """<script>
const at = (a) => document.getElementById(a.getAttribute("href").slice(1));
document.title = JSON.stringify({
  page: document.documentElement.scrollWidth, window: window.innerWidth,
  bad_links: [...document.querySelectorAll("a")].filter((a) => !at(a)).length,
  links: document.querySelectorAll("a").length,
  empty: [...document.querySelectorAll("svg")].filter((s) =>
    s.checkVisibility() && s.getBoundingClientRect().width < 10).length,
  svgs: document.querySelectorAll("svg").length,
});
</script></body>"""


@pytest.fixture(scope="module")
def text(make_talks):
    slices = ["channel", "week"]
    old = score(make_talks(60, customers=30), METRICS, slices=slices)
    new = score(make_talks(60, seed=9, quality=0.95, customers=30), METRICS, slices=slices)
    new.source = "a rather long name of a file of logs " * 3
    return page(new, compare(new, old))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A browser's program that runs on this machine."""
    found = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    try:
        run(found, tmp_path_factory.mktemp("profile"), "about:blank")
    except subprocess.SubprocessError as error:
        pytest.skip(f"Chromium cannot be started here: {error}")
    return found


def run(browser: str, profile: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-quic", "--disable-dev-shm-usage", "--enable-logging=stderr",
            f"--user-data-dir={profile}", "--dump-dom", *arguments,
        ],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip


def opened(browser: str, file: Path, width: int = 1280) -> tuple[str, str]:
    """The document as the browser holds it, and what it complains of."""
    done = run(browser, file.parent / "profile", f"--window-size={width},900", file.as_uri())
    return done.stdout.decode(), "\n".join(re.findall(r".*CONSOLE.*", done.stderr.decode()))


def test_a_browser_shows_the_page_without_a_complaint(
    browser: str, text: str, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(text, encoding="utf-8")
    shown, complaints = opened(browser, file)
    assert complaints == ""
    assert shown.count("<table") == text.count("<table") > 3
    assert shown.count("<svg") == text.count("<svg") > 3


def test_a_page_that_asked_for_something_would_be_complained_of(
    browser: str, text: str, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(text.replace("</body>", "<img src='x.png'></body>"), encoding="utf-8")
    _, complaints = opened(browser, file)
    assert "Content Security Policy" in complaints


@pytest.mark.parametrize("width", [1280, 500])
def test_it_fits_a_wide_window_and_a_narrow_one(
    browser: str, text: str, tmp_path: Path, width: int
) -> None:
    file = tmp_path / "page.html"
    # The page itself allows no script; one in a copy without that rule measures it.
    free = re.sub(r"<meta http-equiv[^>]*>", "", text)
    file.write_text(free.replace("</body>", MEASURE), encoding="utf-8")
    shown, _ = opened(browser, file, width)
    title = re.search(r"<title>(.*?)</title>", shown)
    assert title is not None
    found = dict(re.findall(r'"(\w+)":(\d+)', title[1].replace("&quot;", '"')))
    assert int(found["page"]) <= int(found["window"])
    assert (int(found["bad_links"]), int(found["empty"])) == (0, 0)
    assert int(found["links"]) > 3 and int(found["svgs"]) > 3
