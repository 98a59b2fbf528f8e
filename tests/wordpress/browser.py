"""A browser on this machine, by the W3C WebDriver protocol: as much of it as these tests need."""

import base64
import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1280,900",
]


class Failed(Exception):
    """What the browser answered instead of doing what it was asked."""


def wait_for(what, look, patience=30):
    """Waits until `look` finds something. What the page has not got yet is no failure before the time is over."""
    deadline = time.monotonic() + patience
    seen = None
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except (Failed, OSError) as error:
            seen = error
        time.sleep(0.05)
    raise TimeoutError(f"waited {patience} s for {what}; last seen: {seen}")


class Browser:
    def __init__(self, base):
        self.base, self.session = base, ""

    def ask(self, method, path, body=None):
        data = None if method == "GET" else json.dumps(body or {}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.base + self.session + path, data, headers, method=method)
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise Failed(error.read().decode(errors="replace")[:600]) from error

    def begin(self, profile):
        options = {"binary": "/usr/bin/chromium", "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        self.session = "/session/" + self.ask("POST", "/session", wanted)["sessionId"]

    def go(self, url):
        self.ask("POST", "/url", {"url": url})

    def url(self):
        return self.ask("GET", "/url")

    def find(self, selector):
        return self.ask("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def wait(self, selector):
        return wait_for(f"{selector} on {self.url()}", lambda: self.find(selector))

    def text(self, selector="body"):
        return self.ask("GET", f"/element/{self.find(selector)}/text")

    def see(self, text, selector="body"):
        wait_for(f"{text!r} on {self.url()}", lambda: text in self.text(selector))

    def write(self, selector, text):
        element = self.wait(selector)
        self.ask("POST", f"/element/{element}/clear")
        self.ask("POST", f"/element/{element}/value", {"text": text})

    def click(self, selector):
        """Clicks as soon as the element is there and nothing lies over it."""
        def click():
            self.ask("POST", f"/element/{self.find(selector)}/click")
            return True
        wait_for(f"a click on {selector} of {self.url()}", click)

    def run(self, script, *args):
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(args)})

    def picture(self, name):
        if folder := os.environ.get("MAINSTAY_SCREENSHOT_DIR"):
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
            pathlib.Path(folder, name + ".png").write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))


# Neither the browser's driver nor a site on this machine is ever asked through a proxy.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextlib.contextmanager
def browser():
    """A browser with an empty profile, which is gone afterwards with all that it wrote."""
    with tempfile.TemporaryDirectory(prefix="mainstay-test-", ignore_cleanup_errors=True) as folder:
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment |= {"HOME": folder, "TMPDIR": folder}
        log = pathlib.Path(folder, "driver.log")
        with log.open("wb") as output:
            driver = subprocess.Popen(
                ["/usr/bin/chromedriver", "--port=0"], stdout=output, stderr=subprocess.STDOUT, env=environment
            )
        try:
            port = wait_for("the driver's port", lambda: port_of(log.read_text()))
            chromium = Browser(f"http://127.0.0.1:{port}")
            chromium.begin(folder + "/profile")
            try:
                yield chromium
            finally:
                chromium.ask("DELETE", "")
        finally:
            driver.terminate()
            driver.wait(20)


def port_of(log):
    words = log.partition("started successfully on port ")[2]
    return words.partition(".\n")[0].strip(". \n")
