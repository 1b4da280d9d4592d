"""A table at the end of a test run: what became of every case. For folders of tests whose cases people want to see.

A test says what its cases came to by ``record_property(OUTCOMES, words)``, a few words such as ``12 killed, 4 done``.
"""

OUTCOMES = "outcomes"


class OutcomeTable:
    """Gathers what became of the tests of one folder; prints it if no other tests ran."""

    def __init__(self, folder):
        self._folder = folder
        self._rows = {}
        self._others = False

    def add(self, report):
        """Note one report of pytest; to be called from its hook ``pytest_runtest_logreport``."""
        if not report.nodeid.startswith(self._folder):
            self._others = True
            return
        told = dict(report.user_properties).get(OUTCOMES, "")
        words, outcome, seconds = self._rows.get(report.nodeid, ("", "passed", 0.0))
        outcome = outcome if report.passed else report.outcome
        if report.skipped:
            told = report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"
        self._rows[report.nodeid] = (told or words, outcome, seconds + report.duration)

    def write(self, reporter, title):
        """Print the table; to be called from the hook ``pytest_terminal_summary``."""
        if not self._rows or self._others:
            return
        reporter.section(title)
        for nodeid, (words, outcome, seconds) in self._rows.items():
            name = nodeid.partition("::")[2].removeprefix("test_").replace("_", " ")
            reporter.write_line(f"{name:<96.96} {outcome:<7} {seconds:7.2f} s  {words}".rstrip())
        good = sum(outcome == "passed" for _, outcome, _ in self._rows.values())
        total = sum(seconds for _, _, seconds in self._rows.values())
        reporter.write_line(f"{good} of {len(self._rows)} passed, {total:.1f} s")
