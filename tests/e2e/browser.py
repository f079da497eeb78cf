"""A headless Chromium for tests of pages. It uses Debian's packages and Selenium."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.wait import WebDriverWait

PATIENCE_SECONDS = 20.0
QUIET = (
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1400,1000",
)


class Browser:
    """One window, and the network requests of its pages."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver
        self._hosts: set[str] = set()

    def open(self, url: str) -> None:
        self._driver.get(url)

    def reload_until(self, url: str, text: str) -> None:
        """Open a page again and again until it shows ``text``, for pages that do not refresh themselves."""

        def shows(driver: Chrome) -> bool:
            driver.get(url)
            return text in self.text()

        WebDriverWait(self._driver, PATIENCE_SECONDS).until(shows, f"the page shows {text!r}")

    def text(self) -> str:
        """Return the visible text of the page."""
        return self._driver.find_element(By.TAG_NAME, "body").text

    def source(self) -> str:
        """Return the current page, with the changes of its scripts."""
        return self._driver.page_source

    def waits_for(self, text: str) -> None:
        """Return once the page shows ``text``."""
        WebDriverWait(self._driver, PATIENCE_SECONDS).until(lambda _: text in self.text(), f"the page shows {text!r}")

    def element(self, css: str) -> WebElement:
        """Return the element once it can be clicked."""
        found: WebElement = WebDriverWait(self._driver, PATIENCE_SECONDS).until(
            element_to_be_clickable((By.CSS_SELECTOR, css)), f"the page has {css!r}"
        )
        return found

    def hosts(self) -> set[str]:
        """Return every host to which the pages sent requests."""
        for entry in self._driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = urlsplit(message["params"]["request"]["url"])
                self._hosts |= {url.hostname or ""} if url.scheme in ("http", "https") else set()
        return self._hosts

    def complaints(self) -> list[str]:
        """Return the errors and warnings in the console, such as what a page's policy has blocked."""
        return [entry["message"] for entry in self._driver.get_log("browser")]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a new browser with its own profile; skip the test if no browser is installed."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("needs Debian's packages chromium and chromium-driver (apt-get install chromium chromium-driver)")
    with tempfile.TemporaryDirectory(prefix="gristmill-chromium-", ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = program
        for flag in (*QUIET, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "WARNING"})
        chrome = Chrome(options=options, service=ChromeService(driver))
        try:
            yield Browser(chrome)
        finally:
            chrome.quit()
