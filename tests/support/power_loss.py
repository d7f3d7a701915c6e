"""A model of a disk that loses power: which trees of files a run may leave behind.

`DiskLog` records what a run in this process does to the files below a folder, through Python's
audit events, so that nothing writes around it. Arrow writes files from C++; their bytes are taken
when the next event comes. Calls of fsync and syncfs mark what is durable.

`DiskLog.after_crash` is the tree after a power failure between two operations. What was not durable
is kept or lost, each change of a name by itself and in no order, as a file system may do that
orders nothing. A rename may be durable while the bytes of the file are not: then they are whole,
missing, cut short, or zero in blocks of 4096, as on ext4 without auto_da_alloc.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from voco_data.storage import atomic

BLOCK = 4096
Fate = Literal["lost", "kept", "any", "names kept"]
"""What happens to changes that are not durable; `names kept`: bytes are lost, renames are not."""
FATES: tuple[Fate, ...] = ("lost", "kept", "any", "names kept")

Node = int | None
"""Number of a file; None for a folder."""


@dataclass(frozen=True)
class Operation:
    """One change of the disk, or a call that makes changes durable."""

    kind: Literal["link", "rename", "unlink", "bytes", "sync file", "sync folder", "sync all"]
    path: str = ""
    """Relative to the folder; for a rename the new path."""
    node: Node = None
    old_path: str = ""
    data: bytes = b""


@dataclass
class _File:
    durable: bytes = b""
    written: bytes = b""


@dataclass
class DiskLog:
    """The changes of the files below one folder, in their order."""

    folder: Path
    operations: list[Operation] = field(default_factory=list)
    _nodes: dict[str, Node] = field(default_factory=dict)
    """What each path is now."""
    _open: dict[str, bytes] = field(default_factory=dict)
    """Files that were opened for writing, with the bytes that were seen last."""
    _first: dict[str, bytes | None] = field(default_factory=dict)
    """The durable tree at the start: bytes of a file, None for a folder."""
    _n_files: int = 0
    _is_busy: bool = False

    def __post_init__(self) -> None:
        """Take the tree as it is: all of it is durable."""
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            self._first[name] = None if path.is_dir() else path.read_bytes()
            self._nodes[name] = None if path.is_dir() else self._number()

    @contextmanager
    def recording(self, patch: pytest.MonkeyPatch) -> Iterator[None]:
        """Record until the block ends."""
        fsync, sync_filesystem = os.fsync, atomic.sync_filesystem

        def record_fsync(descriptor: int) -> None:
            fsync(descriptor)
            name = self._name(Path(f"/proc/self/fd/{descriptor}").readlink())
            if name is not None:
                self._sync(name)

        def record_sync_filesystem(folder: Path) -> None:
            sync_filesystem(folder)
            self._look()
            self.operations.append(Operation("sync all"))

        patch.setattr(os, "fsync", record_fsync)
        patch.setattr(atomic, "sync_filesystem", record_sync_filesystem)
        _listeners.append(self)
        try:
            yield
        finally:
            _listeners.remove(self)
            patch.setattr(os, "fsync", fsync)
            patch.setattr(atomic, "sync_filesystem", sync_filesystem)
            self._look()

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """One audit event of Python, before the system call that it announces."""
        if self._is_busy or event not in _EVENTS:
            return
        self._is_busy = True
        try:
            self._look()
            self._apply(event, args)
        finally:
            self._is_busy = False

    def _apply(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if isinstance(args[0], int) or not isinstance(args[2], int):
                return
            if args[2] & (os.O_WRONLY | os.O_RDWR):
                self._open_file(_full(args[0], -1), args[2])
        elif event == "os.rename":
            self._rename(_full(args[0], args[2]), _full(args[1], args[3]))
        elif event == "os.mkdir":
            path = _full(args[0], args[2])
            if (name := self._name(path)) is not None and not path.exists():
                self._nodes[name] = None
                self.operations.append(Operation("link", name, None))
        elif event in ("os.remove", "os.rmdir"):
            path = _full(args[0], args[1])
            name = self._name(path)
            if name is None or name not in self._nodes:
                return
            if event == "os.rmdir" and any(path.iterdir()):
                return
            self._open.pop(name, None)
            self.operations.append(Operation("unlink", name, self._nodes.pop(name)))
        elif event in ("os.link", "os.symlink"):
            assert self._name(_full(args[1], -1)) is None, "links are not modelled"

    def _open_file(self, path: Path, flags: int) -> None:
        name = self._name(path)
        if name is None or path.is_dir():  # O_TMPFILE names the folder: no name, no trace
            return
        exists = path.exists()
        if not exists and not (flags & os.O_CREAT and path.parent.is_dir()):
            return
        if not exists:
            self._create(name)
        self._open[name] = path.read_bytes() if exists else b""

    def _create(self, name: str) -> None:
        self._nodes[name] = self._number()
        self.operations.append(Operation("link", name, self._nodes[name]))

    def _rename(self, old: Path, new: Path) -> None:
        old_name, name = self._name(old), self._name(new)
        if old_name is None and name is None:
            return
        assert old_name is not None, f"{old} comes from outside"
        assert name is not None, f"{new} leaves the folder"
        node = self._take(old_name)
        assert node is not None, "renames of folders are not modelled"
        self._open.pop(old_name, None)
        del self._nodes[old_name]
        self._nodes[name] = node
        self.operations.append(Operation("rename", name, node, old_path=old_name))

    def _sync(self, name: str) -> None:
        self._look()
        if (self.folder / name).is_dir():
            self.operations.append(Operation("sync folder", name))
        else:
            self.operations.append(Operation("sync file", name, self._take(name)))

    def _take(self, name: str) -> Node:
        """The node of a path, with its bytes, also if a library wrote it outside Python."""
        if name not in self._nodes:
            self._create(name)
        node = self._nodes[name]
        if node is not None and name not in self._open:
            self._open[name] = b""
            self._look()
        return node

    def _look(self) -> None:
        """Record the bytes that files opened for writing have got meanwhile."""
        for name, seen in self._open.items():
            data = (self.folder / name).read_bytes()
            if data != seen:
                self.operations.append(Operation("bytes", name, self._nodes[name], data=data))
                self._open[name] = data

    def _number(self) -> int:
        self._n_files += 1
        return self._n_files

    def _name(self, path: Path) -> str | None:
        """The path below the folder; None for other paths."""
        try:
            return str(path.relative_to(self.folder))
        except ValueError:
            return None

    def after_crash(self, count: int, fate: Fate, seed: int) -> dict[str, bytes | None]:
        """The tree after the first `count` operations and a power failure.

        Bytes of each file by its path, None for a folder. `seed` chooses between the outcomes.
        """
        rng = random.Random(seed)
        names: dict[str, Node] = {}
        files: dict[int, _File] = {}
        for number, (name, data) in enumerate(
            (item for item in self._first.items() if item[1] is not None), start=1
        ):
            assert data is not None
            names[name] = number
            files[number] = _File(data, data)
        names |= {name: None for name, data in self._first.items() if data is None}
        pending: list[Operation] = []
        for one in self.operations[:count]:
            if one.kind == "bytes":
                assert one.node is not None
                files.setdefault(one.node, _File()).written = one.data
            elif one.kind == "sync file":
                assert one.node is not None
                file = files.setdefault(one.node, _File())
                file.durable = file.written
            elif one.kind == "sync folder":
                done = [change for change in pending if _parent(change.path) == one.path]
                pending = [change for change in pending if _parent(change.path) != one.path]
                for change in done:
                    _change(names, change)
            elif one.kind == "sync all":
                for change in pending:
                    _change(names, change)
                pending = []
                for file in files.values():
                    file.durable = file.written
            else:
                pending.append(one)
        share = {"lost": 0.0, "kept": 1.0, "names kept": 1.0}.get(fate, rng.random())
        for change in pending:
            if rng.random() < share:
                _change(names, change)
        return {
            name: None if node is None else _bytes_left(files.get(node, _File()), fate, rng)
            for name, node in sorted(names.items())
            if all(_up in names for _up in _parents(name))
        }


def _bytes_left(file: _File, fate: Fate, rng: random.Random) -> bytes:
    if file.durable == file.written or fate == "kept":
        return file.written
    outcome = "lost" if fate == "lost" else rng.choice(("whole", "lost", "cut", "hole", "zeros"))
    if outcome == "lost":
        return file.durable
    data = bytearray(file.written)
    if outcome == "cut":
        return bytes(data[: rng.randrange(len(data) + 1)])
    if outcome == "zeros":
        return bytes(len(data))
    if outcome == "hole" and data:
        start = rng.randrange(-(-len(data) // BLOCK)) * BLOCK
        end = min(len(data), start + BLOCK)
        data[start:end] = bytes(end - start)
    return bytes(data)


def _change(names: dict[str, Node], change: Operation) -> None:
    """Apply a change of names, whatever became of the changes before it."""
    if change.kind == "unlink":
        names.pop(change.path, None)
        return
    if change.kind == "rename" and names.get(change.old_path) == change.node:
        names.pop(change.old_path, None)
    names[change.path] = change.node


def _parent(name: str) -> str:
    return str(Path(name).parent)


def _parents(name: str) -> list[str]:
    return [str(parent) for parent in Path(name).parents if str(parent) != "."]


def _full(path: Any, folder: Any) -> Path:
    """The absolute path of an argument of an audit event."""
    base = Path.cwd() if folder in (-1, None) else Path(f"/proc/self/fd/{folder}").readlink()
    return Path(os.path.normpath(base / os.fsdecode(path)))


def write_tree(tree: dict[str, bytes | None], folder: Path) -> Path:
    """Make a folder with these files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in tree.items():
        path = folder / name
        if data is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(data)
    for name, data in tree.items():
        if data is not None and name.startswith("private/"):
            (folder / name).chmod(0o600)
    return folder


def read_tree(folder: Path) -> dict[str, bytes | None]:
    """All files and folders below one, as `DiskLog.after_crash` gives them."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


_EVENTS = frozenset(
    {
        "open",
        "os.rename",
        "os.mkdir",
        "os.remove",
        "os.rmdir",
        "os.truncate",
        "os.link",
        "os.symlink",
    }
)
_listeners: list[DiskLog] = []


def _hear(event: str, args: tuple[Any, ...]) -> None:
    for log in _listeners:
        log.hear(event, args)


sys.addaudithook(_hear)  # Python cannot remove it; it does nothing while nobody listens
