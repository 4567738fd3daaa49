"""Fixtures that several test files use."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from literal_runs import SHARED
from loopback import Server, serving

from dgbench import registry
from dgbench.sources import fetch


@pytest.fixture(scope="session", autouse=True)
def _own_image_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the user's cache."""
    os.environ["DGBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real MNIST and PACS images: $DGBENCH_DATA, or one beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("DGBENCH_DATA") or beside)
    if not path.is_dir():
        pytest.skip(f"no real images in {path}; set DGBENCH_DATA")
    return path


@pytest.fixture(scope="session")
def domainbed_sweep() -> Path:
    """The records of a real sweep of DomainBed's, in $DGBENCH_SHARED."""
    folder = SHARED / "domainbed_sweep"
    if not folder.is_dir():
        pytest.skip("no DomainBed sweep in DGBENCH_SHARED")
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A real server on loopback; downloads do not wait before they try again."""
    monkeypatch.setattr(fetch, "WAIT", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    with serving() as running:
        yield running


@pytest.fixture
def disk_takes() -> Iterator[Callable[[int], None]]:
    """Lets no file grow beyond some bytes, as a full disk does, until the test ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that a test loads is gone after it."""
    monkeypatch.setattr(registry, "_plugins", {})
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(registry, "_sources", {})
