"""What a statement must answer, and the comparison with what it did answer.

Rows arrive as lists of Python values, from text channels as strings; `differs` returns None or a
sentence that says what is wrong. Where scores differ by less than the tolerance, rows may swap,
also across the limit.
"""


class Counted:
    """One row with one number."""

    def __init__(self, count):
        self.count = count

    def is_empty(self):
        return self.count == 0

    def differs(self, rows):
        if len(rows) != 1 or len(rows[0]) != 1 or _read("int", rows[0][0]) != self.count:
            return f"expected the count {self.count}, got {rows[:3]}"
        return None


class Exact:
    """These rows in this order; `kinds` says int or text for each column."""

    def __init__(self, kinds, rows):
        self.kinds, self.rows = kinds, rows

    def is_empty(self):
        return not self.rows

    def differs(self, rows):
        got = [[_read(k, v) for k, v in zip(self.kinds, row)] for row in rows]
        if got == self.rows:
            return None
        if len(got) != len(self.rows):
            return f"expected {len(self.rows)} rows, got {len(got)}"
        at = next(i for i, (a, b) in enumerate(zip(got, self.rows)) if a != b)
        return f"row {at + 1}: expected {self.rows[at]}, got {got[at]}"


class Ranked:
    """The first `limit` of the rows (id, name, score), best first; NULL scores come last."""

    def __init__(self, ids, names, scores, limit, tolerance, descending=False):
        self.allowed = {i: (n, s) for i, n, s in zip(ids, names, scores)}
        self.limit, self.tolerance, self.sign = limit, tolerance, -1 if descending else 1

    def is_empty(self):
        return not self.allowed

    def differs(self, rows):
        want = min(self.limit, len(self.allowed))
        if len(rows) != want:
            return f"expected {want} rows, got {len(rows)}"
        seen, last = set(), None
        for at, row in enumerate(rows):
            if len(row) != 3:
                return f"expected 3 columns, got {len(row)}"
            row_id, name, score = (_read(k, v) for k, v in zip(("int", "text", "float"), row))
            if row_id not in self.allowed or row_id in seen:
                return f"row {at + 1}: id {row_id} does not meet the condition or comes twice"
            seen.add(row_id)
            wanted_name, wanted = self.allowed[row_id]
            if name != wanted_name or not self._same(score, wanted):
                return f"row {at + 1}: expected {(row_id, wanted_name, wanted)}, got {row}"
            if last is not None and self._before(wanted, last):
                return f"row {at + 1}: {wanted} stands after {last}"
            last = wanted
        for row_id, (name, score) in self.allowed.items():
            if rows and row_id not in seen and self._before(score, last):
                return f"the row {(row_id, name, score)} is missing, the last one has {last}"
        return None

    def _slack(self, score):
        return self.tolerance * max(1.0, abs(score))

    def _same(self, got, wanted):
        if got is None or wanted is None:
            return got is wanted
        return abs(got - wanted) <= self._slack(wanted)

    def _before(self, a, b):
        """Whether a row with score `a` must stand before one with `b`."""
        if a is None or b is None:
            return a is not None and b is None
        return self.sign * (b - a) > 2 * self._slack(a)


def _read(kind, value):
    """A value as its kind, whether it came typed or as text."""
    if value is None or kind == "text":
        return value
    return int(value) if kind == "int" else float(value)
