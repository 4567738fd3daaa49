"""Bring one file to the disk: resumed where it broke off, whole or not at all, checked."""

import hashlib
import http.client
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__, files, progress
from ..errors import UsageError, extra
from .source import File

BLOCK = 1 << 18  # bytes
TIMEOUT = 60.0  # seconds without a byte
ATTEMPTS = 6  # in a row that bring nothing new
WAIT = 1.0  # seconds before the second attempt; doubled each time
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_HOPELESS = (ssl.SSLCertVerificationError, socket.gaierror)  # no such host: no attempt will help


class FetchError(Exception):
    """Why a file could not be had, in one line."""


class _Transient(FetchError):
    """Worth another attempt."""


def fetch(file: File, folder: Path) -> list[Path]:
    """Bring ``file`` into ``folder`` and check it; the paths it consists of.

    A transfer that was cut goes on where it stopped, also in another process. A file that is there already
    is only checked. ``FetchError`` says why it could not be had; a wrong file is deleted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scheme, _, rest = file.address.partition(":")
    target = folder / file.name
    if scheme in ("hf", "wilds"):
        return _FOLDERS[scheme](rest, target)
    if scheme not in ("http", "https", "gdrive"):
        raise FetchError(
            f"cannot fetch {file.address!r}; an address begins with http, https, gdrive, hf or wilds"
        )
    for last in (False, True):
        old = target.exists() or _partial(target).exists()
        if not target.exists():
            _google_drive(rest, target) if scheme == "gdrive" else _http(file, target)
        wrong = _wrong(target, file)
        if wrong is None:
            break
        target.unlink()
        if last or not old:  # what lay there may have been damaged, or the first half of another version
            raise FetchError(wrong)
    return [target]


def digest(path: Path, kind: str = "sha256") -> str:
    """The checksum of a file, hexadecimal."""
    state = hashlib.new(kind)
    with open(path, "rb") as opened:
        while block := opened.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def _wrong(path: Path, file: File) -> str | None:
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"{file.name} has {size} bytes instead of {file.size}"
    for kind, expected in (("md5", file.md5), ("sha256", file.sha256)):
        if expected is not None and not digest(path, kind).startswith(expected):
            return f"{file.name} has a wrong {kind} checksum ({digest(path, kind)} instead of {expected})"
    return None


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _http(file: File, target: Path) -> None:
    """Transfer with the standard library; attempts that bring nothing new are repeated ``ATTEMPTS`` times."""
    part = _partial(target)
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(file, part)
            break
        except _Transient as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= ATTEMPTS:
                raise FetchError(f"{error} ({failures} attempts)") from error
            time.sleep(min(60.0, WAIT * 2 ** (failures - 1)))
    part.replace(target)
    _validator(part).unlink(missing_ok=True)


def _transfer(file: File, part: Path) -> None:
    """One request: append to ``part`` what is missing of it."""
    have = _size(part)
    if have and have == file.size:
        return
    request = urllib.request.Request(file.address, headers=_headers(file, part, have))
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            _receive(response, file, part, have)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send, or the file has changed
            if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
                return
            part.unlink()
            raise _Transient("the file has become shorter at the server") from error
        kind = _Transient if error.code in TRANSIENT else FetchError
        raise kind(f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in files.DISK:
            raise
        reason = getattr(error, "reason", error)
        kind = FetchError if isinstance(reason, _HOPELESS) else _Transient
        raise kind(str(reason) or type(reason).__name__) from error


def _headers(file: File, part: Path, have: int) -> dict[str, str]:
    headers = {"User-Agent": f"dgbench/{__version__}", "Accept-Encoding": "identity"}
    if not have:
        return headers
    try:
        state = json.loads(_validator(part).read_text())
    except (OSError, ValueError):
        state = {}
    if state.get("address") != file.address:  # begun elsewhere: start again
        part.unlink()
        return headers
    headers["Range"] = f"bytes={have}-"
    if state.get("validator"):
        headers["If-Range"] = state["validator"]
    return headers


def _receive(response: Any, file: File, part: Path, have: int) -> None:
    start, total = 0, _number(response.headers.get("Content-Length"))
    if response.status == 206:
        span, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start, total = _number(span.partition("-")[0]) or 0, _number(whole)
        if start != have:
            raise _Transient(f"the server sent bytes from {start} instead of {have}")
    if file.size is not None and total is not None and total != file.size:
        raise FetchError(f"the server offers {total} bytes of {file.name} instead of {file.size}")
    etag = response.headers.get("ETag") or ""
    validator = response.headers.get("Last-Modified") if not etag or etag.startswith("W/") else etag
    files.replace_text(_validator(part), json.dumps({"address": file.address, "validator": validator}))
    with progress.bar(file.name, total, initial=start) as bar, open(part, "ab" if start else "wb") as opened:
        while block := response.read(BLOCK):
            opened.write(block)
            bar.update(len(block))
    if total is not None and _size(part) < total:
        raise _Transient(f"the connection ended after {_size(part)} of {total} bytes")


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdigit() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _google_drive(identifier: str, target: Path) -> None:
    gdown = _extra("gdown", "download")
    url = f"https://drive.google.com/uc?id={identifier}"
    got = _call("Google Drive", lambda: gdown.download(url=url, output=str(target), resume=True))
    if got is None or not target.exists():  # older versions of gdown print the reason and return None
        raise FetchError("Google Drive gave no file: it may be gone, private, or over its daily quota")


def _hugging_face(rest: str, target: Path) -> list[Path]:
    hub = _extra("huggingface_hub", "download")
    name, _, pattern = rest.partition(":")
    wanted = [pattern or "*.parquet"]

    def snapshot() -> str:
        return hub.snapshot_download(name, repo_type="dataset", allow_patterns=wanted, local_dir=str(target))

    folder = Path(_call("Hugging Face", snapshot))
    found = sorted(
        p for p in folder.rglob("*") if p.is_file() and ".cache" not in p.relative_to(folder).parts
    )
    if not found:
        raise FetchError(f"the data set {name} on Hugging Face has no file {wanted[0]}")
    return found


def _wilds(name: str, target: Path) -> list[Path]:
    package = _extra("wilds", "wilds")
    _call("wilds", lambda: package.get_dataset(dataset=name, root_dir=str(target), download=True))
    return [target]


_FOLDERS: dict[str, Callable[[str, Path], list[Path]]] = {"hf": _hugging_face, "wilds": _wilds}


def _extra(package: str, name: str) -> Any:
    try:
        return extra(package, package, name)
    except UsageError as error:
        raise FetchError(str(error)) from error


def _call(host: str, function: Callable[[], Any]) -> Any:
    """Run another library's download; whatever it raises is a reason to try the next source."""
    try:
        return function()
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        raise FetchError(f"{host}: {first or type(error).__name__}") from error
