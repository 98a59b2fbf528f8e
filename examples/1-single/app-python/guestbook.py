"""The guest book of www.foobar.com in Python: the same pages, routes and tables as the PHP one beside it.

No framework: werkzeug reads requests and writes responses, one function answers each route.
"""

import hashlib
import hmac
import json
import math
import os
import re
import secrets
from html import escape
from pathlib import Path

import pymysql
from PIL import Image, UnidentifiedImageError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.security import check_password_hash, generate_password_hash
from werkzeug.wrappers import Request, Response

PER_PAGE = 10
LONGEST_NAME = 40
LONGEST_MESSAGE = 1000
LARGEST_PICTURE = 8 * 1024 * 1024
LONGEST_SIDE = 1200
SESSION_SECONDS = 14 * 86400
UPLOADS = Path(__file__).parent / "public" / "uploads"
SERVER = os.environ.get("MAINSTAY_SERVER", "")
RELEASE = os.environ.get("MAINSTAY_RELEASE", "")

Image.MAX_IMAGE_PIXELS = 24_000_000


class Mistake(Exception):
    """Something the visitor did wrong: told on the page, with this status."""

    def __init__(self, message, status=422):
        super().__init__(message)
        self.status = status


class Visit:
    """One request, its database connection, and the cookies that go back with the response."""

    def __init__(self, request):
        self.request = request
        self.cookies = []
        self._connection = None
        self._user = False

    def query(self, statement, *values):
        if self._connection is None:
            self._connection = connect()
        cursor = self._connection.cursor(pymysql.cursors.DictCursor)
        cursor.execute(statement, values)
        return cursor

    def close(self):
        if self._connection is not None:
            self._connection.close()

    def set_cookie(self, name, value, age=SESSION_SECONDS):
        secure = self.request.scheme == "https"
        self.cookies.append((name, value, dict(max_age=age, path="/", secure=secure, httponly=True, samesite="Lax")))

    @property
    def user(self):
        """Who is signed in, if anyone."""
        if self._user is False:
            self._user = None
            if token := self.request.cookies.get("guestbook"):
                self._user = self.query(
                    "SELECT users.id, users.name FROM sessions JOIN users ON users.id = sessions.user_id"
                    " WHERE token_hash = %s AND expires_at > CURRENT_TIMESTAMP",
                    digest(token),
                ).fetchone()
        return self._user

    @property
    def token(self):
        """The token that our forms carry and a cookie holds too: another site can send the form, but cannot know it."""
        known = self.request.cookies.get("guestbook_form", "")
        if not re.fullmatch(r"[0-9a-f]{32}", known):
            known = next((value for name, value, _ in self.cookies if name == "guestbook_form"), None)
            if known is None:
                known = secrets.token_hex(16)
                self.set_cookie("guestbook_form", known)
        return known

    def check_token(self):
        known = self.request.cookies.get("guestbook_form", "")
        if not known or not hmac.compare_digest(known, self.request.form.get("token", "")):
            raise Mistake("The form is too old; go back, load the page again and send it once more.", 403)

    def text(self, field, longest):
        return tidy(self.request.form.get(field, ""), field, longest)


def connect():
    place = {"unix_socket": os.environ["DATABASE_SOCKET"]} if "DATABASE_SOCKET" in os.environ else {
        "host": os.environ["DATABASE_HOST"], "port": int(os.environ["DATABASE_PORT"])}
    return pymysql.connect(
        user=os.environ["DATABASE_USER"], password=os.environ["DATABASE_PASSWORD"],
        database=os.environ["DATABASE_NAME"], charset="utf8mb4", autocommit=True, connect_timeout=5, **place)


def digest(token):
    return hashlib.sha256(token.encode()).hexdigest()


def tidy(text, field, longest):
    text = str(text).strip()
    if not text:
        raise Mistake(f"The field “{field}” is empty.")
    if len(text) > longest:
        raise Mistake(f"The field “{field}” has more than {longest} characters.")
    return text


def entries(visit, limit, offset):
    return visit.query(
        "SELECT id, author, message, picture, user_id IS NOT NULL AS known, created_at"
        " FROM entries ORDER BY id DESC LIMIT %s OFFSET %s", limit, offset).fetchall()


