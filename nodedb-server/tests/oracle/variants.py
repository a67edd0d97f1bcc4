"""Random variants of the question, and the writes between them, drawn from a seed.

Terms, places, tenants and sizes are drawn from the rows, so that most variants return something.
Everything that a variant expects is computed by the model at the moment it is drawn; a write
changes the model at once.
"""

import math

import numpy as np

from answers import Counted, Exact, Ranked
from model import (
    And,
    Near,
    Not,
    Or,
    TextMatch,
    between,
    compare,
    is_null,
    literal,
    one_of,
    starts_with,
    true_ids,
    vector_text,
)
from atlas import point_text

EMPTY_SHARE_MAX = 0.15
# No place may lie this near to a circle, or rounding would decide.
CIRCLE_MARGIN_METRES = 0.5
# A write by predicate changes at most so many rows, or the set would soon be another one.
WRITE_ROWS_MAX = 200


class Ask:
    """A SELECT: its SQL with $1 for the query vector (None if there is none), how the answer is
    computed, and the answer at the time it was drawn."""

    def __init__(self, sql, vector, evaluate):
        self.sql, self.vector, self.evaluate = sql, vector, evaluate

    @property
    def params(self):
        return [] if self.vector is None else [vector_text(self.vector)]


class Write:
    """A statement that changes rows, and the number that its command tag must show."""

    def __init__(self, sql, params, count):
        self.sql, self.params, self.count = sql, params, count


