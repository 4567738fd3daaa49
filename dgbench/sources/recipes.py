"""Where each data set comes from: facts only, in the terms of ``source.py``.

Sources are tried in this order. A size or a checksum is here only where it is known from more than one copy
or from the host itself; the numbers of images are in ``datasets/``.
"""

from .. import registry
from ..errors import unknown
from .source import Content, File, Recipe, Source, plain


def names() -> list[str]:
    """The data sets that can be downloaded, as users write them."""
    return sorted({n for name, recipe in RECIPES.items() for n in (name, *recipe.users)}, key=str.lower)


def find(name: str) -> tuple[str, Recipe, Content]:
    """The recipe for a data set: its name, the recipe, what it holds. Case and punctuation do not count."""
    known = {plain(n): n for key, recipe in RECIPES.items() for n in (key, *recipe.users)}
    if plain(name) not in known:
        raise unknown("dataset", name, names())
    wanted = known[plain(name)]
    key = next(key for key, recipe in RECIPES.items() if wanted == key or wanted in recipe.users)
    recipe = RECIPES[key]
    return key, recipe, recipe.content or _declared(key, recipe)


def _declared(name: str, recipe: Recipe) -> Content:
    """What the data set's own class in ``datasets/`` declares."""
    cls: type = registry.find("datasets", name)
    from ..folders import FolderDataset

    assert issubclass(cls, FolderDataset)
    return Content(cls.folder, cls.domains, cls.num_classes, cls.counts, recipe.class_counts)


def _one(title: str, address: str, name: str, **known: object) -> Source:
    return Source(title, [File(address, name, **known)])  # type: ignore[arg-type]


def _oop(pattern: str) -> Source:
    """arXiv 2412.02856 splits DomainBed's five image sets in two; both halves together are the whole set."""
    return _one(
        "Hugging Face, DomainBed-OOP (both halves)", f"hf:PTeterwak/DomainBed_OOP:*{pattern}.tar.gz", "oop"
    )


_LILA = "https://storage.googleapis.com/public-datasets-lila/caltechcameratraps/"
_VISDA = "http://csr.bu.edu/ftp/visda/2019/multi-source/"
_MNIST_MD5 = {
    "train-images-idx3": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9912422),
    "train-labels-idx1": ("d53e105ee54ea40749a09fcbcd1e9432", 28881),
    "t10k-images-idx3": ("9fb629c4189551a2d022fa330f9573f3", 1648877),
    "t10k-labels-idx1": ("ec29112dd5afa0611ce80d1b7f02629c", 4542),
}
_SPAWRIOUS_PLACES = ("beach", "desert", "dirt", "jungle", "mountain", "snow")


def _mnist(title: str, base: str) -> Source:
    files = [
        File(f"{base}{name}-ubyte.gz", f"{name}-ubyte.gz", size, md5)
        for name, (md5, size) in _MNIST_MD5.items()
    ]
    return Source(title, files)


def _spawrious() -> Content:
    domains = [f"{part}/{place}" for part in (0, 1) for place in _SPAWRIOUS_PLACES]
    return Content(
        "spawrious224", domains, 4, dict.fromkeys(domains, 4 * 3168), dict.fromkeys(domains, [3168] * 4)
    )


