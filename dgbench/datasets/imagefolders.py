"""ImageFolders: the user's own images."""

from pathlib import Path

from ..errors import UsageError
from ..folders import FolderDataset, subfolders


class ImageFolders(FolderDataset):
    """Any images: ``--data_dir`` itself holds ``domain/class/image``. Domains and classes are its folders."""

    @classmethod
    def root(cls, data_dir: Path | None) -> Path:
        if data_dir is None:
            raise UsageError("ImageFolders needs --data_dir, a folder that holds domain/class/image")
        if not subfolders(Path(data_dir)):
            raise UsageError(f"no domains in {data_dir}; it must hold folders domain/class/image")
        return Path(data_dir)

    @classmethod
    def domain_names(cls, data_dir: Path | None) -> tuple[str, ...]:
        return tuple(subfolders(cls.root(data_dir)))

    @classmethod
    def count_classes(cls, data_dir: Path | None) -> int:
        root = cls.root(data_dir)
        return len({name for domain in subfolders(root) for name in subfolders(root / domain)})
