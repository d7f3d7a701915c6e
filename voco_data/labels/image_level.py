"""Labels of single images: the table `image_level_labels.csv` of the RATIC layout.

A row names an image of a series that shows active extravasation or an injury of the bowel.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from voco_data.errors import InputError
from voco_data.storage import atomic, read_table

GROUP_OF_INJURY = {"Active_Extravasation": "extravasation", "Bowel": "bowel"}
"""`injury_name` of the table to the name of the target group."""

ImageLabels = dict[str, dict[str, frozenset[int]]]
"""InstanceNumbers of the images that show an injury, by series and target group."""

_COLUMNS = ("series_id", "instance_number", "injury_name")


def read_image_labels(path: str | Path) -> ImageLabels:
    """Read and check the table. Series without a row show none of these injuries.

    Raises InputError if it cannot be read, lacks a column, or has another injury or a number that
    is no whole number.
    """
    file = Path(path)
    table = read_table(file, "image labels", _COLUMNS, blank_is_text=True)
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            f"{file}: expected the columns {', '.join(_COLUMNS)}, missing: {', '.join(missing)}"
        )
    unknown = sorted(set(table["injury_name"]) - set(GROUP_OF_INJURY))
    if unknown:
        raise InputError(
            f"{file}: expected injury_name {' or '.join(GROUP_OF_INJURY)}, got {unknown[0]!r}"
        )
    wrong = ~table["instance_number"].str.fullmatch(r"\d+")
    if wrong.any():
        value = table.loc[wrong, "instance_number"].iloc[0]
        raise InputError(f"{file}: expected whole numbers as instance_number, got {value!r}")
    labels: ImageLabels = {}
    for (series, injury), rows in table.groupby(["series_id", "injury_name"]):
        numbers = frozenset(int(number) for number in rows["instance_number"])
        labels.setdefault(str(series), {})[GROUP_OF_INJURY[str(injury)]] = numbers
    return labels


def write_image_labels(path: Path, labels: ImageLabels) -> None:
    """Write a table that `read_image_labels` reads, atomically. OSError if it cannot be written."""
    injury_of_group = {group: injury for injury, group in GROUP_OF_INJURY.items()}
    rows = [
        (series, number, injury_of_group[group])
        for series, groups in sorted(labels.items())
        for group, numbers in sorted(groups.items())
        for number in sorted(numbers)
    ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    atomic.write_text(path, table.to_csv(index=False))
