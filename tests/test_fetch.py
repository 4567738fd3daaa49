"""Transfers from a real server on loopback that is slow, wrong, absent or hangs up."""

import hashlib
import random
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from loopback import Server

from dgbench.sources import fetch as module
from dgbench.sources.fetch import FetchError, fetch
from dgbench.sources.source import File

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA).hexdigest()


def _file(server: Server, **options: Any) -> File:
    known = {key: options.pop(key) for key in ("size", "md5", "sha256") if key in options}
    return File(server.add("data.bin", options.pop("data", DATA), **options), "data.bin", **known)


def test_a_good_file_is_checked_and_leaves_nothing_else(server: Server, tmp_path: Path) -> None:
    [path] = fetch(_file(server, size=len(DATA), md5=MD5, sha256=SHA256), tmp_path)
    assert path.read_bytes() == DATA
    assert [p.name for p in tmp_path.iterdir()] == ["data.bin"]
    fetch(_file(server, size=len(DATA), md5=MD5, sha256=SHA256), tmp_path)
    assert len(server.requests) == 1  # it is there: only checked


def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    target = server.add("target.bin", DATA)
    assert fetch(_file(server, location=target), tmp_path)[0].read_bytes() == DATA


def test_an_empty_file_is_a_file(server: Server, tmp_path: Path) -> None:
    assert fetch(_file(server, data=b""), tmp_path)[0].read_bytes() == b""


def test_a_cut_connection_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    [path] = fetch(_file(server, cuts=[100_000, 50_000], sha256=SHA256), tmp_path)
    assert path.read_bytes() == DATA
    assert server.ranges("data.bin") == [None, "bytes=100000-", "bytes=150000-"]


def test_without_range_support_it_starts_again(server: Server, tmp_path: Path) -> None:
    [path] = fetch(_file(server, cuts=[100_000], ranges=False), tmp_path)
    assert path.read_bytes() == DATA
    assert server.ranges("data.bin") == [None, "bytes=100000-"]


def test_a_server_that_always_cuts_is_given_up_and_keeps_what_came(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"ended after 1000 of 300000 bytes \(6 attempts\)"):
        fetch(_file(server, cuts=[1000] * 99, ranges=False), tmp_path)
    assert (tmp_path / "data.bin.part").stat().st_size == 1000
    server.routes["/data.bin"].cuts.clear()
    server.routes["/data.bin"].ranges = True
    assert fetch(File(f"http://127.0.0.1:{server.server_port}/data.bin", "data.bin"), tmp_path)
    assert server.ranges("data.bin")[-1] == "bytes=1000-"


def test_a_file_that_changed_at_the_server_is_not_spliced(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError):
        fetch(_file(server, data=b"old" * 100_000, cuts=[900] * 99, ranges=False), tmp_path)
    assert fetch(_file(server, etag='"2"'), tmp_path)[0].read_bytes() == DATA


def test_a_part_from_another_address_is_not_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    assert fetch(_file(server), tmp_path)[0].read_bytes() == DATA
    assert server.ranges("data.bin") == [None]


def test_a_part_that_is_longer_than_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError):
        fetch(_file(server, data=DATA * 2, cuts=[400_000] * 99, ranges=False, etag=""), tmp_path)
    assert fetch(_file(server, etag=""), tmp_path)[0].read_bytes() == DATA


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path, status: int) -> None:
    assert fetch(_file(server, statuses=[status, status]), tmp_path)[0].read_bytes() == DATA
    assert len(server.requests) == 3


def test_an_absent_file_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="404"):
        fetch(File(f"http://127.0.0.1:{server.server_port}/none", "none"), tmp_path)
    assert len(server.requests) == 1


def test_a_truncated_file_with_an_honest_header(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"offers 200000 bytes of data\.bin instead of 300000"):
        fetch(_file(server, data=DATA[:200_000], size=len(DATA)), tmp_path)
    assert len(server.requests) == 1


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    with pytest.raises(FetchError, match="timed out"):
        fetch(_file(server, slow=1.0), tmp_path)


def test_a_host_that_refuses(server: Server, tmp_path: Path) -> None:
    server.server_close()
    with pytest.raises(FetchError, match="refused"):
        fetch(File(f"http://127.0.0.1:{server.server_port}/x", "x"), tmp_path)


@pytest.mark.parametrize("known", [{"md5": "0" * 32}, {"sha256": "0" * 64}])
def test_a_wrong_checksum_deletes_the_file(server: Server, tmp_path: Path, known: dict[str, str]) -> None:
    with pytest.raises(FetchError, match=f"wrong {next(iter(known))} checksum"):
        fetch(_file(server, **known), tmp_path)
    assert not any(tmp_path.iterdir())
    assert len(server.requests) == 1


def test_a_wrong_file_that_was_there_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"damaged on the disk")
    assert fetch(_file(server, sha256=SHA256), tmp_path)[0].read_bytes() == DATA


def test_an_unknown_address(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="begins with http, https, gdrive, hf or wilds"):
        fetch(File("file:///etc/hostname", "x"), tmp_path)


# hosts that need another library


def _fake(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**functions))


def test_google_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, output: str, resume: bool) -> str:
        assert url == "https://drive.google.com/uc?id=ID" and resume
        Path(output).write_bytes(DATA)
        return output

    _fake(monkeypatch, "gdown", download=download)
    assert fetch(File("gdrive:ID", "x.zip", sha256=SHA256), tmp_path)[0].read_bytes() == DATA


def test_google_drive_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(**_: Any) -> None:
        raise RuntimeError("Cannot retrieve the public link\nof the file")

    _fake(monkeypatch, "gdown", download=download)
    with pytest.raises(FetchError, match=r"Google Drive: Cannot retrieve the public link$"):
        fetch(File("gdrive:ID", "x.zip"), tmp_path)
    _fake(monkeypatch, "gdown", download=lambda **_: None)
    with pytest.raises(FetchError, match="quota"):
        fetch(File("gdrive:ID", "x.zip"), tmp_path)


def test_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(name: str, repo_type: str, allow_patterns: list[str], local_dir: str) -> str:
        asked.append((name, repo_type, *allow_patterns))
        for path in ("data/a.parquet", ".cache/huggingface/a.lock"):
            (Path(local_dir) / path).parent.mkdir(parents=True)
            (Path(local_dir) / path).touch()
        return local_dir

    asked: list[Any] = []
    _fake(monkeypatch, "huggingface_hub", snapshot_download=snapshot)
    assert fetch(File("hf:a/b", "one"), tmp_path) == [tmp_path / "one/data/a.parquet"]
    fetch(File("hf:a/b:*PACS.tar.gz", "two"), tmp_path)
    assert asked == [("a/b", "dataset", "*.parquet"), ("a/b", "dataset", "*PACS.tar.gz")]


@pytest.mark.parametrize("address", ["gdrive:ID", "hf:a/b", "wilds:fmow"])
def test_a_missing_extra_is_named(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gdown", "huggingface_hub", "wilds"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(FetchError, match=r"pip install 'dgbench\[(download|wilds)\]'"):
        fetch(File(address, "x"), tmp_path)
