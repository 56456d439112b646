"""The folder of reports. What is written there ends with a mark that has the hash of what is above it.

A file without its mark, or changed since, is somebody's own: it is never overwritten.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dashboards.pages.markdown import plain
from dashboards.pages.report import report_page
from dashboards.research.index import Entry, entry_of, research_index
from dashboards.research.registered import Registered, registered_of
from dashboards.research.report import day, research_report
from dashboards.research.texts import Language, Texts
from dashboards.thumbnails import thumbnails
from pipeline.errors import OutputError
from pipeline.files import write_whole
from pipeline.machine.outputs import require_folder
from sweeps.book.journal import Journal
from sweeps.book.ledger import ledger_of
from sweeps.book.record import record_of
from sweeps.conclusions.importance import importance_of
from sweeps.errors import DamagedError, OutageError
from sweeps.home import Home

_MARK = "\n<!-- mouselift report sha256 {} -->\n"  # of all before it
_MARKED = re.compile(r"\n<!-- mouselift report sha256 ([0-9a-f]{64}) -->\n\Z")
_UNFIT = re.compile(r"[^\w.-]+")  # for a file's name
_LONGEST_NAME = 80
_DATED = re.compile(r"(\d{2})(\d{2})(\d{2})_.+\.md")
_INDEX = ("README.md", "index.md")  # the first that is nobody's own


@dataclass(frozen=True)
class Written:
    """The files of a report."""

    report: Path
    charts: Path
    index: Path


def write_report(home: Home, sweep: str, folder: Path, language: Language, now: float) -> Written:
    """Write the report on a sweep of this home, its charts, and the index of the folder.

    now: unix seconds. Raises StudyError where there is no such sweep, OutputError where a file of somebody's own
    stands where one is to be written; nothing is written then.
    """
    stem = stem_of(sweep, ledger_of(home, sweep).opened)
    index = next((folder / name for name in _INDEX if is_ours(folder / name)), folder / _INDEX[-1])
    written = Written(folder / f"{stem}.md", folder / f"{stem}.html", index)
    for path in (written.report, written.charts, written.index):
        _require_ours(path)
    require_folder(folder)
    record = record_of(Journal(home.journal(sweep)), now)
    importance = importance_of(record.ledger)
    report = research_report(record, importance, language, written.charts.name)
    charts = report_page(record, importance=importance, pictures=thumbnails(record))
    folder.mkdir(parents=True, exist_ok=True)
    _write(written.charts, charts)
    _write(written.report, report)
    told = Texts(language)
    entries = list(_entries(home, folder, now, told))
    known = {one.file for one in entries}
    by_hand = [one for one in _by_hand(folder, told) if one.file not in known]
    tested, untold = _tested(home, told)
    _write(written.index, research_index([*entries, *by_hand], str(home.root), day(now), told, tested, untold))
    return written


def stem_of(sweep: str, opened: float) -> str:
    """`YYMMDD_name`, by the day on which the sweep began; fit for a file system whatever the name holds."""
    name = _UNFIT.sub("_", sweep)[:_LONGEST_NAME]
    return f"{datetime.fromtimestamp(opened):%y%m%d}_{name}"


def is_ours(path: Path) -> bool:
    """Whether a file may be written: there is none, or it is as this module left it."""
    if not path.exists() and not path.is_symlink():
        return True
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    mark = _MARKED.search(text)
    return mark is not None and mark[1] == _hash(text[: mark.start()])


def _require_ours(path: Path) -> None:
    if not is_ours(path):
        raise OutputError(
            f"{path}: expected none or one that this command wrote, got a file written or changed by hand — move it, "
            "or name another folder with -o."
        )


def _write(path: Path, text: str) -> None:
    text = text.replace("\r\n", "\n")
    write_whole(path, text + _MARK.format(_hash(text)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _entries(home: Home, folder: Path, now: float, told: Texts) -> Iterator[Entry]:
    """Of every sweep of the home; a journal that cannot be read is named."""
    for journal in sorted(path.parent for path in home.journals.glob("*/journal.jsonl")):
        try:
            record = record_of(Journal(journal), now)
        except DamagedError as error:
            yield Entry(plain(journal.name), "", told("damaged", reason=plain(str(error), 200)))
            continue
        if record.ledger.name:
            file = f"{stem_of(journal.name, record.ledger.opened)}.md"
            yield entry_of(record, file if (folder / file).is_file() else None, told)


def _tested(home: Home, told: Texts) -> tuple[list[Registered], str]:
    """Registered versions, or why they are not told: a report does not wait for MLflow."""
    try:
        return registered_of(home), ""
    except OutageError as error:
        return [], told("registry_away", reason=plain(str(error), 200))


def _by_hand(folder: Path, told: Texts) -> Iterator[Entry]:
    """Of reports in the folder that are somebody's own, by their first heading."""
    for path in sorted(folder.glob("*.md")):
        dated = _DATED.fullmatch(path.name)
        if dated is None or not path.is_file() or is_ours(path):
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        heading = next((line.lstrip("# ") for line in lines if line.startswith("# ")), "")
        date = f"20{dated[1]}-{dated[2]}-{dated[3]}"
        yield Entry(plain(path.stem), date, f"{plain(heading)} {told('hand')}".strip(), path.name)
