"""Get a data set, or check the one that is there.

    python -m dgbench.download --dataset PACS --data_dir DIR [--source PATH_OR_URL] [--verify]

Sources are tried in order; a transfer that was cut goes on where it stopped. The data set's folder appears
only when it is whole. Exit status: 0 it is there and whole, 1 ``--verify`` found something, 2 it is not
there.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from . import files, flags, progress
from .errors import UsageError, exit_on_usage_error
from .sources import convert, manifest, manual, parquet, recipes, unpack
from .sources.fetch import FetchError, digest, fetch
from .sources.source import Content, File, Source

ADDRESS = ("http://", "https://", "gdrive:", "hf:")


class Refused(Exception):
    """Why what a source gave is not the data set."""


class Job:
    """One data set on its way into ``data_dir``; everything unfinished lies in ``work``."""

    def __init__(self, dataset: str, data_dir: Path) -> None:
        self.name, self.recipe, self.content = recipes.find(dataset)
        self.data_dir = data_dir
        self.root = data_dir / self.content.folder
        if not self.root.exists() and (data_dir / self.name).is_dir():
            self.root = data_dir / self.name
        home = data_dir
        if not self.root.resolve().is_relative_to(data_dir.resolve()):
            self.root = self.root.resolve()  # a link: a rename needs both on the disk where the data will be
            home = self.root.parent
        self.work = home / ".dgbench-download" / self.content.folder

    def download(self, sources: Sequence[Source]) -> None:
        """Try the sources in order; ``UsageError`` after the manual steps when none has the data set."""
        for source in sources:
            print(f"{self.name} from {source.title}", flush=True)
            folder = self.work / hashlib.sha256(source.files[0].address.encode()).hexdigest()[:8]
            try:
                paths = [path for file in source.files for path in fetch(file, folder)]
                self.install(self.unpacked(paths), source.title, strict=source in self.recipe.sources)
                return
            except unpack.UnpackError as error:
                shutil.rmtree(folder, ignore_errors=True)  # what is broken must not be found there again
                reason = str(error)
            except Refused as error:
                reason = f"{error} (what came is kept; import it as it is with --source {folder})"
            except (FetchError, UsageError) as error:
                reason = str(error)
            print(f"  failed: {reason}", file=sys.stderr, flush=True)
            with suppress(OSError):  # unless a part of a file is in it, with which the next call goes on
                folder.rmdir()
        print(manual.steps(self.name, self.recipe, self.content, self.data_dir), file=sys.stderr)
        raise UsageError(f"no source has {self.name}; follow the steps above")

    def take(self, path: Path) -> None:
        """Import what the user has: a folder in any known layout, or one that holds archives, or one file."""
        try:
            if path.is_dir() and (places := self.plan(path)):
                self.place(places, str(path), strict=False, copy=True)
                return
            inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            packed = [
                p for p in inside if unpack.is_archive(p) or parquet.is_parquet(p) or p.suffix == ".txt"
            ]
            if not any(p.suffix != ".txt" for p in packed):
                raise Refused(
                    f"it holds no archive, no parquet file and no folders {manual.layout(self.content)}"
                )
            self.install(self.unpacked(packed), str(path), strict=False)
        except (Refused, unpack.UnpackError) as error:
            raise UsageError(f"{path} is not {self.name}: {error}") from error

    def unpacked(self, paths: Sequence[Path]) -> Path:
        """A new folder with the content of the files, each unpacked if it is an archive."""
        folder = _empty(self.work / "unpacked")
        tables = [path for path in paths if path.is_file() and parquet.is_parquet(path)]
        parquet.extract(tables, folder / "parquet")
        for i, path in enumerate(p for p in paths if p not in tables):
            if path.is_dir():
                path.rename(folder / str(i))
            elif unpack.is_archive(path):
                unpack.unpack(path, folder / str(i), self.recipe.unpacked)
            elif path.suffix == ".txt":
                shutil.copyfile(path, folder / path.name)
            else:
                unpack.unpack(path, folder / str(i))  # says what it is instead
        return folder

    def plan(self, folder: Path) -> list[convert.Place]:
        """What of ``folder`` goes where."""
        try:
            return convert.plan(self.recipe, self.content, folder)
        except (ValueError, LookupError, TypeError, AttributeError, FileNotFoundError) as error:
            raise Refused(f"its table of images is broken ({type(error).__name__}: {error})") from error

    def install(self, unpacked: Path, title: str, strict: bool) -> None:
        """Make the data set's folder from what was unpacked."""
        places = self.plan(unpacked)
        if not places:
            raise Refused(f"no folders {manual.layout(self.content)} in it")
        self.place(places, title, strict)

    def place(self, places: Sequence[convert.Place], title: str, strict: bool, copy: bool = False) -> None:
        """Put the files where they belong, count them, write the manifest, show the folder.

        strict: any other number of images than the known one is refused; else it is a warning.
        """
        ready = _empty(self.work / "ready")
        put = shutil.copyfile if copy else _link
        with progress.bar(f"placing {self.name}", len(places), "file") as bar:
            for source, target in places:
                if ".." in target.split("/") or target.startswith("/"):
                    raise Refused(f"it names {target!r}, which lies outside the data set's folder")
                (ready / target).parent.mkdir(parents=True, exist_ok=True)
                put(source, ready / target)
                bar.update()
        found = manifest.count(ready, self.content.domains)
        wrong, miscounted = manifest.incomplete(found, self.content), manifest.miscounted(found, self.content)
        wrong += _unlike(ready, self.content)
        total = sum(sum(classes.values()) for classes in found.values())
        miscounted += [why for number, why in self.recipe.totals.items() if number == total]
        if wrong or (strict and miscounted):
            raise Refused("; ".join((wrong + miscounted)[:5]))
        for line in miscounted:
            print(f"warning: {line}", file=sys.stderr)
        manifest.write(ready, {"dataset": self.name, "source": title, "counts": found})
        self.root.parent.mkdir(parents=True, exist_ok=True)
        os.replace(ready, self.root.resolve())  # a link stays
        shutil.rmtree(self.work, ignore_errors=True)


