"""Every value of the chart has an effect: a file of `ci` sets it, and renders other objects without it."""

import copy

import documentation
import engines


def check(chart, cases):
    """Complaints about values that no file sets, or whose removal changes nothing in any file."""
    found, _ = documentation.rows((chart / "values.yaml").read_text(encoding="utf-8"))
    sets = [case.values() for case in cases]
    texts = [engines.texts(chart, values) for values in sets]
    for row in found:
        using = [(values, text) for values, text in zip(sets, texts) if _holds(values, row.path)]
        if not using:
            yield f"{'.'.join(row.path)}: no file of ci sets it"
        elif all(engines.texts(chart, _without(values, row.path)) == text for values, text in using):
            yield f"{'.'.join(row.path)}: the files of ci that set it render the same without it"


def _holds(values, path):
    for part in path:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def _without(values, path):
    values = copy.deepcopy(values)
    place = values
    for part in path[:-1]:
        place = place[part]
    del place[path[-1]]
    return values
