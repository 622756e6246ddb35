"""A night as JUnit XML, which every CI reads: a case for each verdict, named plan/target/metric."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from pipeline.farm.night import Night
from pipeline.reports import night_words

# What XML 1.0 cannot hold.
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(night: Night) -> bytes:
    """`junit.xml`: what is no pass is a failure, with the reason."""
    root = ElementTree.Element("testsuites", name=_text(night.nightly))
    for job in night.jobs:
        verdicts = [each for each in night.verdicts if (each.plan, each.target) == (job.plan, job.target)]
        failures = sum(each.alarm for each in verdicts)
        seconds = f"{sum(job.seconds.values()):.3f}"
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_text(f"{job.plan}/{job.target}"),
            tests=str(len(verdicts)),
            failures=str(failures),
            errors="0",
            skipped="0",
            time=seconds,
            timestamp=(job.started or night.created).removesuffix("Z"),
        )
        for each in verdicts:
            name = f"{each.plan}/{each.target}/{each.metric}"
            case = ElementTree.SubElement(
                suite, "testcase", name=_text(name), classname=_text(f"{each.plan}.{each.target}"), time="0"
            )
            said = _text(night_words.sentence(each))
            if each.alarm:
                ElementTree.SubElement(case, "failure", type=each.outcome, message=said).text = said
            else:
                ElementTree.SubElement(case, "system-out").text = said
    ElementTree.indent(root)
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _text(text: str) -> str:
    return FORBIDDEN.sub("?", text)
