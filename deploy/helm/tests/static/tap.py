"""Prints the checks of the chart as the Test Anything Protocol, which `cargo xtask test` counts.

A check is a list of complaints, of sentences that each name what is wrong and where; an empty list is a pass.
"""

import sys
import traceback


class Tap:
    """One run: numbers the checks, and knows at the end whether all passed."""

    def __init__(self):
        self._count = 0
        self._failed = 0

    def check(self, name, function, *arguments):
        """Runs `function(*arguments)`, which yields complaints, as the check called `name`.

        An exception counts as a failure of this check alone. Yields whether it passed.
        """
        self._count += 1
        try:
            complaints = list(function(*arguments))
        except Exception:
            complaints = traceback.format_exc().splitlines()
        if complaints:
            self._failed += 1
        print(f"{'not ok' if complaints else 'ok'} {self._count} - {name}", flush=True)
        for complaint in complaints:
            for line in str(complaint).splitlines():
                print(f"# {line}", flush=True)
        return not complaints

    def skip(self, name, reason):
        """A check that cannot run here."""
        self._count += 1
        print(f"ok {self._count} - {name} # SKIP {reason}", flush=True)

    def end(self):
        """Prints the plan and leaves."""
        print(f"1..{self._count}", flush=True)
        sys.exit(1 if self._failed else 0)
