"""The stores that a user means by a path or a URL: one store, a root, a pattern, the latest one."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from voco_data.errors import InputError
from voco_data.storage import (
    STORE_SUFFIX,
    Storage,
    is_url,
    open_storage,
    parent_storage,
    store_names,
)
from voco_data.store.keys import CATALOGUE, GROUP_METADATA

LATEST = "latest"


def choose_stores(places: Iterable[str | Path], profile: str) -> list[str | Path]:
    """Paths or URLs of all stores that `places` mean.

    A place is a store, or
    - a root: its one store of `profile`,
    - `ROOT/latest`: of several, the one whose catalogue was written last,
    - `ROOT/PATTERN`: all stores whose name matches, such as `pretrain-*.zarr`.

    Raises InputError for a root that has no store of the profile, or several, and for a pattern
    that matches none. A place of another kind stays as it is: opening it says what is wrong.
    """
    return [store for place in places for store in _find(place, profile)]


def choose_store(place: str | Path, profile: str) -> str | Path:
    """The one store that `place` means; see `choose_stores`. InputError if it means several."""
    found = choose_stores([place], profile)
    if len(found) > 1:
        raise InputError(f"{place}: expected one store, got {', '.join(_names(found))}; name one")
    return found[0]


def _find(place: str | Path, profile: str) -> list[str | Path]:
    text = str(place).rstrip("/")
    name = text.rpartition("/")[2]
    if any(sign in name for sign in "*?["):
        root = parent_storage(text)
        found = [n for n in _stores_of(root) if fnmatchcase(n, name)]
        if not found:
            raise InputError(f"{place}: expected a pattern of names of stores, it matches none")
        return [_join(root, n) for n in found]
    if name == LATEST and not _is_folder(place):
        root = parent_storage(text)
        return [_join(root, _latest(root, _of_profile(root, profile)))]
    if name.endswith(STORE_SUFFIX):
        return [place]
    storage = open_storage(place)
    if storage.size(GROUP_METADATA) is not None or not _stores_of(storage):
        return [place]  # a store, or neither: opening it says so
    named = _of_profile(storage, profile)
    if len(named) > 1:
        raise InputError(
            f"{place}: expected one store {profile}, got {', '.join(named)}; name one, or give "
            f"{text}/{LATEST} for the one that was written last"
        )
    return [_join(storage, named[0])]


def _of_profile(root: Storage, profile: str) -> list[str]:
    stores = _stores_of(root)
    named = [name for name in stores if name.rpartition("-")[0] == profile]
    if not named:
        raise InputError(
            f"{root}: expected a store {profile}-....zarr, got {', '.join(stores) or 'none'}"
        )
    return named


def _latest(root: Storage, names: list[str]) -> str:
    """The one whose catalogue was written last; one without a catalogue has had no run end."""
    times = {name: (root / name).last_written(CATALOGUE) for name in names}
    written = {name: time for name, time in times.items() if time is not None}
    if not written:
        raise InputError(f"{root}: expected a store that a run has filled, got {', '.join(names)}")
    return max(written, key=written.__getitem__)


def _stores_of(root: Storage) -> list[str]:
    folder = root.local_folder()
    return [] if folder is not None and not folder.is_dir() else store_names(root)


def _join(root: Storage, name: str) -> str | Path:
    folder = root.local_folder()
    return f"{root}/{name}" if folder is None else folder / name


def _is_folder(place: str | Path) -> bool:
    return not is_url(place) and Path(place).is_dir()


def _names(stores: list[str | Path]) -> list[str]:
    return [str(store).rpartition("/")[2] for store in stores]
