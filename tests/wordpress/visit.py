"""Installs WordPress through its own pages in headless Chromium, signs in, publishes a post, and reads it as a visitor.

Usage: visit.py URL FOLDER. Speaks the W3C WebDriver protocol to chromedriver; everything it starts ends with it.
"""

import base64
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
PASSWORD = "wQ7#mainstay-stands-2026"
PATIENCE_SECONDS = 60


class Browser:
    def __init__(self, folder):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        self.session = None
        for line in self.driver.stdout:
            if "started successfully on port" in line:
                self.base = f"http://127.0.0.1:{line.rsplit(' ', 1)[1].strip().rstrip('.')}"
                break
        arguments = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
            "--window-size=1280,900", f"--user-data-dir={folder}/profile"]
        options = {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}, "timeouts": {"script": 60000}}}
        self.session = self.call("POST", "/session", {"capabilities": options})["sessionId"]

    def call(self, method, path, body=None):
        prefix = f"/session/{self.session}" if self.session else ""
        request = urllib.request.Request(
            self.base + prefix + path, method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {json.load(error)['value']['message'].splitlines()[0]}") from None

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector):
        found = self.wait(f"{selector} on the page", lambda: self.call(
            "POST", "/elements", {"using": "css selector", "value": selector}))
        return found[0][ELEMENT]

    def fill(self, selector, text):
        element = self.find(selector)
        self.call("POST", f"/element/{element}/clear", {})
        self.call("POST", f"/element/{element}/value", {"text": text})

    def click(self, selector):
        self.call("POST", f"/element/{self.find(selector)}/click", {})

    def source(self):
        return self.call("GET", "/source")

    def wait(self, what, look):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            if found := look():
                return found
            if time.monotonic() > deadline:
                text = self.run("return document.body ? document.body.innerText.slice(0, 2000) : ''")
                raise RuntimeError(f"waited {PATIENCE_SECONDS} s for {what}; the page says:\n{text}")
            time.sleep(0.05)

    def picture(self, path):
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def quit(self):
        try:
            if self.session:
                self.call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait()


def visit(browser, url, folder):
    browser.open(url)
    browser.wait("the install page", lambda: "/wp-admin/install.php" in browser.call("GET", "/url"))
    browser.fill("#weblog_title", "It stands")
    browser.fill("#user_login", "ada")
    browser.fill("#pass1", PASSWORD)
    browser.fill("#admin_email", "ada@foobar.com")
    browser.run("document.querySelector('#submit').click()")
    browser.wait("the installation", lambda: "Success!" in browser.source())

    browser.open(url + "wp-login.php")
    browser.fill("#user_login", "ada")
    browser.fill("#user_pass", PASSWORD)
    browser.click("#wp-submit")
    browser.wait("the dashboard", lambda: "/wp-admin/" in browser.call("GET", "/url") and "Howdy" in browser.source())
    browser.picture(folder / "dashboard.png")

    # The editor is driven by its own interface, as its buttons drive it.
    browser.open(url + "wp-admin/post-new.php")
    ready = ("return !!(window.wp && wp.data && wp.data.select('core/editor')"
             " && wp.data.select('core/editor').getCurrentPostId())")
    browser.wait("the editor", lambda: browser.run(ready))
    browser.run("""
        const editor = wp.data.dispatch('core/editor');
        editor.editPost({title: 'Published through the editor',
                         content: '<!-- wp:paragraph --><p>Written in a real browser.</p><!-- /wp:paragraph -->',
                         status: 'publish'});
        editor.savePost();
    """)
    published = ("const editor = wp.data.select('core/editor');"
                 "return !editor.isSavingPost() && editor.getCurrentPostAttribute('status') === 'publish'")
    browser.wait("the post to be published", lambda: browser.run(published))

    # A visitor who has not signed in.
    browser.call("DELETE", "/cookie")
    browser.open(url)
    browser.wait("the post on the front page", lambda: "Published through the editor" in browser.source())
    browser.picture(folder / "front.png")
    if "Howdy" in browser.source():
        raise RuntimeError("the visitor is still signed in")
    print("published")


def main():
    url, folder = sys.argv[1], Path(sys.argv[2])
    browser = Browser(folder)
    try:
        visit(browser, url, folder)
    finally:
        browser.quit()


main()
