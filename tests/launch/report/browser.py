"""Headless Chromium, and what a page in it did: nothing from the network, every message of its console."""

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "chromium and chromedriver are not installed: sh .ci/browser"
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER) and not os.environ.get("MUSTER_REQUIRE_BROWSER"), reason=MISSING
)


class Browser:
    """One window. `open` waits until every chart is drawn."""

    def __init__(self, driver: Chrome):
        self.driver = driver

    def open(self, page: Path) -> None:
        self.driver.get(page.resolve().as_uri())
        WebDriverWait(self.driver, 60).until(lambda driver: self.run("return document.body.dataset.drawn"))

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def said(self) -> list[str]:
        """What the console has been told since the last call."""
        return [f"{row['level']} {row['message']}" for row in self.driver.get_log("browser")]

    def asked(self) -> list[str]:
        """Addresses that were asked for since the last call, but for the page itself."""
        messages = [json.loads(row["message"])["message"] for row in self.driver.get_log("performance")]
        sent = [one["params"]["request"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [one["url"] for one in sent if not one["url"].startswith(("file:", "data:", "blob:"))]

    def emulate(self, width: int, dark: bool = False, touch: bool = False, height: int = 900) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": touch})

    def picture(self, file: Path) -> None:
        """Of the whole page."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        file.write_bytes(base64.b64decode(shot["data"]))

    def printed(self) -> bytes:
        """The page as a PDF."""
        done = self.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
        return base64.b64decode(done["data"])


@contextmanager
def browser() -> Iterator[Browser]:
    if not CHROMIUM or not DRIVER:
        pytest.fail(MISSING)
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    # Root has no sandbox of its own, and a container little shared memory.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, ChromeService(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
