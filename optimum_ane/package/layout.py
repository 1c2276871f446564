"""What the files of an exported package are called, and where the program is."""

from __future__ import annotations

from pathlib import Path

from optimum_ane.errors import PackageError

HTML_REPORT = "export_report.html"
PICTURE = "card.svg"


MLPACKAGE_SUFFIX = ".mlpackage"
MLPACKAGE = f"model{MLPACKAGE_SUFFIX}"
"""The program of packages that hold one."""


ANE_CONFIG = "ane_config.json"


EXPORT_REPORT = "export_report.json"
GENERATION_CONFIG = "generation_config.json"
"""How a language model writes by default: ends of sequences, sampling."""


CARD = "README.md"


CARD_AND_REPORT = ("README.md", "card.svg", "export_report.html")
"""What is in a package for people: it may be edited or made anew, so `files` leaves it out."""


def package_directory(package: str | Path) -> Path:
    """The directory of an exported package, of which the .mlpackage inside may be named as well."""
    path = Path(package).expanduser()
    if path.suffix == MLPACKAGE_SUFFIX and (path.parent / ANE_CONFIG).is_file():
        return path.parent
    return path


def find_mlpackage(package: str | Path) -> Path:
    """Finds the .mlpackage: the path itself, or the one inside an exported directory.

    Raises:
        PackageError: There is none, or more than one.
    """
    path = Path(package).expanduser()
    if not path.exists():
        raise PackageError(f"{path} does not exist")
    if path.suffix == ".mlpackage" or (path / "Manifest.json").is_file():
        return path
    if not path.is_dir():
        raise PackageError(
            f"{path} is a file; name an .mlpackage folder, or the directory that an export wrote (convert a model in "
            "the older .mlmodel format anew, to 'mlprogram')"
        )
    found = sorted(path.glob("*.mlpackage"))
    if len(found) != 1:
        several = (
            f"holds {', '.join(each.name for each in found)}: name one of them" if found else "holds no .mlpackage"
        )
        raise PackageError(f"{path} {several}")
    return found[0]