def show_entries(visit):
    page = max(1, visit.request.args.get("page", 1, type=int))
    count = visit.query("SELECT COUNT(*) AS count FROM entries").fetchone()["count"]
    pages = max(1, math.ceil(count / PER_PAGE))
    name = "" if visit.user else (
        f'<label>Your name <input name="author" required maxlength="{LONGEST_NAME}" autocomplete="nickname"></label>')
    parts = [f"""<h1>Guest book</h1>
<form class="card" method="post" action="/entries" enctype="multipart/form-data">
  <input type="hidden" name="token" value="{visit.token}">
  {name}
  <label>Your message <textarea name="message" required maxlength="{LONGEST_MESSAGE}" rows="3"></textarea></label>
  <label>A picture, if you like <input type="file" name="picture" accept="image/png,image/jpeg,image/gif,image/webp"></label>
  <button>Sign the guest book</button>
</form>
<p class="count">{count} {"entry" if count == 1 else "entries"}</p>"""]
    parts += [article(entry) for entry in entries(visit, PER_PAGE, (page - 1) * PER_PAGE)]
    if pages > 1:
        newer = f'<a href="/?page={page - 1}">Newer</a>' if page > 1 else ""
        older = f'<a href="/?page={page + 1}">Older</a>' if page < pages else ""
        parts.append(f'<nav class="pages" aria-label="Pages">{newer}<span>Page {page} of {pages}</span>{older}</nav>')
    return view(visit, "Guest book", "\n".join(parts))


def article(entry):
    author = escape(entry["author"])
    message = escape(entry["message"]).replace("\n", "<br>\n")
    picture = (f'<img src="/uploads/{escape(entry["picture"])}" alt="A picture that {author} added" loading="lazy">'
               if entry["picture"] else "")
    known = ' <span class="known">member</span>' if entry["known"] else ""
    when = entry["created_at"]
    return f"""<article class="card">
  <p class="message">{message}</p>
  {picture}
  <p class="by"><strong>{author}</strong>{known} <time datetime="{when:%Y-%m-%dT%H:%M:%SZ}">{when}</time></p>
</article>"""


def write_entry(visit):
    visit.check_token()
    picture = store_picture(visit.request.files.get("picture"))
    author = visit.user["name"] if visit.user else visit.text("author", LONGEST_NAME)
    insert_entry(visit, author, visit.text("message", LONGEST_MESSAGE), picture)
    return redirect("/")


def insert_entry(visit, author, message, picture):
    user = visit.user["id"] if visit.user else None
    return visit.query(
        "INSERT INTO entries (author, message, picture, user_id) VALUES (%s, %s, %s, %s)",
        author, message, picture, user).lastrowid


def store_picture(upload):
    """Decodes and encodes anew, so that what is stored is a picture and nothing else, whatever was sent."""
    if upload is None or not upload.filename:
        return None
    try:
        picture = Image.open(upload.stream, formats=["PNG", "JPEG", "GIF", "WEBP"])
        picture.load()
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise Mistake("That is no PNG, JPEG, GIF or WebP picture of a sensible size.", 415) from error
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    name = f"{secrets.token_hex(16)}.png"
    picture.convert("RGBA").save(UPLOADS / name, "PNG")
    return name


def sign_page(visit, which):
    autocomplete = "current-password" if which == "in" else "new-password"
    return view(visit, f"Sign {which}", f"""<h1>Sign {which}</h1>
<form class="card narrow" method="post" action="/sign-{which}">
  <input type="hidden" name="token" value="{visit.token}">
  <label>Name <input name="name" required maxlength="{LONGEST_NAME}" autocomplete="username" autofocus></label>
  <label>Password <input type="password" name="password" required minlength="8" autocomplete="{autocomplete}"></label>
  <button>Sign {which}</button>
</form>""")


def sign_up(visit):
    visit.check_token()
    name, password = visit.text("name", LONGEST_NAME), visit.request.form.get("password", "")
    if len(password) < 8:
        raise Mistake("A password has at least 8 characters.")
    try:
        user = visit.query(
            "INSERT INTO users (name, password_hash) VALUES (%s, %s)", name, generate_password_hash(password)).lastrowid
    except pymysql.IntegrityError as error:
        raise Mistake("That name is taken.", 409) from error
    begin_session(visit, user)
    return redirect("/")


# Without a user a hash is checked all the same: how long it takes tells nobody who has signed up.
NOBODY = generate_password_hash(secrets.token_hex())


def sign_in(visit):
    visit.check_token()
    user = visit.query("SELECT id, password_hash FROM users WHERE name = %s", visit.text("name", LONGEST_NAME)).fetchone()
    fits = check_password_hash(user["password_hash"] if user else NOBODY, visit.request.form.get("password", ""))
    if not user or not fits:
        raise Mistake("Name and password do not fit.", 403)
    begin_session(visit, user["id"])
    return redirect("/")


