"""A frozen split: a test set and folds by patient, which is only ever appended to.

A patient stays in the group that it was once given, whoever is added later and whichever label is
corrected. Patients of one family, who share a volume, come into one group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from voco_data.errors import InputError
from voco_data.selection.families import find_families

FORMAT, VERSION = "voco split", 1
"""Name and version of the file; see docs/splits.md."""
TEST_SHARE = 0.2
"""Share of the patients in the test set: 20 %, as in the paper."""
N_FOLDS = 5
MAX_FOLDS = 1000
SEED = 0


@dataclass(frozen=True, slots=True)
class Addition:
    """Patients that were added at one time, by group. All groups are sorted."""

    when: str
    """UTC, ISO 8601; empty if it is not known."""
    test: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]

    @property
    def count(self) -> int:
        """How many patients."""
        return len(self.test) + sum(map(len, self.folds))


@dataclass(frozen=True, slots=True)
class Split:
    """Patients of the test set and of each fold, in the order in which they were added.

    Raises InputError for a patient in two groups, and for shares that are no shares.
    """

    seed: int = SEED
    """Seed of the order in which new families are placed."""
    test_share: float = TEST_SHARE
    """Share of the patients in the test set; the folds share the others equally."""
    n_folds: int = N_FOLDS
    additions: tuple[Addition, ...] = ()
    withdrawn: int = 0
    """How many patients `voco forget` has taken out. Groups that they leave empty are filled first
    when patients are added."""

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1 or not 2 <= self.n_folds <= MAX_FOLDS:
            raise InputError(
                "split: expected a test share between 0 and 1 and 2 to 1000 folds, got "
                f"{self.test_share} and {self.n_folds}"
            )
        if any(len(addition.folds) != self.n_folds for addition in self.additions):
            raise InputError(f"split: expected {self.n_folds} folds in each addition")
        everyone = [patient for group in (self.test, *self.folds) for patient in group]
        if len(set(everyone)) != len(everyone):
            raise InputError("split: a patient is in more than one group")

    @property
    def test(self) -> tuple[str, ...]:
        """Test patients, sorted. Held out from training and from the choice of thresholds."""
        return tuple(sorted(patient for added in self.additions for patient in added.test))

    @property
    def folds(self) -> tuple[tuple[str, ...], ...]:
        """Validation patients of each fold, sorted; a fold's model trains on the other folds."""
        return tuple(
            tuple(sorted(patient for added in self.additions for patient in added.folds[fold]))
            for fold in range(self.n_folds)
        )

    @property
    def groups(self) -> dict[str, int]:
        """Patient to its group: 0 is the test set, 1 the first fold."""
        return {
            patient: number
            for number, group in enumerate((self.test, *self.folds))
            for patient in group
        }

    @property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of seed and groups. Dates are no part of it."""
        values = {"seed": self.seed, "test": self.test, "folds": self.folds}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def training(self, fold: int) -> tuple[str, ...]:
        """Training patients of the model of `fold`: those of all other folds, sorted."""
        others = (group for number, group in enumerate(self.folds) if number != fold)
        return tuple(sorted(patient for group in others for patient in group))

    def add(
        self,
        patient_ids: Iterable[str],
        *,
        linked: Iterable[tuple[str, str]] = (),
        when: str = "",
    ) -> Split:
        """The split with the patients that it lacks; itself if it lacks none. Nobody moves.

        A new patient whose family (by `linked`) is in a group comes into this group; if the family
        is in several, into the first of them, the test set before the folds. The other new families
        are placed one by one, in the order of a hash of seed and patient id, each into the group
        that is then furthest below its share: the one with the largest share x (patients so far +
        size of the family) - patients in the group. So a group of single patients never exceeds its
        share by a whole patient. The first patients fill every group, whatever the shares.

        The result depends on the sets of patients and links, not on their order. Raises InputError
        if the first patients are too few for a test set and the folds.
        """
        groups = self.groups
        new = sorted(set(patient_ids) - groups.keys())
        if not new:
            return self
        family_of = find_families([*groups, *new], linked)
        home: dict[str, int] = {}
        for patient, group in groups.items():
            family = family_of[patient]
            home[family] = min(group, home.get(family, group))
        members: dict[str, list[str]] = {}
        for patient in new:
            members.setdefault(family_of[patient], []).append(patient)
        if not self.additions and len(members) <= self.n_folds:
            raise self._too_few(len(new), len(members))
        placed = self._place(members, home)
        parts: list[list[str]] = [[] for _ in range(self.n_folds + 1)]
        for family, group in placed.items():
            parts[group] += members[family]
        test, *folds = (tuple(sorted(part)) for part in parts)
        addition = Addition(when=when, test=test, folds=tuple(folds))
        return replace(self, additions=(*self.additions, addition))

    def _place(self, members: Mapping[str, list[str]], home: Mapping[str, int]) -> dict[str, int]:
        """New families to groups, by the rule of `add`."""
        fold_share = (1 - self.test_share) / self.n_folds
        shares = [self.test_share] + [fold_share] * self.n_folds
        counts = [len(self.test), *map(len, self.folds)]
        placed = {family: home[family] for family in members if family in home}
        for family, group in placed.items():
            counts[group] += len(members[family])
        free = sorted(
            (family for family in members if family not in home),
            key=lambda family: min(_hash(self.seed, patient) for patient in members[family]),
        )
        for position, family in enumerate(free):
            size = len(members[family])
            total = sum(counts) + size
            empty = [group for group, count in enumerate(counts) if count == 0]
            choice = empty if len(free) - position <= len(empty) else range(len(counts))
            # Rounded, so that equal groups are equal, and the first of them is taken.
            group = max(choice, key=lambda g: round(shares[g] * total - counts[g], 9))
            counts[group] += size
            placed[family] = group
        return placed

    def _too_few(self, patients: int, families: int) -> InputError:
        if patients <= self.n_folds:
            return InputError(
                f"split: {patients} patients are too few for a test set and {self.n_folds} folds; "
                f"at least {self.n_folds + 1} are needed"
            )
        return InputError(
            f"split: {patients} patients share so many volumes that they are {families} families, "
            f"too few for a test set and {self.n_folds} folds"
        )

    def restrict(self, patient_ids: Collection[str]) -> Split:
        """The split of `patient_ids` alone. Raises InputError if a group is then empty."""
        kept = set(patient_ids)
        additions = []
        for added in self.additions:
            test, *folds = (
                tuple(patient for patient in group if patient in kept)
                for group in (added.test, *added.folds)
            )
            additions.append(Addition(added.when, test, tuple(folds)))
        split = replace(self, additions=tuple(each for each in additions if each.count))
        for name, group in zip(self.group_names, (split.test, *split.folds), strict=True):
            if not group:
                raise InputError(
                    f"split: none of the {len(kept)} patients is in the {name}; "
                    "select more patients, or make a split of these"
                )
        return split

    def keep_fraction(self, fraction: float, seed: int) -> Split:
        """The split of the test patients and of a `fraction` of the others, for label efficiency.

        Of n other patients, max(1, round(fraction * n)) are kept, in an order that follows from
        `seed` and their ids. So a smaller fraction is a part of a larger one. Raises InputError if
        a fold is then empty.
        """
        others = [patient for fold in self.folds for patient in fold]
        count = max(1, round(fraction * len(others)))
        # Another hash than that of `add`, by whose order patients are in the folds.
        ordered = sorted(others, key=lambda patient: _hash(seed, f"fraction\0{patient}"))
        return self.restrict({*self.test, *ordered[:count]})

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the groups for messages, the test set first."""
        return ("test set", *(f"fold {fold + 1} of {self.n_folds}" for fold in range(self.n_folds)))

    def count_separated_families(self, linked: Iterable[tuple[str, str]]) -> int:
        """How many families are in several groups: their link came after their placing."""
        groups = self.groups
        found: dict[str, set[int]] = {}
        for patient, family in find_families(groups, linked).items():
            found.setdefault(family, set()).add(groups[patient])
        return sum(len(numbers) > 1 for numbers in found.values())

    def to_json(self) -> str:
        """The text of a split file."""
        values: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "seed": self.seed,
            "test_share": self.test_share,
            "n_folds": self.n_folds,
            "additions": [
                {"when": added.when, "count": added.count} | asdict(added)
                for added in self.additions
            ],
        }
        if self.withdrawn:
            values["withdrawn"] = self.withdrawn
        return json.dumps(values, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Split:
        """Parse `to_json`, or the `split.json` of a run of an older version.

        Raises InputError if the text is no split, or has patients in two groups or none in a group.
        """
        try:
            data = json.loads(text)
            split = cls._from_values(data) if "format" in data else cls._from_older_run(data)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            # Without the error's own words, which may repeat what is in the file.
            raise InputError(
                f"split: expected a file that voco split made, version {VERSION}"
            ) from error
        if not split.withdrawn and not all((split.test, *split.folds)):
            raise InputError("split: expected patients in the test set and in every fold")
        return split

    @classmethod
    def _from_values(cls, data: dict[str, Any]) -> Split:
        if data["format"] != FORMAT or data["version"] != VERSION:
            raise ValueError("another format or version")
        additions = tuple(
            Addition(
                when=str(added["when"]),
                test=_ids(added["test"]),
                folds=tuple(_ids(fold) for fold in added["folds"]),
            )
            for added in data["additions"]
        )
        shares = int(data["seed"]), float(data["test_share"]), int(data["n_folds"])
        return cls(*shares, additions, int(data.get("withdrawn", 0)))

    @classmethod
    def _from_older_run(cls, data: dict[str, Any]) -> Split:
        folds = tuple(_ids(fold) for fold in data["folds"])
        addition = Addition(when="", test=_ids(data["test"]), folds=folds)
        return cls(seed=int(data["seed"]), n_folds=len(folds), additions=(addition,))


def _hash(seed: int, patient: str) -> bytes:
    """A hash by which patients are ordered."""
    return hashlib.sha256(f"{seed}\0{patient}".encode(errors="surrogateescape")).digest()


def _ids(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("patient ids must be lists of texts")
    return tuple(values)
