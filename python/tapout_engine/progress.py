"""Progress bars on standard error."""

from __future__ import annotations

from .errors import not_installed


def progress_bar(total: int, unit: str, label: str | None = None, off: bool = False):
    """A bar that vanishes when it closes, and is not there where stderr is no terminal."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise not_installed(error.name) from None
    # None leaves it to tqdm whether standard error is a terminal.
    return tqdm(total=total, unit=unit, desc=label, disable=True if off else None, leave=False)