def _unlike(ready: Path, content: Content) -> list[str]:
    """Files with a known checksum that are missing or other files."""
    return [
        f"{name} is missing or not the known file"
        for name, (_, expected) in content.files.items()
        if not (ready / name).is_file() or digest(ready / name) != expected
    ]


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)  # an image with two labels is in two places
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def get(job: Job, source: str | None) -> None:
    """Download or import, unless the data set is there; one process at a time."""
    if job.root.is_dir() and any(job.root.iterdir()):
        wrong = manifest.differences(job.root, job.content)
        if wrong:
            raise UsageError(
                f"{job.root} is there but not whole ({len(wrong)}: {'; '.join(wrong[:3])}); see all with "
                "--verify, then move it away and run this again"
            )
        print(f"{job.name} is in {job.root} already; --verify checks every file")
        return
    print(f"{job.name}: {job.recipe.page}\nlicence: {job.recipe.licence}", flush=True)
    job.work.mkdir(parents=True, exist_ok=True)
    with files.lock(job.work.with_name(f"{job.work.name}.lock")) as free:
        if not free:
            raise UsageError(f"another process is getting {job.name} into {job.data_dir}; wait for it")
        if source is None:
            job.download(job.recipe.sources)
        elif source.startswith(ADDRESS):
            job.download([Source(source, [File(source, _file_name(source))])])
        elif Path(source).exists():
            job.take(Path(source))
        else:
            raise UsageError(f"no file or folder {source!r}; --source takes one, or {', '.join(ADDRESS)}...")
    total = sum(map(sum, (c.values() for c in manifest.count(job.root, job.content.domains).values())))
    print(f"{job.name} is in {job.root}" + (f": {total:,} images" if total else ""))


def _file_name(address: str) -> str:
    return address.split("?")[0].rstrip("/").rpartition("/")[2].replace(":", "_") or "download"


def verify(job: Job) -> int:
    """Print what is wrong with the folder on disk; 1 if anything is."""
    if not job.root.is_dir():
        raise UsageError(f"there is no {job.root}; without --verify this command gets {job.name}")
    lines = manifest.check(job.root, job.content)
    for line in lines:
        print(line)
    how = "the known files" if job.content.files else "the known numbers; every image was decoded"
    if manifest.read(job.root) is not None:
        how = "its manifest"
        found = manifest.count(job.root, job.content.domains)
        for note in manifest.miscounted(found, job.content):
            print(f"note: {note}")
    print(
        f"{job.name} in {job.root}, compared with {how}: " + (f"{len(lines)} problems" if lines else "whole")
    )
    return 1 if lines else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.download", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dataset", required=True, help=f"one of: {', '.join(recipes.names())}")
    parser.add_argument("--data_dir", type=Path, required=True, help="the folder that holds the data sets")
    parser.add_argument(
        "--source",
        metavar="PATH_OR_URL",
        help="import this: a folder, a zip, a tar, parquet files, a URL, gdrive:ID or hf:OWNER/NAME",
    )
    parser.add_argument("--verify", action="store_true", help="check what is on disk, get nothing")
    args = parser.parse_args(argv)
    if args.verify and args.source:
        raise UsageError("--verify checks what is on disk; choose one of: --verify, --source")
    job = Job(args.dataset, args.data_dir)
    try:
        if args.verify:
            return verify(job)
        get(job, args.source)
        return 0
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except OSError as error:
        raise UsageError(f"{error}; --data_dir needs a folder that can be written, with room") from error


if __name__ == "__main__":
    exit_on_usage_error(main)
