"""What a person does when no source of a data set works."""

from pathlib import Path

from .source import Content, File, Recipe


def layout(content: Content) -> str:
    """What a data set's folder holds, in a few words."""
    return f"{{{', '.join(content.domains)}}}/CLASS" if content.domains else ", ".join(content.files)


def steps(name: str, recipe: Recipe, content: Content, data_dir: Path) -> str:
    """Where to get a data set by hand, and what to put where."""
    again = f"python -m dgbench.download --dataset {name} --data_dir {data_dir}"
    lines = [
        f"Get {name} by hand:",
        "  1. With a browser, from one of",
        f"       {recipe.page}",
        *(f"       {_link(file)}   ({source.title})" for source in recipe.sources for file in source.files),
        *([f"     {recipe.steps}"] if recipe.steps else []),
        f"  2. {again} --source FILE_OR_FOLDER",
        f"     or put it at {data_dir / content.folder}, in it {layout(content)}",
        f"  3. {again} --verify",
    ]
    return "\n".join(lines)


def _link(file: File) -> str:
    scheme, _, rest = file.address.partition(":")
    if scheme == "gdrive":
        return f"https://drive.google.com/uc?id={rest}"
    return f"https://huggingface.co/datasets/{rest.partition(':')[0]}" if scheme == "hf" else file.address