RECIPES: dict[str, Recipe] = {
    "PACS": Recipe(
        page="http://sketchx.eecs.qmul.ac.uk/downloads",
        sources=[
            _one("Google Drive, DomainBed", "gdrive:1JFr8f805nMUelQWWmfnJR3y4_SYoN5Pd", "PACS.zip"),
            _one(
                "GitHub, MachineLearning2020",
                "https://github.com/MachineLearning2020/Homework3-PACS/archive/refs/heads/master.zip",
                "PACS-github.zip",
            ),
            _one("Hugging Face, flwrlabs", "hf:flwrlabs/pacs", "parquet"),
            _one("Google Drive, Dassl", "gdrive:1m4X4fROCCXMO0lRLrr6Zz9Vb3974NWhE", "PACS-dassl.zip"),
            _one("Google Drive, a user's copy", "gdrive:1WWi9tuUNFmUiw7Eirq_JT_hxYZv3J-Vv", "PACS-copy.zip"),
            _oop("PACS"),
        ],
        class_counts={
            "art_painting": (379, 255, 285, 184, 201, 295, 449),
            "cartoon": (389, 457, 346, 135, 324, 288, 405),
            "photo": (189, 202, 182, 186, 199, 280, 432),
            "sketch": (772, 740, 753, 608, 816, 80, 160),
        },
        flawed={"sketch/dog/n02103406_4068-1": "Dassl leaves it out as faulty; DomainBed keeps it"},
    ),
    "VLCS": Recipe(
        page="http://sketchx.eecs.qmul.ac.uk/downloads",
        sources=[
            _one("Google Drive, DomainBed", "gdrive:1skwblH1_okBwxWxmRsp9_qi15hyPpxg8", "VLCS.tar.gz"),
            _one(
                "Google Drive, a user's copy", "gdrive:1yDuLrJdPSvMbTmpq-7XmwG0HnJengD-T", "VLCS-copy.tar.gz"
            ),
            _oop("VLCS"),
        ],
        aliases={"caltech": "Caltech101", "pascal": "VOC2007", "voc": "VOC2007", "sun": "SUN09"},
        class_counts={
            "Caltech101": (237, 123, 118, 67, 870),
            "LabelMe": (80, 1209, 89, 43, 1235),
            "SUN09": (21, 933, 1036, 31, 1261),
            "VOC2007": (330, 699, 428, 420, 1499),
        },
    ),
    "OfficeHome": Recipe(
        page="https://www.hemanthdv.org/officeHomeDataset.html",
        sources=[
            _one(
                "Google Drive, the authors",
                "gdrive:0B81rNlvomiwed0V1YUxQdC1uOTg&resourcekey=0-2SNWq0CDAuWOBRRBL7ZZsw",
                "OfficeHome.zip",
            ),
            _one("Google Drive, DomainBed", "gdrive:1uY0pj7oFsjMxRwaD3Sxy0jgel0fsYXLC", "OfficeHome-db.zip"),
            _one("Hugging Face, flwrlabs", "hf:flwrlabs/office-home", "parquet"),
            _one(
                "Google Drive, a user's copy",
                "gdrive:1USXqK4nCvOAR5Ty4iwKcuCOrRJoRuDyU",
                "OfficeHome-copy.zip",
            ),
            _oop("office_home"),
            _one(
                "Cornell Box (resized: its pixels and its fingerprint differ from the original's)",
                "https://cornell.box.com/shared/static/xwsbubtcr8flqfuds5f6okqbr3z0w82t",
                "officehome_resized.tar.gz",
                md5="52d6039512434aa561d66de9c10828c3",
            ),
        ],
        aliases={"real": "Real World"},
    ),
    "TerraIncognita": Recipe(
        page="https://lila.science/datasets/caltech-camera-traps",
        steps="get eccv_18_all_images_sm.tar.gz and eccv_18_annotations.tar.gz; give the folder of both",
        licence="Community Data License Agreement, permissive variant (as LILA states it)",
        convert="terra_incognita",
        sources=[
            Source(
                "LILA, the authors",
                [
                    File(f"{_LILA}eccv_18_annotations.tar.gz", "eccv_18_annotations.tar.gz", 2997071),
                    File(f"{_LILA}eccv_18_all_images_sm.tar.gz", "eccv_18_all_images_sm.tar.gz", 6492615601),
                ],
            ),
            _oop("terra_incognita"),
        ],
        totals={
            24330: "these come from caltech_images_20210113.json; DomainBed's 24,788 from the five files of "
            "eccv_18_annotations.tar.gz"
        },
    ),
    "DomainNet": Recipe(
        page="https://ai.bu.edu/M3SDA",
        steps="get the six zips (cleaned version) and domain_net_duplicates.txt of DomainBed's repository; "
        "give the folder that holds them",
        licence="fair-use notice of its authors: research use only, not to be redistributed",
        convert="domain_net",
        sources=[
            Source(
                "Boston University, the authors; list of duplicates from DomainBed",
                [
                    File(
                        "https://raw.githubusercontent.com/facebookresearch/DomainBed/main/domainbed/misc/"
                        "domain_net_duplicates.txt",
                        "domain_net_duplicates.txt",
                    ),
                    *(
                        File(f"{_VISDA}{path}.zip", f"{path.split('/')[-1]}.zip")
                        for path in (
                            "groundtruth/clipart",
                            "infograph",
                            "groundtruth/painting",
                            "quickdraw",
                            "real",
                            "sketch",
                        )
                    ),
                ],
            ),
            _oop("domain_net"),
        ],
        users=("DomainNet7",),
        totals={596010: "this is the original version; the cleaned one needs domain_net_duplicates.txt"},
    ),
    "SVIRO": Recipe(
        page="https://sviro.kl.dfki.de",
        sources=[_one("DFKI, the authors", "https://sviro.kl.dfki.de/?wpdmdl=1731", "sviro.zip")],
    ),
    "Spawrious": Recipe(
        page="https://github.com/aengusl/spawrious",
        sources=[
            _one(
                "Dropbox, the authors",
                "https://www.dropbox.com/s/e40j553480h3f3s/spawrious224.tar.gz?dl=1",
                "spawrious224.tar.gz",
            )
        ],
        licence="see its page",
        content=_spawrious(),
        users=[f"Spawrious{kind}_{level}" for kind in ("O2O", "M2M") for level in ("easy", "medium", "hard")],
    ),
    "DigitsDG": Recipe(
        page="https://github.com/KaiyangZhou/Dassl.pytorch/blob/master/DATASETS.md",
        sources=[_one("Google Drive, Dassl", "gdrive:15V7EsHfCcfbKgsDmzQKj_DfXt_XYp_P7", "digits_dg.zip")],
    ),
    "Office31": Recipe(
        page="https://faculty.cc.gatech.edu/~judy/domainadapt",
        sources=[
            _one(
                "Cornell Box",
                "https://cornell.box.com/shared/static/3v2ftdkdhpz1lbbr4uhu0135w7m79p7q",
                "office31.tar.gz",
                md5="89818e596f3cdda1d56da0f077435faa",
            )
        ],
    ),
    "MNIST": Recipe(
        page="https://yann.lecun.com/exdb/mnist",
        licence="Creative Commons Attribution-Share Alike 3.0 (as commonly stated)",
        convert="mnist",
        users=("RotatedMNIST", "ColoredMNIST", "NoisyMNIST", "MNIST_MP", "MNIST_UP", "MNIST_UP_Anti"),
        sources=[
            _mnist("torchvision's mirror", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
            _mnist("Google's mirror", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
            _mnist("the author", "https://yann.lecun.com/exdb/mnist/"),
        ],
        unpacked=60_000_000,
        content=Content(
            "MNIST",
            files={
                "raw/train-images-idx3-ubyte": (
                    47040016,
                    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                ),
                "raw/train-labels-idx1-ubyte": (
                    60008,
                    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                ),
                "raw/t10k-images-idx3-ubyte": (
                    7840016,
                    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                ),
                "raw/t10k-labels-idx1-ubyte": (
                    10008,
                    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                ),
            },
        ),
    ),
    "Camelyon17": Recipe(
        page="https://wilds.stanford.edu/datasets",
        steps="CodaLab, which hosts WILDS, has been down since April 2026; ask for a copy of camelyon17_v1.0 "
        "and give the folder that holds metadata.csv and patches",
        licence="CC0",
        convert="camelyon17",
        sources=[_one("CodaLab, by the package wilds (down since April 2026)", "wilds:camelyon17", "wilds")],
    ),
    "FMoW": Recipe(
        page="https://wilds.stanford.edu/datasets",
        steps="CodaLab, which hosts WILDS, has been down since April 2026; ask for a copy of fmow_v1.1 and "
        "give the folder that holds rgb_metadata.csv, country_code_mapping.csv and images",
        licence="the Functional Map of the World Challenge Public License",
        convert="fmow",
        sources=[_one("CodaLab, by the package wilds (down since April 2026)", "wilds:fmow", "wilds")],
    ),
}
