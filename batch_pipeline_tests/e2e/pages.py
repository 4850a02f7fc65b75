"""What a person sees of the pipelines in Dagster's UI: pages, and the texts one would look for."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement

from batch_pipeline_tests.e2e.dagster_dev import DEMO, REPOSITORY, E2EFailed, until

PAGE_SECONDS = 60.0
OPENED_SECONDS = 10.0
FOUND_SECONDS = 180.0
SETTLE_SECONDS = 1.5  # charts and graphs move into place
LOCATION = f"/locations/{REPOSITORY}@{DEMO}"
Act = Callable[[WebDriver], None]


@dataclass(frozen=True)
class Page:
    """A page of the UI.

    Attributes:
        name: of its screenshot.
        path: its address, without the host.
        texts: what must be read on it, in the end.
        acts: what to do on it first, each once it can be done: press a button, and the like.
        never: what must not be read on it.
        size: of the window.
    """

    name: str
    path: str
    texts: Sequence[str]
    acts: Sequence[Act] = ()
    never: Sequence[str] = ()
    size: tuple[int, int] = (1440, 1000)


def press(text: str) -> Act:
    """Return the act of pressing the first thing that says exactly this."""

    def act(driver: WebDriver) -> None:
        def pressed() -> bool:
            for element in _saying(driver, text):
                try:
                    element.click()
                except WebDriverException:
                    continue
                return True
            return False

        until(f"something to press that says {text!r}", pressed, PAGE_SECONDS)

    return act


def press_for(text: str, says: str) -> Act:
    """Return the act of pressing what says exactly this, from the last on, until one opens that says more.

    A tick that asked for no run may have failed: the code server is killed on the way.
    """

    def act(driver: WebDriver) -> None:
        tried = 0

        def opened() -> bool:
            nonlocal tried
            found = _saying(driver, text)
            if not found:
                return False
            # Found anew each time: the list is drawn again while one looks at it.
            element = found[-1 - tried % len(found)]
            try:
                element.click()
            except WebDriverException:
                return False
            tried += 1
            try:
                return bool(until(says, lambda: says in _text(driver), OPENED_SECONDS))
            except E2EFailed:
                _close(driver)
                return False

        until(f"something that says {text!r} and opens {says!r}", opened, FOUND_SECONDS)

    return act


def _close(driver: WebDriver) -> None:
    def closed() -> bool:
        left = _saying(driver, "Close")
        for button in left:
            with contextlib.suppress(WebDriverException):
                button.click()
        return not left

    until("it is closed", closed, PAGE_SECONDS)


def scroll_to(text: str) -> Act:
    """Return the act of bringing the first thing that says exactly this to the top."""

    def act(driver: WebDriver) -> None:
        found = until(f"{text!r} on the page", lambda: _saying(driver, text), PAGE_SECONDS)
        driver.execute_script("arguments[0].scrollIntoView(true)", found[-1])

    return act


def _text(driver: WebDriver) -> str:
    return driver.execute_script("return document.body.innerText")


def _saying(driver: WebDriver, text: str) -> list[WebElement]:
    return driver.find_elements(By.XPATH, f"//*[text()={text!r}]")


def has(what: str, css: str, at_least: int = 1) -> Act:
    """Return the act of waiting for things that CSS names."""

    def act(driver: WebDriver) -> None:
        until(
            what, lambda: len(driver.find_elements(By.CSS_SELECTOR, css)) >= at_least, PAGE_SECONDS
        )

    return act


def is_plain(text: str) -> Act:
    """Return the act of seeing that a text from a record became no element of the page."""

    def act(driver: WebDriver) -> None:
        if driver.find_elements(By.XPATH, f"//b[contains(., {text!r})]"):
            raise E2EFailed(f"{text!r} of a record is an element of the page")

    return act


PAGES = (
    Page(
        "group",
        f"{LOCATION}/asset-groups/invoices",
        ("invoices", "incoming", "records", "requests", "batches", "results", "approvals",
         "Asset checks", "3 / 3 Passed", "anthropic", "DuckDB"),
        size=(1250, 1850),
    ),
    Page(
        "results",
        "/assets/invoices/results?view=overview",
        ("One row per record, with an answer or a reason", "Row count", "Latest check results",
         "department", "How it went: answered, rule or skipped", "cost_usd",
         "rows_inserted", "sample", "invoices_collect", "invoices_status", "DuckDB"),
        size=(1440, 1500),
    ),
    Page(
        "requests",
        "/assets/tickets/requests?view=partitions&partition=2026-01-06",
        ("first_request", "at most", "estimated_usd_at_most"),
        size=(1440, 1500),
    ),
    Page(
        "plots",
        "/assets/invoices/results?view=overview",
        ("answered", "failed", "cost_usd", "output_tokens"),
        (press("Plots"), has("plots", "canvas", 4), scroll_to("Metadata")),
        size=(1440, 1300),
    ),
    Page(
        "partitions",
        "/assets/tickets/results?view=partitions&partition=2026-01-06",
        ("2026-01-05", "2026-01-06", "2026-01-07", "Missing", "cost_usd", "<b>My parcel</b>"),
        (is_plain("My parcel"),),
        size=(1440, 2200),
    ),
    Page(
        "checks",
        "/assets/invoices/results?view=checks&checkDetail=every_record_accounted_for",
        ("every_record_accounted_for", "answers_fetched_in_time", "Every record has exactly one row"),
    ),
    Page(
        "lineage",
        "/assets/invoices/results?view=lineage&lineageScope=upstream&lineageDepth=5",
        ("incoming", "records", "requests", "batches", "results"),
        size=(1250, 1500),
    ),
    Page(
        "sensor",
        f"{LOCATION}/sensors/invoices_status",
        ("Watches the open batches of invoices", "invoices_collect", "run requested"),
    ),
    Page(
        "sensor_tick",
        f"{LOCATION}/sensors/invoices_status",
        ("Skip reason: ", "batch"),
        (press_for("0 runs requested", "Skip reason: "),),
    ),
    Page(
        "arrivals",
        f"{LOCATION}/sensors/packages_arrivals",
        ("Asks what arrived", "packages_submit"),
    ),
    Page(
        "events",
        "/assets/invoices/results?view=events",
        ("Materialized", "dagster/column_schema", "cost_usd", "sample"),
        size=(1440, 1900),
    ),
    Page(
        "observations",
        "/assets/invoices/batches?view=events",
        ("Observed", "batches_open", "batches_ended", "collected"),
        size=(1440, 1300),
    ),
)  # fmt: skip


def look_at_pages(
    driver: WebDriver, url: str, place: Path, pages: Sequence[Page] = PAGES
) -> Iterator[str]:
    """Open each page, look for its texts, and save a screenshot; say what was seen.

    Raises:
        E2EFailed: some pages lack what one would look for; the others are looked at, too.
    """
    driver.get(url)
    # The graph from top to bottom: the boxes are large enough to be read.
    driver.execute_script("localStorage.setItem('asset-graph-direction', '\"vertical\"')")
    wrong = []
    for page in pages:
        began = time.monotonic()
        try:
            _look(driver, url, page)
        except E2EFailed as error:
            wrong.append(f"{page.name}: {error}")
        finally:
            driver.save_screenshot(str(place / f"{page.name}.png"))
        if not wrong or not wrong[-1].startswith(f"{page.name}:"):
            yield f"{page.name}: {', '.join(page.texts)} ({time.monotonic() - began:.0f} s)"
    if wrong:
        raise E2EFailed(f"the screenshots are in {place}. " + "; ".join(wrong))


def _look(driver: WebDriver, url: str, page: Page) -> None:
    driver.set_window_size(*page.size)
    driver.get(url + page.path)
    for act in page.acts:
        act(driver)
    missing = list(page.texts)

    def all_there() -> bool:
        text = _flat(_text(driver))
        missing[:] = [one for one in page.texts if _flat(one) not in text]
        return not missing

    try:
        until("its texts", all_there, PAGE_SECONDS)
    except E2EFailed:
        raise E2EFailed(f"{page.path} does not say {', '.join(map(repr, missing))}") from None
    text = _flat(driver.execute_script("return document.body.innerText"))
    if found := [one for one in page.never if one in text]:
        raise E2EFailed(f"{page.path} says {', '.join(map(repr, found))}")
    time.sleep(SETTLE_SECONDS)


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)
