"""A headless Chromium driven over WebDriver's HTTP protocol: enough to open a page, click, and hear what it logs and asks for."""

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")


class Browser:
    """One window. Close it with `close`, which ends both processes."""

    def __init__(self) -> None:
        self.driver = subprocess.Popen([CHROMEDRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines = iter(self.driver.stdout.readline, "")
        port = next(found[1] for found in (re.search(r"successfully on port (\d+)", line) for line in lines) if found)
        self.session = f"http://127.0.0.1:{port}/session"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        options = {"binary": CHROMIUM, "args": arguments}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self.session += f"/{self.post('', capabilities={'alwaysMatch': wanted})['sessionId']}"

    def post(self, path: str, **body: object) -> object:
        request = urllib.request.Request(f"{self.session}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def devtools(self, command: str, **parameters: object) -> object:
        return self.post("/goog/cdp/execute", cmd=command, params=parameters)

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.heard()
        self.post("/url", url=page.resolve().as_uri())

    def run(self, script: str, *arguments: object) -> object:
        """What a script returns in the page; its arguments are `arguments[0]` …"""
        return self.post("/execute/sync", script=script, args=list(arguments))

    def click(self, selector: str) -> None:
        """Scroll to the first element and click it as a mouse does."""
        element = self.post("/element", using="css selector", value=selector)
        self.post(f"/element/{next(iter(element.values()))}/click")

    def press(self, selector: str, keys: str) -> None:
        """Send keys to the first element."""
        element = self.post("/element", using="css selector", value=selector)
        self.post(f"/element/{next(iter(element.values()))}/value", text=keys)

    def heard(self) -> tuple[list[str], list[str]]:
        """(what the console said, the addresses that were asked for) since the last call."""
        said = [entry["message"] for entry in self.post("/se/log", type="browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.post("/se/log", type="performance")]
        asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return said, asked

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        found = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def printed(self, path: Path) -> None:
        """The page as a PDF, on paper of its own choice."""
        path.write_bytes(base64.b64decode(self.devtools("Page.printToPDF", preferCSSPageSize=True, printBackground=False)["data"]))

    def close(self) -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(self.session, method="DELETE"), timeout=60).close()
        finally:
            self.driver.terminate()
            self.driver.wait()
            self.driver.stdout.close()
