"""What the experiments share: rows in CSV files, Markdown tables in READMEs, intervals.

What writes a table or a figure says into which file, in a line.
"""

import csv
import math
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.results import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def commit() -> str:
    """The commit of the code, `-dirty` when files differ from it that are no results."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    results = [f":(exclude,top)*.{suffix}" for suffix in ("csv", "md", "png")]
    command = ["git", "diff", "--quiet", "HEAD", "--", ":(top)", *results]
    return head if subprocess.run(command).returncode == 0 else f"{head}-dirty"


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def done_rows(path: Path) -> list[dict[str, str]]:
    """Those of runs that were made."""
    return [row for row in read_rows(path) if row["status"] == "done"]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row, and before the first one a header.

    Raises:
        ValueError: the file has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", newline="", encoding="utf-8") as file:
        file.seek(0)
        header = next(csv.reader(file), [])
        if header and header != list(row):
            raise ValueError(f"{path} has the columns {header}, and the row {list(row)}")
        writer = csv.DictWriter(file, list(row))
        if not header:
            writer.writeheader()
        writer.writerow(row)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the file by these rows, at once: a kill leaves the old ones."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def put_between_marks(path: Path, mark: str, text: str) -> None:
    """Replace what stands in a README between `<!-- mark -->` and `<!-- end of mark -->`."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
    print(f"{shown(path)}: {mark}")


def save_figure(figure: "Figure", path: Path, dpi: int) -> None:
    """Write a picture."""
    figure.savefig(path, dpi=dpi)
    print(shown(path))


def wilson_interval(count: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927).

    >>> [round(end, 3) for end in wilson_interval(0, 40)]
    [0.0, 0.088]
    """
    z = 1.959964
    center = (count + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(count * (n - count) / n + z * z / 4)
    return max(0.0, center - half), min(1.0, center + half)
