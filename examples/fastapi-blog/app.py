"""A small blog in FastAPI, as one would really write it, to stand behind Tidegate.

Some pages say how long they may be kept, some say nothing at all, some are private. The addresses under
/__ are for the end-to-end tests, which ask them at the app's own port.

    uvicorn app:app --port 8000
"""

import asyncio
import hashlib
import html
import itertools
import secrets
from collections import Counter

from fastapi import FastAPI, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse

app = FastAPI(title="Tide Gate Notes", docs_url=None, redoc_url=None, openapi_url=None)

POSTS = {
    "slack-water": ("Slack water", "Twice a day a tide mill does its best work by keeping a gate shut."),
    "old-bread": ("Yesterday's bread", "A copy that is a little old is worth more than an apology that is fresh."),
    "whose-page": ("Whose page is it?", "Never show one visitor what was made for another."),
}
USERS = ("ada", "grace", "linus")

sessions: dict[str, str] = {}
hits: Counter[str] = Counter()
gates: dict[str, asyncio.Event] = {}
made = itertools.count(1)


@app.middleware("http")
async def count(request: Request, call_next):
    answer = await call_next(request)
    path = request.url.path
    if not path.startswith("/__"):
        hits[f"{request.method} {path}"] += 1
        if answer.status_code == 304:
            hits[f"304 {path}"] += 1
    return answer


def user_of(request: Request) -> str | None:
    return sessions.get(request.cookies.get("session", ""))


def page(title: str, text: str, **headers: str) -> HTMLResponse:
    """A page. `made` tells two renderings of it apart."""
    body = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<h1>{html.escape(title)}</h1>{text}<p>made {next(made)}</p>"
    )
    return HTMLResponse(body, headers={name.replace("_", "-"): value for name, value in headers.items()})


# Public pages that say how long they may be kept.


@app.get("/")
async def index():
    links = "".join(f'<li><a href="/posts/{slug}">{title}</a></li>' for slug, (title, _) in POSTS.items())
    return page("Tide Gate Notes", f"<ul>{links}</ul>", cache_control="public, max-age=60")


@app.get("/posts/{slug}")
async def post(slug: str, request: Request):
    """Fresh for ten seconds; then its ETag is asked about, and a 304 is enough."""
    if slug not in POSTS:
        raise HTTPException(404)
    title, text = POSTS[slug]
    etag = f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'
    headers = {"etag": etag, "cache-control": "public, max-age=10"}
    if etag in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    answer = page(title, f"<p>{text}</p>")
    answer.headers.update(headers)
    return answer


@app.get("/visit")
async def visit():
    """Public by its header, yet it sets a cookie: nobody else may be given that cookie."""
    answer = page("Welcome", "<p>You have been counted.</p>", cache_control="public, max-age=60")
    answer.set_cookie("visitor", secrets.token_hex(8), samesite="lax")
    return answer


# Pages that say nothing about caching, as most apps' pages do.


@app.get("/plain/{name}")
async def plain(name: str, request: Request):
    """The same address for everybody, and the reader's own name on it once signed in."""
    user = user_of(request)
    greeting = f"signed in as {user}" if user else "signed in as nobody"
    return page(f"Plain {name}", f"<p>{greeting}</p>")


# Pages of one person.


@app.get("/account")
async def account(request: Request):
    """Private, and it says so."""
    user = user_of(request)
    if user is None:
        return RedirectResponse("/login", status_code=303, headers={"cache-control": "no-store"})
    return page("Account", f"<p>signed in as {user}</p>", cache_control="private, max-age=60")


@app.get("/inbox")
async def inbox(request: Request):
    """Private, and the app forgot to say so."""
    user = user_of(request)
    if user is None:
        raise HTTPException(401)
    return page("Inbox", f"<p>letters for {user}</p>")


@app.get("/login")
async def login_form():
    forms = "".join(f'<form method=post action="/login/{user}"><button>{user}</button></form>' for user in USERS)
    return page("Who are you?", forms, cache_control="public, max-age=60")


@app.post("/login/{user}")
async def login(user: str):
    if user not in USERS:
        raise HTTPException(404)
    session = secrets.token_hex(16)
    sessions[session] = user
    answer = RedirectResponse("/account", status_code=303)
    answer.set_cookie("session", session, httponly=True, samesite="lax")
    return answer


@app.post("/logout")
async def logout(request: Request):
    sessions.pop(request.cookies.get("session", ""), None)
    answer = RedirectResponse("/", status_code=303)
    answer.delete_cookie("session")
    return answer


@app.post("/echo")
async def echo(request: Request):
    body = await request.body()
    return Response(body, media_type=request.headers.get("content-type", "application/octet-stream"))


# Answers that come in pieces.


@app.get("/stream")
async def stream(gate: str | None = None):
    """Five lines. With ?gate=NAME it stops after the first until POST /__gate/NAME."""

    async def lines():
        for number in range(1, 6):
            yield f"line {number}\n"
            if gate is None:
                await asyncio.sleep(0.2)
            elif number == 1:
                await asyncio.wait_for(gates.setdefault(gate, asyncio.Event()).wait(), timeout=30)

    return StreamingResponse(lines(), media_type="text/plain", headers={"cache-control": "no-store"})


@app.get("/events")
async def events():
    """Server-sent events: one at once, then one a second."""

    async def ticks():
        for number in itertools.count(1):
            yield f"id: {number}\nevent: tick\ndata: {number}\n\n"
            await asyncio.sleep(1)

    return StreamingResponse(ticks(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@app.websocket("/ws")
async def websocket(socket: WebSocket):
    """Says back what it hears, text as text and bytes as bytes."""
    await socket.accept()
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") is not None:
                await socket.send_text(message["text"])
            elif message.get("bytes") is not None:
                await socket.send_bytes(message["bytes"])
    except WebSocketDisconnect:
        pass


# For the tests: asked at the app's own port.


@app.get("/__hits")
async def count_of_hits():
    """How often each method and path was answered, and how often with 304."""
    return JSONResponse(dict(hits), headers={"cache-control": "no-store"})


@app.post("/__gate/{name}")
async def open_gate(name: str):
    gates.setdefault(name, asyncio.Event()).set()
    return Response(status_code=204)
