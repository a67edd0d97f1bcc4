"""The collection in memory, and predicates over it with SQL's three values.

Rows live in slots of numpy columns. A predicate gives two masks over the slots: where it is true
and where it is unknown; everything else alive is false. Distances are computed in double
precision from the 4-byte floats that the server stores; geographic ones by geographiclib.
"""

import numpy as np
from geographiclib.geodesic import Geodesic

from text import TextIndex, parse

COLUMNS = [
    "id", "name", "section", "priority", "installed_kib", "tenant_id",
    "summary", "description", "place", "location", "embedding",
]  # fmt: skip
DIMENSIONS = 384


class Model:
    """All rows by id, with what the predicates need beside them.

    A row is a dict by column; `location` is (longitude, latitude) or None, `embedding` a float32
    array or None.
    """

    def __init__(self, capacity):
        self.rows, self.slot_of, self.id_of = {}, {}, []
        self.alive = np.zeros(capacity, bool)
        self.vectors = np.full((capacity, DIMENSIONS), np.nan)
        self.text = TextIndex()
        self._distances = {}

    def put(self, row):
        """Inserts a row or replaces the one with its id."""
        old = self.rows.get(row["id"])
        if old is None:
            slot = self.slot_of.get(row["id"])
            if slot is None:
                slot = self.slot_of[row["id"]] = len(self.id_of)
                self.id_of.append(row["id"])
            self.alive[slot] = True
        slot = self.slot_of[row["id"]]
        self.vectors[slot] = np.nan if row["embedding"] is None else row["embedding"]
        texts = [row["summary"], row["description"]]
        if old is None or [old["summary"], old["description"]] != texts:
            self.text.put(row["id"], texts)
        self.rows[row["id"]] = row

    def delete(self, row_id):
        del self.rows[row_id]
        self.alive[self.slot_of[row_id]] = False
        self.text.put(row_id, None)

    def mask(self, test):
        """(true, unknown) of a Python function from a row to True, False or None."""
        true, unknown = np.zeros_like(self.alive), np.zeros_like(self.alive)
        for row_id, row in self.rows.items():
            value = test(row)
            if value is None:
                unknown[self.slot_of[row_id]] = True
            elif value:
                true[self.slot_of[row_id]] = True
        return true, unknown

    def mask_of(self, ids):
        mask = np.zeros_like(self.alive)
        for row_id in ids:
            mask[self.slot_of[row_id]] = True
        return mask

    def ids(self, mask):
        """The ids of the slots in the mask, ascending."""
        return sorted(self.id_of[slot] for slot in np.flatnonzero(mask))

    def metres(self, point, location):
        """The distance on the WGS 84 ellipsoid; both are (longitude, latitude)."""
        key = (point, location)
        if key not in self._distances:
            line = Geodesic.WGS84.Inverse(point[1], point[0], location[1], location[0])
            self._distances[key] = line["s12"]
        return self._distances[key]

    def distances(self, operator, vector, ids):
        """The distance of each row's embedding to the vector, None where it is NULL."""
        slots = np.array([self.slot_of[i] for i in ids], dtype=int)
        rows = self.vectors[slots]
        vector = np.asarray(vector, dtype=np.float32).astype(float)
        if operator == "<=>":
            found = 1 - rows @ vector / (np.linalg.norm(rows, axis=1) * np.linalg.norm(vector))
        elif operator == "<->":
            found = np.linalg.norm(rows - vector, axis=1)
        elif operator == "<#>":
            found = -(rows @ vector)
        else:
            found = np.abs(rows - vector).sum(axis=1)
        return [None if np.isnan(d) else float(d) for d in found]


# ---- predicates: each has sql(relation) and masks(model) -----------------------------------


class Test:
    """A condition on the columns of one row: its SQL, and a function to True, False or None."""

    def __init__(self, sql, test):
        self._sql, self._test = sql, test

    def sql(self, relation):
        return self._sql

    def masks(self, model):
        return model.mask(self._test)


def compare(column, operator, value):
    """`column operator value` with NULL where the column is NULL."""
    tests = {
        "=": lambda a: a == value,
        "<>": lambda a: a != value,
        "<": lambda a: a < value,
        ">=": lambda a: a >= value,
    }
    test = tests[operator]
    sql = f"{column} {operator} {literal(value)}"
    return Test(sql, lambda row: None if row[column] is None else test(row[column]))


def between(column, low, high):
    sql = f"{column} BETWEEN {low} AND {high}"
    return Test(sql, lambda row: None if row[column] is None else low <= row[column] <= high)


def one_of(column, values):
    sql = f"{column} IN ({', '.join(literal(v) for v in values)})"
    return Test(sql, lambda row: None if row[column] is None else row[column] in values)


def starts_with(column, prefix):
    sql = f"{column} LIKE {literal(prefix + '%')}"
    return Test(sql, lambda row: None if row[column] is None else row[column].startswith(prefix))


def is_null(column, negated=False):
    sql = f"{column} IS {'NOT ' if negated else ''}NULL"
    return Test(sql, lambda row: (row[column] is None) != negated)


class TextMatch:
    """`text_match(relation, 'query')`."""

    def __init__(self, query):
        self.query, self.tree = query, parse(query)

    def sql(self, relation):
        return f"text_match({relation}, {literal(self.query)})"

    def masks(self, model):
        true = model.mask_of(model.text.match(self.tree))
        return true, model.alive & ~model.mask_of(model.text.documents)


class Near:
    """`ST_DWithin(location, point, metres)`."""

    def __init__(self, point, metres, point_sql=None):
        self.point, self.metres = point, metres
        self._point_sql = point_sql or f"ST_Point({point[0]}, {point[1]})"

    def sql(self, relation):
        return f"ST_DWithin(location, {self._point_sql}, {self.metres})"

    def masks(self, model):
        near = {}

        def test(row):
            at = row["location"]
            if at is not None and at not in near:
                near[at] = model.metres(self.point, at) <= self.metres
            return None if at is None else near[at]

        return model.mask(test)


class Not:
    def __init__(self, inner):
        self.inner = inner

    def sql(self, relation):
        return f"NOT ({self.inner.sql(relation)})"

    def masks(self, model):
        true, unknown = self.inner.masks(model)
        return model.alive & ~true & ~unknown, unknown


class And:
    def __init__(self, *parts):
        self.parts = parts

    def sql(self, relation):
        return " AND ".join(_enclosed(p, relation, Or) for p in self.parts)

    def masks(self, model):
        true, not_false = model.alive, model.alive
        for part in self.parts:
            t, u = part.masks(model)
            true, not_false = true & t, not_false & (t | u)
        return true, not_false & ~true


class Or:
    def __init__(self, *parts):
        self.parts = parts

    def sql(self, relation):
        return " OR ".join(_enclosed(p, relation, And) for p in self.parts)

    def masks(self, model):
        true, unknown = np.zeros_like(model.alive), np.zeros_like(model.alive)
        for part in self.parts:
            t, u = part.masks(model)
            true, unknown = true | t, unknown | u
        return true, unknown & ~true


def _enclosed(part, relation, kind):
    sql = part.sql(relation)
    return f"({sql})" if isinstance(part, kind) else sql


def true_ids(model, predicate):
    """The ids, ascending, of the rows that a WHERE with this predicate keeps."""
    return model.ids(predicate.masks(model)[0] & model.alive)


def literal(value):
    """A value as a SQL literal."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value)


def vector_text(vector):
    """A vector in pgvector's text format, each element the shortest that reads back as float4."""
    return "[" + ",".join(str(x) for x in np.asarray(vector, dtype=np.float32)) + "]"