class Generator:
    def __init__(self, seed, model, questions):
        self.random = np.random.default_rng(seed)
        self.model, self.questions = model, questions
        self.asked = self.empty = 0

    # ---- drawing ----------------------------------------------------------------------------

    def pick(self, items):
        return items[int(self.random.integers(len(items)))]

    def chance(self, share):
        return bool(self.random.random() < share)

    def row(self):
        """A live row with text, a place and an embedding."""
        ids = self.model.id_of
        while True:
            row = self.model.rows.get(self.pick(ids))
            if row and None not in (row["summary"], row["location"], row["tenant_id"]):
                if row["embedding"] is not None and row["description"] is not None:
                    return row

    def vector(self):
        """A question's embedding, or a row's with noise, of any length."""
        if self.chance(0.5):
            base = self.pick(self.questions)
        else:
            noise = self.random.normal(size=self.questions.shape[1]) * 0.02
            base = self.row()["embedding"] + noise
        return np.asarray(base * self.pick([1.0, 1.0, 0.5, 3.0]), dtype=np.float32)

    # ---- text queries -----------------------------------------------------------------------

    def words(self):
        """The plain words of a row: what a query may be made of."""
        while True:
            row = self.row()
            text = self.pick([row["summary"], row["description"]])
            found = [w.strip(".,;:()\"'`") for w in text.split()]
            found = [w for w in found if w.isascii() and w.replace("-", "").isalnum()]
            found = [w for w in found if w[0] != "-" and w not in ("AND", "OR", "NOT")]
            if len(found) > 2:
                return text, found

    def term(self):
        text, words = self.words()
        kind = self.random.random()
        # The longer of two words: not only "the", "of" and "and".
        word = max(self.pick(words), self.pick(words), key=len)
        if kind < 0.25 and len(word) > 3 and word.isalnum():
            return word[: int(self.random.integers(3, len(word)))] + "*"
        if kind < 0.4:
            at = int(self.random.integers(len(words) - 1))
            phrase = " ".join(words[at : at + int(self.random.integers(2, 4))])
            if phrase in text:
                return f'"{phrase}"'
        return word

    def text_query(self, depth=2):
        if depth == 0 or self.chance(0.2):
            return self.term()
        parts = [self.text_part(depth) for _ in range(int(self.random.integers(2, 4)))]
        shape = self.random.random()
        if shape < 0.55:
            return " OR ".join(parts)
        if shape < 0.75:
            return f"{parts[0]} NOT {self.term()}" if self.chance(0.3) else " ".join(parts[:2])
        if shape < 0.9:
            return f"({parts[0]} OR {parts[1]}) AND NOT {self.term()}"
        return " AND ".join(parts[:2])

    def text_part(self, depth):
        inner = self.text_query(depth - 1)
        return f"({inner})" if " " in inner and not inner.startswith('"') else inner

    # ---- predicates -------------------------------------------------------------------------

    def near(self):
        lon, lat = self.row()["location"]
        lon = round(lon + float(self.random.normal()) * 2, 4)
        lat = round(lat + float(self.random.normal()) * 2, 4)
        point = self.pick([(13.4, 52.5), (lon, max(-89.0, min(89.0, lat)))])
        places = {r["location"] for r in self.model.rows.values() if r["location"]}
        while True:
            metres = round(math.exp(self.random.uniform(math.log(5e4), math.log(8e6))))
            gaps = (abs(self.model.metres(point, p) - metres) for p in places)
            if min(gaps) > CIRCLE_MARGIN_METRES:
                break
        sql = f"ST_GeomFromText('{point_text(point)}')" if self.chance(0.1) else None
        return Near(point, metres, sql)

    def leaf(self):
        row, kind = self.row(), self.random.random()
        if kind < 0.35:
            return TextMatch(self.text_query())
        if kind < 0.55:
            return self.near()
        if kind < 0.72:
            return compare("tenant_id", self.pick(["=", "=", "=", "<>"]), row["tenant_id"])
        if kind < 0.76:
            return one_of("tenant_id", [row["tenant_id"], self.row()["tenant_id"], 42])
        if kind < 0.84:
            return compare("installed_kib", self.pick(["<", ">="]), row["installed_kib"])
        if kind < 0.87:
            low = int(self.random.integers(10, 200))
            return between("installed_kib", low, low + int(self.random.integers(50, 5000)))
        if kind < 0.92:
            return compare("section", self.pick(["=", "<>"]), row["section"])
        if kind < 0.95:
            return starts_with("name", self.pick(["lib", "python3-", "golang-", "r", "ruby"]))
        column = self.pick(["location", "embedding", "tenant_id", "summary"])
        return is_null(column, negated=self.chance(0.7))

    def predicate(self):
        shape = self.random.random()
        if shape < 0.1:
            return self.maybe_not()
        if shape < 0.65:
            return And(*(self.maybe_not() for _ in range(int(self.random.integers(2, 5)))))
        if shape < 0.9:
            return And(Or(self.leaf(), self.leaf()), self.maybe_not())
        return And(Not(And(self.leaf(), self.leaf())), Or(self.maybe_not(), self.leaf()))

    def maybe_not(self):
        return Not(self.leaf()) if self.chance(0.15) else self.leaf()

    # ---- asking -----------------------------------------------------------------------------

    def ask(self):
        """A variant; empty answers are drawn again where they would become too many."""
        while True:
            ask = self.pick([self.ranked] * 5 + [self.count] * 2 + [self.scored] * 2 + [self.other])()
            empty = ask.evaluate(self.model).is_empty()
            if not empty or self.empty + 1 <= EMPTY_SHARE_MAX * (self.asked + 1):
                self.asked += 1
                self.empty += empty
                return ask

    def limit(self):
        return self.pick([10, 10, 10, 1, 3, 25, 50])

    def ranked(self):
        predicate, vector, limit = self.predicate(), self.vector(), self.limit()
        operator = self.pick(["<=>"] * 6 + ["<->", "<#>", "<+>"])
        relation, source = self.pick([("packages", "packages"), ("p", "packages p")])
        sql = (
            f"SELECT id, name, embedding {operator} $1 AS distance FROM {source}"
            f" WHERE {predicate.sql(relation)} ORDER BY embedding {operator} $1 LIMIT {limit}"
        )

        def evaluate(model):
            ids = true_ids(model, predicate)
            names = [model.rows[i]["name"] for i in ids]
            return Ranked(ids, names, model.distances(operator, vector, ids), limit, 1e-6)

        if self.chance(0.1):
            sql = f"SELECT id, name, distance FROM ({sql}) AS nearest ORDER BY distance, id"
        return Ask(sql, vector, evaluate)

    def scored(self):
        query = TextMatch(self.text_query())
        predicate = And(query, self.leaf()) if self.chance(0.7) else And(query)
        limit = self.limit()
        score = f"bm25_score(packages, {literal(query.query)})"
        sql = (
            f"SELECT id, name, {score} AS score FROM packages"
            f" WHERE {predicate.sql('packages')} ORDER BY {score} DESC LIMIT {limit}"
        )

        def evaluate(model):
            scores = model.text.scorer(query.tree)
            ids = true_ids(model, predicate)
            names = [model.rows[i]["name"] for i in ids]
            # Best first is ascending by the negated score; the sign is turned back to compare.
            return Ranked(ids, names, [scores(i) for i in ids], limit, 1e-4, descending=True)

        return Ask(sql, None, evaluate)

    def count(self):
        predicate = self.predicate()
        sql = f"SELECT count(*) FROM packages WHERE {predicate.sql('packages')}"
        return Ask(sql, None, lambda model: Counted(len(true_ids(model, predicate))))

    def other(self):
        return self.pick([self.by_key, self.grouped, self.within, self.joined])()

    def by_key(self):
        predicate, limit = self.predicate(), self.limit()
        sql = f"SELECT id, tenant_id FROM packages WHERE {predicate.sql('packages')} ORDER BY id LIMIT {limit}"

        def evaluate(model):
            ids = true_ids(model, predicate)[:limit]
            return Exact(["int", "int"], [[i, model.rows[i]["tenant_id"]] for i in ids])

        return Ask(sql, None, evaluate)

    def grouped(self):
        predicate = self.predicate()
        sql = (
            f"SELECT section, count(*), min(id) FROM packages"
            f" WHERE {predicate.sql('packages')} GROUP BY section ORDER BY section"
        )

        def evaluate(model):
            groups = {}
            for i in true_ids(model, predicate):
                groups.setdefault(model.rows[i]["section"], []).append(i)
            rows = [[s, len(g), g[0]] for s, g in sorted(groups.items(), key=lambda x: x[0])]
            return Exact(["text", "int", "int"], rows)

        return Ask(sql, None, evaluate)

    def within(self):
        outer, inner = self.leaf(), self.predicate()
        sql = (
            f"SELECT count(*) FROM packages WHERE {_and(outer, 'packages')}"
            f" AND id IN (SELECT id FROM packages WHERE {inner.sql('packages')})"
        )

        def evaluate(model):
            kept = set(true_ids(model, outer)) & set(true_ids(model, inner))
            return Counted(len(kept))

        return Ask(sql, None, evaluate)

    def joined(self):
        near = self.row()
        predicate = self.predicate_for_join()
        sql = (
            f"SELECT a.id, b.name FROM packages a JOIN packages b ON b.place = a.place"
            f" WHERE b.id = {near['id']} AND {predicate.sql('a')} ORDER BY a.id LIMIT 20"
        )

        def evaluate(model):
            other = model.rows.get(near["id"])
            ids = true_ids(model, predicate) if other else []
            place = other and other["place"]
            kept = [i for i in ids if place is not None and model.rows[i]["place"] == place]
            return Exact(["int", "text"], [[i, other["name"]] for i in kept[:20]])

        return Ask(sql, None, evaluate)

    def predicate_for_join(self):
        """A text condition: the only one that names its relation, so a join is not ambiguous."""
        return TextMatch(self.text_query())

    # ---- writing ----------------------------------------------------------------------------

    def write(self):
        kinds = [self.delete, self.delete_many, self.retenant, self.retext, self.move]
        kinds += [self.remean, self.blank, self.grow, self.insert, self.insert, self.upsert]
        return self.pick(kinds)()

    def delete(self):
        ids = sorted({self.row()["id"] for _ in range(int(self.random.integers(1, 6)))})
        for i in ids:
            self.model.delete(i)
        where = f"id = {ids[0]}" if len(ids) == 1 else f"id IN ({', '.join(map(str, ids))})"
        return Write(f"DELETE FROM packages WHERE {where}", [], len(ids))

    def small(self):
        """A predicate that few rows meet, with their ids."""
        while True:
            row = self.row()
            place = compare("place", "=", row["place"])
            predicate = And(place, self.pick([TextMatch(self.term()), self.leaf()]))
            ids = true_ids(self.model, predicate)
            if len(ids) <= WRITE_ROWS_MAX:
                return predicate.sql("packages"), ids

    def delete_many(self):
        where, ids = self.small()
        for i in ids:
            self.model.delete(i)
        return Write(f"DELETE FROM packages WHERE {where}", [], len(ids))

    def change(self, ids, change):
        for i in ids:
            row = self.model.rows[i]
            self.model.put({**row, **change(row)})

    def retenant(self):
        where, ids = self.small()
        tenant = self.pick([42, self.row()["tenant_id"]])
        self.change(ids, lambda _: {"tenant_id": tenant})
        return Write(f"UPDATE packages SET tenant_id = {tenant} WHERE {where}", [], len(ids))

    def grow(self):
        where, ids = self.small()
        by = int(self.random.integers(1, 5000))
        self.change(ids, lambda row: {"installed_kib": row["installed_kib"] + by})
        sql = f"UPDATE packages SET installed_kib = installed_kib + {by} WHERE {where}"
        return Write(sql, [], len(ids))

    def retext(self):
        row, (other, words) = self.row(), self.words()
        summary = " ".join(words[::-1])
        self.change([row["id"]], lambda _: {"summary": summary, "description": other})
        sql = "UPDATE packages SET summary = $1, description = $2 WHERE id = $3"
        return Write(sql, [summary, other, row["id"]], 1)

    def move(self):
        row, other = self.row(), self.row()
        self.change([row["id"]], lambda _: {k: other[k] for k in ("place", "location")})
        sql = (
            f"UPDATE packages SET place = {literal(other['place'])},"
            f" location = '{point_text(other['location'])}' WHERE id = {row['id']}"
        )
        return Write(sql, [], 1)

    def remean(self):
        row, vector = self.row(), self.vector()
        self.change([row["id"]], lambda _: {"embedding": vector})
        sql = f"UPDATE packages SET embedding = $1 WHERE id = {row['id']}"
        return Write(sql, [vector_text(vector)], 1)

    def blank(self):
        row = self.row()
        columns = self.pick(
            [["location"], ["embedding"], ["tenant_id"], ["summary"], ["summary", "description"]]
        )
        self.change([row["id"]], lambda _: dict.fromkeys(columns))
        sets = ", ".join(f"{c} = NULL" for c in columns)
        return Write(f"UPDATE packages SET {sets} WHERE id = {row['id']}", [], 1)

    def new_row(self, row_id):
        """A row made of parts of others."""
        a, b, c = self.row(), self.row(), self.row()
        return {
            **a,
            "id": row_id,
            "name": f"{b['name']}-{row_id}",
            "tenant_id": c["tenant_id"],
            "description": b["description"],
            "place": c["place"],
            "location": c["location"],
            "embedding": self.vector(),
        }

    def insert(self):
        """One to three rows; half of the time under an id that was deleted before."""
        gone = [i for i in self.model.id_of if i not in self.model.rows]
        ids = set()
        for _ in range(int(self.random.integers(1, 4))):
            again = gone and self.chance(0.5)
            ids.add(self.pick(gone) if again else max(self.model.id_of) + 1 + len(ids))
        rows = [self.new_row(i) for i in sorted(ids)]
        for row in rows:
            self.model.put(row)
        return Write(f"INSERT INTO packages VALUES {', '.join(map(_values, rows))}", [], len(rows))

    def upsert(self):
        old = self.row()
        row = self.new_row(old["id"])
        sql = f"INSERT INTO packages VALUES {_values(row)} ON CONFLICT (id) DO "
        if self.chance(0.4):
            return Write(sql + "NOTHING", [], 0)
        columns = ("tenant_id", "description", "embedding")
        self.change([old["id"]], lambda _: {c: row[c] for c in columns})
        sets = ", ".join(f"{c} = EXCLUDED.{c}" for c in columns)
        return Write(f"{sql}UPDATE SET {sets}", [], 1)


def _and(predicate, relation):
    sql = predicate.sql(relation)
    return f"({sql})" if isinstance(predicate, Or) else sql


def _values(row):
    shown = dict(
        row, location=point_text(row["location"]), embedding=vector_text(row["embedding"])
    )
    return "(" + ", ".join(literal(v) for v in shown.values()) + ")"
