"""What the two schemas of JUnit XML in common use allow, written down from their published structure.

Ant's (windyroad's JUnit.xsd, the stricter one, which asks for more attributes and an order of elements) and Jenkins'
(xunit-plugin's junit-10.xsd). A document of ours has to fit both; only the output of a test case is Jenkins' alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from xml.etree import ElementTree

TEXT, NAME, INT = r"(?s).*", r"(?s).*\S.*", r"[0-9]{1,9}"
TIME = r"[0-9]{1,3}(\.[0-9]+)?"
DAY = r"[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]"


class Shape(NamedTuple):
    """An element: its attributes and what they match, the order of its children, and whether text may stand in it."""

    attributes: Mapping[str, str]
    children: str
    text: bool = False


OUTCOME = Shape({"type": TEXT, "message": TEXT}, "", text=True)
SHAPES = {
    "testsuites": Shape({}, "(testsuite )*"),
    "testsuite": Shape(
        {
            "name": NAME, "package": TEXT, "id": INT, "timestamp": DAY, "hostname": NAME, "tests": INT,
            "failures": INT, "errors": INT, "skipped": INT, "time": TIME,
        },
        "properties (testcase )*system-out system-err ",
    ),
    "properties": Shape({}, "(property )*"),
    "property": Shape({"name": NAME, "value": TEXT}, ""),
    "testcase": Shape({"name": TEXT, "classname": TEXT, "time": TIME}, "((skipped|error|failure) )?(system-out )?"),
    "skipped": Shape({"message": TEXT}, "", text=True),
    "error": OUTCOME,
    "failure": OUTCOME,
    "system-out": Shape({}, "", text=True),
    "system-err": Shape({}, "", text=True),
}  # fmt: skip


def read(text: str) -> ElementTree.Element:
    """Parse a document and check every element of it."""
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites"
    for element in root.iter():
        shape = SHAPES[element.tag]
        assert set(element.keys()) == set(shape.attributes), element.tag
        for name, pattern in shape.attributes.items():
            assert re.fullmatch(pattern, element.attrib[name]), f"{element.tag} {name}={element.attrib[name]!r}"
        assert re.fullmatch(shape.children, "".join(f"{child.tag} " for child in element)), element.tag
        assert shape.text or not (element.text or "").strip()
        assert not (element.tail or "").strip()
    suite = root[0]
    cases = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(cases)
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.attrib[attribute]) == len(suite.findall(f"testcase/{tag}"))
    return root
