"""The group of an output tells what has made the output: in its attribute ``tilewright``, the member ``provenance``.

It is a JSON object of less than 4 KiB with these members:

``versions``
    Of Python, tilewright, zarr, numpy and dask; of torch and Lightning where the model or the trainer is of theirs.
``model``
    ``name`` is its class or function, ``identity`` has the digest of its weights, as in the ledger. ``file`` is the
    file that ``--model`` names, or the checkpoint of a trainer.
``source``
    ``path`` is a file or folder, ``description`` tells of an array. ``identity`` is that in the ledger. ``series`` is
    there where a file holds several images.
``plan``
    Tile size, overlap, layout, chunks, shards, blend, number of levels, reduction and data type.
``fingerprint``
    Digest of all that the stored bytes follow from: outputs with equal ones hold the same.
``call``
    ``command`` is a command line. ``function`` and ``keywords`` are those of a call in Python, without keywords on how
    a run is carried out, such as ``client`` and ``if_exists``.
``date``
    When the run that has created the output began, in UTC; that of the environment variable SOURCE_DATE_EPOCH, where
    it is set.

It is written with the group. A run that resumes or repairs the output leaves it, and writes it again from the ledger
where the group is lost. No decision follows from it. Users, keys and signatures of URLs are left out, long values are
cut in their middle. `write_zarr` has neither model nor plan.
"""

import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tilewright.identity.models import ModelFacts
from tilewright.identity.values import digest_of
from tilewright.outputs.fingerprint import SERIES, SOURCE_PATH, Fingerprint
from tilewright.plan import WritePlan
from tilewright.provenance.call import Call, as_json, date_of_run

MOST_NBYTES = 2**12
"""Bytes of the document, with the line breaks and spaces that zarr writes."""
_INDENT = 6
"""Spaces before each line, since the document lies in two members of the attributes."""
_LONGEST = (400, 200, 100, 60, 40, 24)
"""Lengths of a value to try, until the document is small enough."""
_DEEPEST = 3
_ALWAYS = ("tilewright", "zarr", "numpy", "dask")

Provenance = dict[str, Any]
"""The document, of values that JSON has."""


@dataclass(frozen=True)
class Origin:
    """What the outputs of one run have in common.

    Parameters
    ----------
    call : Call
        The call.
    date : str, optional
        When it began; now where not given.
    """

    call: Call
    date: str = field(default_factory=date_of_run)

    def of_prediction(
        self, plan: WritePlan, fingerprint: Fingerprint, model: ModelFacts, source: str, model_file: str = ""
    ) -> Provenance:
        """Return the document of an output that a model predicts; of a source in memory the name is told."""
        path = fingerprint[SOURCE_PATH]
        named = {"name": model.name, "identity": model.identity, "file": self.call.model_file or model_file}
        read = {"path": path} if path else {"description": source}
        read |= {"identity": fingerprint["source"], "series": fingerprint[SERIES]}
        return shortened(
            {
                "versions": _versions(model.libraries),
                "model": as_json(_without_empty(named)),
                "source": as_json(_without_empty(read)),
                "plan": as_json(_without_empty(_described(plan, fingerprint))),
                "fingerprint": digest_of(json.dumps(fingerprint, sort_keys=True)),
                "call": self.call.to_dict(),
                "date": self.date,
            }
        )

    def of_image(self, source: str) -> Provenance:
        """Return the document of an output that is a written image."""
        return shortened(
            {
                "versions": _versions(()),
                "source": {"description": source},
                "call": self.call.to_dict(),
                "date": self.date,
            }
        )


def shortened(document: Provenance) -> Provenance:
    """Return a document that is small enough: its longest values become texts, and are cut in their middle.

    Examples
    --------
    >>> short = shortened({"call": {"command": f"tilewright predict{9999 * ' raw.zarr'}"}})
    >>> short["call"]["command"][:28], len(short["call"]["command"])
    ('tilewright predict raw.zarr ', 397)
    """
    short = document
    for longest in _LONGEST:
        short = {name: _cut(value, longest) for name, value in document.items()}
        text = json.dumps(short, indent=2)
        if len(text) + _INDENT * text.count("\n") < MOST_NBYTES:
            break
    # In the order in which the ledger keeps it, so that it is written again with the same bytes.
    kept: Provenance = json.loads(json.dumps(short, sort_keys=True))
    return kept


def _cut(value: Any, longest: int, depth: int = 1) -> Any:
    """Return a value of which no text is longer as JSON; below the keywords of a call, lists and mappings are texts."""
    if isinstance(value, Mapping) and depth < _DEEPEST:
        return {name: _cut(item, longest, depth + 1) for name, item in value.items()}
    text = json.dumps(value)
    if len(text) <= longest:
        return value
    whole = value if isinstance(value, str) else text
    half = longest // 2 - 3
    # JSON has several letters for one that is not of ASCII.
    while len(json.dumps(short := f"{whole[:half]}...{whole[-half:]}")) > longest and half > 1:
        half -= max(1, half // 8)
    return short


def _described(plan: WritePlan, fingerprint: Fingerprint) -> dict[str, Any]:
    names = "axes tile_size overlap layout chunks shards dtype reduction"
    return {name: getattr(plan, name) for name in names.split()} | {
        "levels": len(plan.arrays),
        "blend": fingerprint["blend"],
    }


def _without_empty(member: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in member.items() if value}


@cache
def _versions(libraries: tuple[str, ...]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in (*_ALWAYS, *libraries):
        # A package that was copied into its place has no metadata.
        with suppress(PackageNotFoundError):
            found[name.replace("_", "-")] = version(name)
    return found
