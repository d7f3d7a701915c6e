"""A dataset as Croissant 1.1: JSON-LD that catalogues and loaders of data sets read.

The vocabulary is MLCommons', http://mlcommons.org/croissant/1.1. What it has no term for is one
JSON value under the key `voco`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Final

from voco_data.errors import InputError

Node = dict[str, Any]
"""One object of JSON-LD."""

CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.1"
NOT_GIVEN: Final = "not given"
"""The licence of a dataset whose publisher gave none."""

SPDX_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")
_URL: Final = re.compile(r"https?://[^\s/]\S*")
_OWN_LICENCE: Final = "LicenseRef-"
"""How SPDX begins the name of a licence that is not in its list."""

ZARR: Final = "application/vnd.zarr; version=3"
PARQUET: Final = "application/x-parquet"
BYTES: Final = "application/octet-stream"

_TERMS: Final = (
    "arrayShape",
    "citeAs",
    "column",
    "containedIn",
    "equivalentProperty",
    "extract",
    "field",
    "fileProperty",
    "fileObject",
    "fileSet",
    "format",
    "includes",
    "isArray",
    "isLiveDataset",
    "jsonPath",
    "key",
    "md5",
    "parentField",
    "path",
    "recordSet",
    "references",
    "regex",
    "repeated",
    "replace",
    "samplingRate",
    "separator",
    "source",
    "subField",
    "transform",
)
"""Terms of Croissant that `CONTEXT` names, each as `cr:<term>`."""

CONTEXT: Final[Node] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "name": {"@container": "@language"},
    "description": {"@container": "@language"},
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "voco": {"@id": "urn:voco:card", "@type": "@json"},
} | {term: f"cr:{term}" for term in _TERMS}
"""The context of Croissant 1.1, and our own key."""

REQUIRED: Final = ("creator", "datePublished", "license", "url")
"""Properties of a dataset that Croissant 1.1 requires and only its publisher can give."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What only the publisher of a dataset knows; None where nothing was given."""

    licence: str | None = None
    """An identifier of SPDX, or a URL."""
    name: str | None = None
    url: str | None = None
    """The page of the dataset."""
    creator: str | None = None
    """The organisation that made it."""
    citation: str | None = None
    """How to cite it: BibTeX or other text."""
    published: str | None = None
    """The day of publication, ISO 8601."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not value.strip():
                raise InputError(f"{name}: expected a text, got an empty one; leave it out")
        if self.licence is not None and not _is_licence(self.licence):
            raise InputError(
                f"licence: expected an identifier of SPDX, such as CC-BY-4.0, a URL, or "
                f"{_OWN_LICENCE}NAME for a licence of your own, got {self.licence!r}"
            )
        if self.url is not None and not _is_url(self.url):
            raise InputError(f"url: expected https://..., got {self.url!r}")
        if self.published is not None:
            try:
                date.fromisoformat(self.published)
            except ValueError as error:
                raise InputError(
                    f"published: expected a day such as 2026-01-31, got {self.published!r}"
                ) from error

    def properties(self) -> Node:
        """The properties that were given, and the licence in any case."""
        creator = None if self.creator is None else {"@type": "Organization", "name": self.creator}
        found = {
            "license": NOT_GIVEN if self.licence is None else licence_url(self.licence),
            "url": self.url,
            "creator": creator,
            "citeAs": self.citation,
            "datePublished": self.published,
        }
        return {key: value for key, value in found.items() if value is not None}


def _is_url(text: str) -> bool:
    return _URL.fullmatch(text) is not None


def _is_licence(text: str) -> bool:
    return SPDX_ID.fullmatch(text) is not None or _is_url(text)


def licence_url(licence: str) -> str:
    """The page of SPDX for an identifier of its list. A URL, and a licence of one's own, stay."""
    is_listed = SPDX_ID.fullmatch(licence) is not None and not licence.startswith(_OWN_LICENCE)
    return f"https://spdx.org/licenses/{licence}" if is_listed else licence


def missing_properties(document: Mapping[str, Any]) -> list[str]:
    """Required properties that a dataset lacks, by their names in Croissant."""
    return [
        name for name in REQUIRED if name not in document or document[name] in (None, NOT_GIVEN)
    ]


def dataset(
    *,
    name: str,
    description: str,
    version: str,
    publication: Publication,
    distribution: Sequence[Node],
    record_sets: Sequence[Node],
    extra: Mapping[str, Any],
) -> Node:
    """The whole document. `extra` are further properties."""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": publication.name or name,
        "description": description,
        "conformsTo": CONFORMS_TO,
        "version": version,
        **publication.properties(),
        **extra,
        "distribution": list(distribution),
        "recordSet": list(record_sets),
    }


def file_object(
    identifier: str, *, path: str, sha256: str, size: int, encoding: str, description: str
) -> Node:
    """One file at `path`, relative to the document."""
    return {
        "@type": "cr:FileObject",
        "@id": identifier,
        "name": path.rpartition("/")[2],
        "description": description,
        "contentUrl": path,
        "contentSize": f"{size} B",
        "encodingFormat": encoding,
        "sha256": sha256,
    }


def file_set(identifier: str, *, includes: str, encoding: str, description: str) -> Node:
    """All files whose path, relative to the document, matches the glob `includes`."""
    return {
        "@type": "cr:FileSet",
        "@id": identifier,
        "name": identifier,
        "description": description,
        "encodingFormat": encoding,
        "includes": includes,
    }


def record_set(identifier: str, *, key: str, description: str, fields: Sequence[Node]) -> Node:
    """A table of records; `key` is the name of the field that identifies one."""
    return {
        "@type": "cr:RecordSet",
        "@id": identifier,
        "name": identifier,
        "description": description,
        "key": {"@id": f"{identifier}/{key}"},
        "field": list(fields),
    }


def field(
    record: str,
    name: str,
    *,
    data_type: str,
    description: str,
    source: Node,
    shape: Sequence[int] | None = None,
) -> Node:
    """One field of the record set `record`; an array if it has a `shape` (-1 for any size)."""
    node: Node = {
        "@type": "cr:Field",
        "@id": f"{record}/{name}",
        "name": name,
        "description": description,
        "dataType": data_type,
        "source": source,
    }
    if shape is not None:
        node |= {"isArray": True, "arrayShape": ",".join(map(str, shape))}
    return node
