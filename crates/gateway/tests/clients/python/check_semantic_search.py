"""The guide docs/semantic-search.md: its Python blocks, run in their order against a PostgreSQL with pgvector.

The guide is the only source of the code. The checks require that every question finds its expected document among the
first three.
"""

import os
import stat
import sys
import tempfile
from pathlib import Path

from checks import API_KEY, BASE_URL, check, equal, run

GUIDE = Path(__file__).resolve().parents[5] / "docs/semantic-search.md"
GUEST = stat.S_IROTH | stat.S_IXOTH

os.environ.update(OPENAI_BASE_URL=BASE_URL, OPENAI_API_KEY=API_KEY)
guide = {"__name__": "guide"}


def blocks():
    """The Python blocks with their first lines' numbers."""
    found, block, start = [], None, 0
    for number, line in enumerate(GUIDE.read_text(encoding="utf-8").splitlines(), 1):
        if block is None and line == "```python":
            block, start = [], number + 1
        elif block is not None and line == "```":
            found.append((start, "\n".join(block)))
            block = None
        elif block is not None:
            block.append(line)
    return found


def closed_folder():
    """The first folder above the packages that the user of PostgreSQL cannot read; only root has another one."""
    if os.geteuid() != 0:
        return None
    folders = [Path(sys.prefix).resolve(), *Path(sys.prefix).resolve().parents]
    return next((folder for folder in folders if folder.stat().st_mode & GUEST != GUEST), None)


@check("every block of the guide runs")
def _():
    found = blocks()
    if len(found) < 5:
        raise AssertionError(f"only {len(found)} blocks in {GUIDE}")
    for line, block in found:
        # Padded, so that a traceback has the line of the guide.
        exec(compile("\n" * (line - 1) + block, str(GUIDE), "exec"), guide)


@check("1,000 documents are stored")
def _():
    counts = "SELECT count(*), count(DISTINCT body) FROM documents"
    equal(guide["database"].execute(counts).fetchone(), (1000, 1000))


@check("each of the ten questions finds its document among the first three")
def _():
    questions = guide["QUESTIONS"]
    equal(len(questions), 10)
    found = {question: guide["search"](question) for question in questions}
    missed = {question: names for question, names in found.items() if questions[question] not in names}
    equal(missed, {})


closed = closed_folder()
if closed:
    # As root, the package would open the folder to every user.
    print(f"ok 1 - the guide # SKIP PostgreSQL does not run as root, and {closed} is closed to other users")
    print("1..1")
    sys.exit()
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    try:
        run()
    finally:
        if "database" in guide:
            guide["database"].close()
        if "server" in guide:
            guide["server"].cleanup()
        os.chdir("/")
