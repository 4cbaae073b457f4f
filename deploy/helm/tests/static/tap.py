"""Prints the results of the chart's checks in the Test Anything Protocol, which `cargo xtask test` counts.

A check is a list of complaints, which each name a fault and its location; an empty list is a pass.
"""

import sys
import traceback


class Tap:
    """One run: numbers the checks and counts failures."""

    def __init__(self):
        self._count = 0
        self._failed = 0

    def check(self, name, function, *arguments):
        """Runs `function(*arguments)`, which yields complaints, as the check called `name`.

        An exception fails only this check. Returns true if the check passed.
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
        """Reports a check that cannot run on this machine."""
        self._count += 1
        print(f"ok {self._count} - {name} # SKIP {reason}", flush=True)

    def end(self):
        """Prints the plan and exits with 0 or 1."""
        print(f"1..{self._count}", flush=True)
        sys.exit(1 if self._failed else 0)
