"""XML from elsewhere declares nothing that is followed, in whatever letters it is written."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest

from catalog.sentinel2.metadata import parse_granule, parse_product
from catalog.sentinel2.odata import manifest_digests
from stratacube.errors import SourceError
from stratacube.plain_xml import read_xml

LETTERS = ("utf-8", "utf-16", "utf-16-le", "utf-16-be")

DECLARED = {
    "growing": '<!DOCTYPE d [<!ENTITY a "text"><!ENTITY b "&a;&a;">]>',
    "of a file": '<!DOCTYPE d [<!ENTITY b SYSTEM "file:///etc/hostname">]>',
    "of the declaration": '<!DOCTYPE d [<!ENTITY % a SYSTEM "file:///etc/hostname"> %a;]>',
}


def document(declared: str, letters: str) -> bytes:
    """A document, with the mark of its letters where it needs one."""
    body = f"{declared}<d><e>{'&b;' if 'b ' in declared else ''}</e></d>"
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b""}.get(letters, b"")
    return mark + body.encode(letters)


@pytest.mark.parametrize("letters", LETTERS)
@pytest.mark.parametrize("declared", DECLARED)
@pytest.mark.parametrize("parse", [parse_product, parse_granule, lambda told: manifest_digests(told, "x")])
def test_entities_are_refused_in_any_letters(parse: Callable[[bytes], Any], declared: str, letters: str) -> None:
    with pytest.raises(SourceError, match=r"\(it declares entities\)") as caught:
        parse(document(DECLARED[declared], letters))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("letters", LETTERS)
def test_without_them_it_is_what_elementtree_reads(letters: str) -> None:
    told = document("", letters)
    assert ET.tostring(read_xml(told)) == ET.tostring(ET.fromstring(told))
    assert read_xml(document("<!DOCTYPE d>", letters)).tag == "d"
    assert read_xml(b"<d>the text &lt;!ENTITY is none</d>").text == "the text <!ENTITY is none"
    for wrong in (b"", b"<d>", b"no", b"<d/><d/>"):
        with pytest.raises(ET.ParseError):
            read_xml(wrong)
