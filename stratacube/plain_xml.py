"""XML as data: what a document declares is not followed, whatever letters it is written in."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from contextlib import suppress
from typing import NoReturn
from xml.parsers import expat

__all__ = ["read_xml"]


class _RootSeenError(Exception):
    """All that comes before the root was read."""


def read_xml(document: bytes) -> ET.Element:
    """Return the root of a document that declares nothing of its own.

    Entities that name one another grow without bound, and others name files. They are declared before the root; a look
    for ``<!ENTITY`` in the bytes misses those of UTF-16, so expat, which reads the document, is asked.

    Raises
    ------
    ValueError
        If it declares entities.
    xml.etree.ElementTree.ParseError
        If it is not XML.
    """
    before = expat.ParserCreate()
    before.EntityDeclHandler = _refuse
    before.StartElementHandler = _stop
    with suppress(_RootSeenError, expat.ExpatError):  # what is no XML is told below, as ElementTree tells it
        before.Parse(document, True)
    return ET.fromstring(document)


def _refuse(*_: object) -> NoReturn:
    raise ValueError("it declares entities")


def _stop(*_: object) -> NoReturn:
    raise _RootSeenError
