"""A real browser for the tests of pages: Debian's Chromium without a window, and what it saw go wrong."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.requirements_for_tests import skip_or_fail

# Nothing of a browser's own talk with its maker, which a test of ours would take for the page's.
QUIET = (
    "--headless",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    # Tests may run as root, under which Chromium's own sandbox does not start; pages are ours.
    "--no-sandbox",
)


class Browser:
    """One window; `driver` is Selenium's."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1200, height: int = 900, *, dark: bool = False) -> None:
        """Open a page from its file, in a window of this size; `dark` is what its reader prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(page.absolute().as_uri())

    def run(self, script: str, *values: Any) -> Any:
        """The value that JavaScript gives."""
        return self.driver.execute_script(script, *values)

    @property
    def complaints(self) -> list[str]:
        """What the console has been told since it was last asked: errors, refused scripts, files that are not there."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    @property
    def requests(self) -> list[str]:
        """The address of all that pages have asked for since this was last asked."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def draw(self) -> None:
        """Make the window as high as the page, and wait until every figure is drawn: each is when it is near."""
        from selenium.webdriver.support.wait import WebDriverWait

        width, height = self.run("return [innerWidth, document.documentElement.scrollHeight]")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        drawn = "return !document.querySelector('.figure:not(:has(.main-svg))')"
        WebDriverWait(self.driver, 120).until(lambda _: self.run(drawn))

    def screenshot(self, path: Path) -> None:
        """The whole page, with every figure."""
        self.draw()
        width, height = self.run("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        asked = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", asked)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start one with a profile of its own, of which nothing stays."""
    program, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or chromedriver is None:
        skip_or_fail("Chromium is not installed; on Debian: apt install chromium chromium-driver")
    try:
        from selenium import webdriver
    except ModuleNotFoundError:
        skip_or_fail("the package selenium is not installed: pip install 'edgepipe[test]'")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for option in (*QUIET, f"--user-data-dir={profile}"):
            options.add_argument(option)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
