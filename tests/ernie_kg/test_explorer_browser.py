"""The explorer in a real browser without a window: a sentence typed, links seen, an entity walked to, models asked."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow]
EVIL = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument("--window-size=1280,1400")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def _explorer(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """`ernie-kg explore` on a free port, and its address."""
    command = [sys.executable, "-m", "ernie_kg.cli", "explore", str(folder), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
            return process, found[0]
    raise AssertionError(f"the explorer did not start: exit code {process.wait()}")


@pytest.fixture
def explored(request: pytest.FixtureRequest) -> Iterator[str]:
    process, address = _explorer(request.param(request) if callable(request.param) else request.param)
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) in (0, 130)


def _wait(browser: Any, condition: str, *, seconds: float = 60) -> Any:
    """Until a line of script is true; its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := browser.execute_script(f"return {condition}"):
            return value
        time.sleep(0.05)
    state = browser.execute_script("return document.getElementById('state').textContent")
    raise AssertionError(f"never true: {condition}; the page says {state!r}")


def _type(browser: Any, text: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    _wait(browser, "!document.getElementById('go').disabled")
    area = browser.find_element(By.ID, "text")
    area.clear()
    area.send_keys(text)
    area.send_keys(Keys.CONTROL, Keys.ENTER)


def _screenshot(browser: Any, name: str, folder: Path) -> None:
    """Kept in ERNIE_KG_SCREENSHOTS, or among pytest's files."""
    kept = Path(os.environ.get("ERNIE_KG_SCREENSHOTS", folder))
    kept.mkdir(parents=True, exist_ok=True)
    assert browser.save_screenshot(str(kept / name))


def _own_run(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("own_data_run")[0] / "runs/own-data"


@pytest.mark.parametrize("explored", [_own_run], indirect=True)
def test_a_sentence_becomes_links_a_graph_and_predictions(
    browser: Any, explored: str, own_data_run: tuple[Path, Any], tmp_path: Path
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    head, _, tail = (own_data_run[0] / "own-data/triples.tsv").read_text().splitlines()[0].split("\t")
    browser.get(explored)
    _type(browser, f"{head} has met {tail}, they say.")
    _wait(browser, "document.querySelectorAll('#linked button').length == 2")
    texts = [button.text for button in browser.find_elements(By.CSS_SELECTOR, "#linked button")]
    assert [text.split()[0] for text in texts] == [head, tail]
    _wait(browser, "document.querySelectorAll('#graph .node').length > 1")
    assert head in browser.find_element(By.ID, "entity-name").text
    _wait(browser, "document.querySelectorAll('#answers .answer').length >= 3")
    hows = {card.get_attribute("data-how") for card in browser.find_elements(By.CSS_SELECTOR, ".answer")}
    assert {"with knowledge", "without knowledge", "text alone"} <= hows
    assert re.search(r"\d+\.\d\d ms", browser.find_element(By.ID, "answers").text)
    _screenshot(browser, "explorer.png", tmp_path)

    browser.find_elements(By.CSS_SELECTOR, "#linked button")[1].send_keys("")  # focus alone explains
    _wait(browser, "document.getElementById('why').textContent.includes('linked, score')")
    neighbour = browser.find_elements(By.CSS_SELECTOR, "#graph .node")[1]
    name = neighbour.get_attribute("aria-label")
    neighbour.send_keys(Keys.ENTER)  # by keyboard, as by mouse
    _wait(browser, f"document.getElementById('entity-name').textContent.includes({json.dumps(name)})")
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A graph whose labels, aliases, descriptions, types and relations are markup."""
    from kg.build import BuildConfig, run

    source = tmp_path / "kg"
    source.mkdir()
    source.joinpath("triples.tsv").write_text(f"a\t{EVIL}\tb\nb\tr\tc\n")
    record = {"label": EVIL, "aliases": ["Kyiv", EVIL], "description": EVIL, "types": [EVIL]}
    lines = [json.dumps({"id": name, **record, "aliases": [*record["aliases"], f"name{name}"]}) for name in "abc"]
    source.joinpath("entities.jsonl").write_text("\n".join(lines) + "\n")
    run(BuildConfig(reader="tsv", source=str(source), output=tmp_path / "run" / "graph"))
    return tmp_path / "run"


@pytest.mark.faults
@pytest.mark.parametrize("explored", [lambda request: request.getfixturevalue("hostile")], indirect=True)
def test_markup_as_text_alias_label_and_relation_stays_text(browser: Any, explored: str, tmp_path: Path) -> None:
    """The page shows what strangers wrote; none of it may become an element or run."""
    browser.get(explored)
    _type(browser, f"{EVIL} namea and nameb {EVIL}")
    _wait(browser, "document.querySelectorAll('#graph .node').length > 1")
    assert browser.title == "ernie-kg explorer"
    assert browser.execute_script("return document.querySelectorAll('body img, body script, head script').length") == 1
    for place in ("linked", "why", "entity", "graph"):
        shown = browser.execute_script(f"return document.getElementById('{place}').textContent")
        assert "<img src=x" in shown, place
    _screenshot(browser, "explorer-markup.png", tmp_path)
