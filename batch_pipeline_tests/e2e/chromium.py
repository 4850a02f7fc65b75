"""Headless Chromium, Debian's own, driven by Selenium."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from batch_pipeline_tests.e2e.dagster_dev import E2EFailed
from batch_pipeline_tests.support.debian import can_install, install

PACKAGES = ("chromium", "chromium-driver")
BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
WIDTH, HEIGHT = 1440, 1000


def _which(names: tuple[str, ...]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


def ensure_chromium() -> str | None:
    """Install Chromium and its driver with apt-get, where they are missing and that can be done.

    Returns:
        What was done, or None when both were there.

    Raises:
        E2EFailed: they are missing, and cannot be installed from here.
    """
    if _which(BROWSERS) and _which(DRIVERS):
        return None
    by_hand = f"apt-get install {' '.join(PACKAGES)}"
    if not can_install():
        raise E2EFailed(
            f"Chromium and its driver are needed to look at the pages. As root: {by_hand} (or put "
            "chromium and chromedriver of the same version on the PATH)"
        )
    if why := install(PACKAGES):
        raise E2EFailed(why)
    return f"installed {' and '.join(PACKAGES)} with apt-get"


@contextmanager
def browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """Give a browser with a profile of its own; it is closed with the block."""
    options = webdriver.ChromeOptions()
    options.binary_location = _which(BROWSERS) or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(flag)
    # Both programs are named, so that Selenium looks for none to download.
    driver = webdriver.Chrome(options=options, service=Service(_which(DRIVERS)))
    try:
        driver.set_page_load_timeout(60)
        yield driver
    finally:
        driver.quit()
