"""Files from the internet: from the first address that has them, resumed where they broke off, and checked."""

from __future__ import annotations

import http.client
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from pathlib import Path

import ratlip_cli
from ratlip_cli.data.archives import check_archive, is_archive, md5
from ratlip_cli.errors import DataError
from ratlip_cli.files import locked, writing
from ratlip_cli.progress import Progress, silent

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""

ATTEMPTS = 4
"""Times in a row that an address may bring nothing new before the next address is tried."""

BACK_OFF = 1.0
"""Seconds before the second attempt; doubled for each further one."""

MEGABYTE = 1_000_000
"""Bytes in a unit of progress."""

_CHUNK = 2**18
_LARGEST_PAGE = 2**20
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may be others in a moment."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that a dataset is made from."""

    name: str
    addresses: tuple[str, ...]  # Tried in this order.
    page: str  # Where a person gets it when they are all dead.
    md5: str | None = None  # As its publisher gives it; None where nobody does.


def google_drive(file: str, resource_key: str | None = None) -> tuple[str, str]:
    """Return the two addresses of a file on Google Drive; files of before 2021 have a resource key besides."""
    query = {"id": file, "export": "download", "confirm": "t"} | ({"resourcekey": resource_key} if resource_key else {})
    ending = urllib.parse.urlencode(query)
    return f"https://drive.usercontent.google.com/download?{ending}", f"https://drive.google.com/uc?{ending}"


def fetch(file: RemoteFile, folder: Path, progress: Progress = silent) -> Path:
    """Return the path of `file` in `folder`, downloading it where it is not there yet.

    What has arrived is kept when it breaks off or is interrupted, and the next call goes on from there. The file
    appears under its name once it is whole: its MD5 is right or, where nobody published one, its archive can be read
    to the end.

    Raises DataError where no address gives the file, with what each said, or where another process is fetching it;
    RatlipError where the folder cannot be written.
    """
    target = folder / file.name
    if target.is_file():
        return target
    with writing(target):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{file.name}.lock", removes=True) as free:
            if not free:
                raise DataError(f"another ratlip is downloading {target} at this moment; wait for it to end.")
            return _fetch(file, target, progress)


def _fetch(file: RemoteFile, target: Path, progress: Progress) -> Path:
    partial = target.with_name(f".{file.name}.part")
    refusals = []
    for address in file.addresses:
        try:
            _fetch_from(address, file, partial, progress)
        except _Refused as refusal:
            refusals.append(f"{urllib.parse.urlsplit(address).netloc} {refusal}")
        else:
            partial.replace(target)
            return target
    raise DataError(f"cannot download {file.name} ({'; '.join(refusals)}): get it by hand from {file.page}")


class _Refused(Exception):
    """Why an address does not give the file, as the end of a sentence that begins with its name."""


class _Broken(Exception):
    """Why an attempt failed that may be repeated, in the same words."""


def _fetch_from(address: str, file: RemoteFile, partial: Path, progress: Progress) -> None:
    """Fill `partial` with the whole file; raises _Refused where this address cannot."""
    failures = wrong = 0
    furthest = _size(partial)
    while True:
        try:
            _receive(address, file.name, partial, progress)
            damage = _damage(file, partial)
            if damage is None:
                return
            partial.unlink()
            wrong += 1
            raise _Refused(damage) if wrong == 2 else _Broken(damage)
        except _Broken as error:
            failures = 0 if _size(partial) > furthest else failures + 1
            furthest = max(furthest, _size(partial))
            if failures == ATTEMPTS:
                raise _Refused(str(error)) from error
            time.sleep(BACK_OFF * 2 ** max(failures - 1, 0))


