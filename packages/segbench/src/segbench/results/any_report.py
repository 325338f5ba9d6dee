"""Results of either kind, told apart by what their file says."""

from pathlib import Path
from typing import TypeAlias

from segbench.results.classification import KIND, ClassificationReport
from segbench.results.report import Report
from segbench.results.stored import kind_of_results, results_file

AnyReport: TypeAlias = Report | ClassificationReport


def read_report(path: Path) -> AnyReport:
    """Read a `results.json`, or the one in a folder.

    Raises:
        FormatError: a file is missing, damaged, or of a kind or version that is not read here.
    """
    if kind_of_results(results_file(path)) == KIND:
        return ClassificationReport.read(path)
    return Report.read(path)