def begin_session(visit, user):
    end_session(visit)
    token = secrets.token_hex(32)
    visit.query(
        "INSERT INTO sessions (token_hash, user_id, expires_at) VALUES (%s, %s, CURRENT_TIMESTAMP + INTERVAL %s SECOND)",
        digest(token), user, SESSION_SECONDS)
    visit.set_cookie("guestbook", token)


def end_session(visit):
    if token := visit.request.cookies.get("guestbook"):
        visit.query("DELETE FROM sessions WHERE token_hash = %s OR expires_at < CURRENT_TIMESTAMP", digest(token))
        visit.set_cookie("guestbook", "", age=0)


def sign_out(visit):
    visit.check_token()
    end_session(visit)
    return redirect("/")


def list_as_json(visit):
    limit = min(100, max(1, visit.request.args.get("limit", 20, type=int)))
    rows = [row | {"created_at": str(row["created_at"])} for row in entries(visit, limit, 0)]
    return as_json({"server": SERVER, "release": RELEASE, "entries": rows})


def write_as_json(visit):
    # Browsers cannot send this type to another site without asking it first, so no token is needed.
    if visit.request.mimetype != "application/json":
        raise Mistake("Send application/json.", 415)
    entry = visit.request.get_json(silent=True) or {}
    author = tidy(entry.get("author", ""), "author", LONGEST_NAME)
    message = tidy(entry.get("message", ""), "message", LONGEST_MESSAGE)
    return as_json({"id": insert_entry(visit, author, message, None), "server": SERVER}, 201)


def health(visit):
    try:
        visit.query("SELECT 1 FROM entries LIMIT 1")
        return as_json({"healthy": True, "server": SERVER, "release": RELEASE})
    except pymysql.MySQLError:
        return as_json({"healthy": False, "reason": "the database does not answer"}, 503)


def view(visit, title, content, status=200):
    token = visit.token
    if visit.user:
        nav = f"""<span>Signed in as <strong>{escape(visit.user["name"])}</strong></span>
      <form method="post" action="/sign-out">
        <input type="hidden" name="token" value="{token}">
        <button class="quiet">Sign out</button>
      </form>"""
    else:
        nav = '<a href="/sign-in">Sign in</a>\n      <a href="/sign-up">Sign up</a>'
    frame = (Path(__file__).parent / "templates" / "frame.html").read_text("utf-8")
    page = frame.format(title=escape(title), nav=nav, content=content, server=escape(SERVER), release=escape(RELEASE))
    response = Response(page, status, content_type="text/html; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    response.headers["Content-Security-Policy"] = (
        "default-src 'self'; frame-ancestors 'none'; form-action 'self'")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def message(visit, title, text, status):
    if visit.request.path.startswith("/api/"):
        return as_json({"error": text}, status)
    content = f'<h1>{escape(title)}</h1>\n<p class="card">{escape(text)}</p>\n<p><a href="/">Back to the guest book</a></p>'
    return view(visit, title, content, status)


def as_json(content, status=200):
    return Response(json.dumps(content, ensure_ascii=False) + "\n", status, content_type="application/json")


def redirect(path):
    return Response("", 303, {"Location": path})


ROUTES = {
    ("GET", "/"): show_entries,
    ("POST", "/entries"): write_entry,
    ("GET", "/sign-in"): lambda visit: sign_page(visit, "in"),
    ("POST", "/sign-in"): sign_in,
    ("GET", "/sign-up"): lambda visit: sign_page(visit, "up"),
    ("POST", "/sign-up"): sign_up,
    ("POST", "/sign-out"): sign_out,
    ("GET", "/api/entries"): list_as_json,
    ("POST", "/api/entries"): write_as_json,
    ("GET", "/health"): health,
}


def application(environ, start_response):
    request = Request(environ)
    request.max_content_length = LARGEST_PICTURE + 1024 * 1024
    visit = Visit(request)
    method = "GET" if request.method == "HEAD" else request.method
    try:
        answer = ROUTES.get((method, request.path))
        try:
            response = answer(visit) if answer else message(visit, "Not found", "There is no such page.", 404)
        except Mistake as mistake:
            response = message(visit, "Not quite", str(mistake), mistake.status)
        except RequestEntityTooLarge:
            response = message(visit, "Not quite", "The picture is larger than 8 MB.", 413)
        except HTTPException as error:
            response = message(visit, "Not quite", error.name, error.code or 400)
        for name, value, settings in visit.cookies:
            response.set_cookie(name, value, **settings)
        return response(environ, start_response)
    finally:
        visit.close()