def _receive(address: str, name: str, partial: Path, progress: Progress) -> None:
    """Make one request, for what `partial` lacks, and add what comes; raises _Broken where it is not all."""
    have = _size(partial)
    try:
        response = _open(address, have)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return  # Nothing is missing.
        words = f"answered {error.code} {error.reason}"
        if error.code == 416:
            partial.unlink(missing_ok=True)
        raise (_Broken(words) if error.code in _TRY_AGAIN or error.code == 416 else _Refused(words)) from error
    with response:
        part = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        if response.status == 206 and part is not None and int(part[1]) == have:
            total = int(part[2]) + 1 if part[3] == "*" else int(part[3])
        elif response.status == 200:
            have = 0  # It takes no notice of what is here.
        else:
            partial.unlink(missing_ok=True)
            raise _Broken("sent another part than it was asked for")
        with partial.open("ab") as opened:
            opened.truncate(have)
            for chunk in _chunks(response):
                opened.write(chunk)
                have += len(chunk)
                progress(f"download {name}", _megabytes(have), None if total is None else _megabytes(total), "MB")
    if total is not None and have != total:
        raise _Broken(f"broke off after {have} of {total} bytes")


def _open(address: str, start: int) -> http.client.HTTPResponse:
    """Ask for the bytes from `start` on, through Google Drive's page about large files where it comes up."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    headers = {"User-Agent": f"ratlip/{ratlip_cli.__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    confirmed = False
    while True:
        try:
            response: http.client.HTTPResponse = opener.open(
                urllib.request.Request(address, headers=headers), timeout=TIMEOUT
            )
            if response.headers.get_content_type() != "text/html":
                return response
            with response:
                page = _Page(response.read(_LARGEST_PAGE).decode("utf-8", "replace"), response.url)
        except urllib.error.HTTPError:
            raise
        except (http.client.HTTPException, OSError) as error:
            is_unknown = isinstance(error, urllib.error.URLError) and isinstance(error.reason, socket.gaierror)
            raise (_Refused if is_unknown else _Broken)(_words(error)) from error
        leads_to = page.confirmed_address()
        if leads_to is None or confirmed:
            raise _Refused(f"answered with a web page ('{page.title}') instead of the file")
        address, confirmed = leads_to, True


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (http.client.HTTPException, OSError) as error:
            raise _Broken(_words(error)) from error
        if not chunk:
            return
        yield chunk


class _Page(HTMLParser):
    """A web page that came in the place of a file: its title, and where Google Drive's "Download anyway" leads."""

    def __init__(self, text: str, address: str) -> None:
        super().__init__()
        self.title = ""
        self._in_title = False
        self._address = address
        self._action: str | None = None
        self._fields: list[tuple[str, str]] = []
        self.feed(text)

    def confirmed_address(self) -> str | None:
        """Return where the button leads, None where the page has none."""
        if self._action is None:
            return None
        target = urllib.parse.urlsplit(urllib.parse.urljoin(self._address, self._action))
        query = urllib.parse.urlencode([*urllib.parse.parse_qsl(target.query), *self._fields])
        return urllib.parse.urlunsplit(target._replace(query=query)) if target.scheme in ("http", "https") else None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._in_title = tag == "title"
        if tag == "form" and given.get("id") == "download-form":
            self._action = given.get("action", "")
        if tag == "input" and self._action is not None and given.get("type") == "hidden":
            self._fields.append((given.get("name", ""), given.get("value", "")))

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title = " ".join(f"{self.title} {data}".split())[:80]


def _damage(file: RemoteFile, partial: Path) -> str | None:
    """Return what is wrong with a file that has arrived, if anything is."""
    if file.md5 is not None:
        actual = md5(partial)
        return None if actual == file.md5 else f"sent other bytes: their MD5 is {actual}, not {file.md5}"
    damage = check_archive(partial) if is_archive(Path(file.name)) else None
    return None if damage is None else f"sent no whole archive: {damage}"


def _megabytes(size: int) -> int:
    return -(-size // MEGABYTE)


def _size(partial: Path) -> int:
    return partial.stat().st_size if partial.exists() else 0


def _words(error: Exception) -> str:
    """Return the reason of a broken connection, as the end of a sentence that begins with the address."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    told = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return f"cannot be reached: {' '.join(told.split()) or type(reason).__name__}"
