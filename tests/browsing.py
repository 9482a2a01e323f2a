"""Chromium, driven over its DevTools protocol: pages that stream never finish loading, so nothing simpler shows them."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from websockets.sync.client import ClientConnection, connect


class Page:
    """One page in a browser."""

    def __init__(self, line: ClientConnection) -> None:
        self.line, self.numbers = line, itertools.count(1)
        self.complaints: list[str] = []
        self.do("Runtime.enable")
        self.do("Log.enable")

    def do(self, method: str, **params: Any) -> Any:
        number = next(self.numbers)
        self.line.send(json.dumps({"id": number, "method": method, "params": params}))
        while (said := json.loads(self.line.recv(20))).get("id") != number:
            if said.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(said["params"])[:500])
        assert "error" not in said, said
        return said["result"]

    def open(self, url: str, width: int = 1200, height: int = 900) -> None:
        self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.do("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        return self.do("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str, seconds: float = 15) -> None:
        wait_for(lambda: self.value(expression), seconds, f"{expression}; the page complains: {self.complaints}")

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.do("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Page]:
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium, which shows the page, is not installed (`make services`)")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
    with (folder / "chromium.log").open("w") as log:
        process = subprocess.Popen(
            [found, *words, f"--user-data-dir={folder}/profile", "about:blank"], stderr=log, stdout=log
        )
        try:
            port = folder / "profile" / "DevToolsActivePort"
            wait_for(lambda: port.exists() and len(port.read_text().splitlines()) == 2, 30, "Chromium")
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json", timeout=10
            ) as answer:
                target = next(one for one in json.loads(answer.read()) if one["type"] == "page")
            with connect(target["webSocketDebuggerUrl"], max_size=50_000_000) as line:
                yield Page(line)
        finally:
            process.kill()
            process.wait()
