"""Full text as the specification says it: analysis, query grammar, matching and BM25.

Analysis: runs of letters and digits are tokens; a token of more than 40 bytes is dropped and
leaves a hole in the positions; lower case; English stem (Snowball 3); no stop words. All columns
of a row are one document, with a gap of positions between columns.

A query is a tree of tuples: ("word", text), ("prefix", text), ("phrase", text), ("and", [...]),
("or", [...]), ("not", query).
"""

import math
from collections import Counter

import snowballstemmer

TOKEN_BYTES_MAX = 40
COLUMN_GAP = 1000
K1, B = 1.2, 0.75

_stemmer = snowballstemmer.stemmer("english")
_stems = {}


def stem(token):
    """The English stem of a lower-case token."""
    found = _stems.get(token)
    if found is None:
        found = _stems[token] = _stemmer.stemWord(token)
    return found


def tokens(text):
    """(position, lower-case token) of each token that is kept."""
    found, start, position = [], None, 0
    for at, char in enumerate(text + " "):
        if char.isalnum():
            start = at if start is None else start
        elif start is not None:
            token = text[start:at]
            if len(token.encode()) <= TOKEN_BYTES_MAX:
                found.append((position, token.lower()))
            position += 1
            start = None
    return found


class SyntaxProblem(Exception):
    """The text is not a query of the grammar."""


def parse(text):
    """Reads `words AND OR NOT ( ) "phrases" prefix*`; side by side means AND."""
    items, at = [], 0
    while at < len(text):
        char = text[at]
        if char.isspace():
            at += 1
        elif char in "()":
            items.append(char)
            at += 1
        elif char == '"':
            end = text.find('"', at + 1)
            if end < 0:
                raise SyntaxProblem("open phrase")
            items.append(("phrase", text[at + 1 : end]))
            at = end + 1
        else:
            end = at
            while end < len(text) and not text[end].isspace() and text[end] not in '()"':
                end += 1
            word = text[at:end]
            if word in ("AND", "OR", "NOT"):
                items.append(word)
            elif word.endswith("*"):
                items.append(("prefix", word[:-1]))
            else:
                items.append(("word", word))
            at = end
    query, rest = _parse_or(items)
    if rest:
        raise SyntaxProblem(f"unexpected {rest[0]}")
    return query


def _parse_or(items):
    first, items = _parse_and(items)
    parts = [first]
    while items and items[0] == "OR":
        part, items = _parse_and(items[1:])
        parts.append(part)
    return (parts[0] if len(parts) == 1 else ("or", parts)), items


def _parse_and(items):
    first, items = _parse_not(items)
    parts = [first]
    while items and items[0] not in ("OR", ")"):
        part, items = _parse_not(items[1:] if items[0] == "AND" else items)
        parts.append(part)
    return (parts[0] if len(parts) == 1 else ("and", parts)), items


def _parse_not(items):
    if not items:
        raise SyntaxProblem("a word is missing")
    head, rest = items[0], items[1:]
    if head == "NOT":
        inner, rest = _parse_not(rest)
        return ("not", inner), rest
    if head == "(":
        inner, rest = _parse_or(rest)
        if not rest or rest[0] != ")":
            raise SyntaxProblem("open parenthesis")
        return inner, rest[1:]
    if isinstance(head, tuple):
        return head, rest
    raise SyntaxProblem(f"unexpected {head}")


class Document:
    """One row's text: positions by stem, number of times by token, and the length in tokens."""

    def __init__(self, columns):
        self.positions, self.counts, self.length = {}, Counter(), 0
        base = 0
        for text in columns:
            last = 0
            for position, token in tokens(text or ""):
                self.positions.setdefault(stem(token), []).append(base + position)
                self.counts[token] += 1
                self.length += 1
                last = position
            base += last + COLUMN_GAP


class TextIndex:
    """The live documents of a collection, by row. A row whose columns are all NULL has none."""

    def __init__(self):
        self.documents = {}
        self.by_stem, self.by_token = {}, {}
        self.length_total = 0

    def put(self, row, columns):
        """Sets the text of a row; `columns` is None for a row that goes."""
        old = self.documents.pop(row, None)
        if old:
            self.length_total -= old.length
            for by, keys in ((self.by_stem, old.positions), (self.by_token, old.counts)):
                for key in keys:
                    by[key].discard(row)
                    if not by[key]:
                        del by[key]
        if columns is None or all(c is None for c in columns):
            return
        new = self.documents[row] = Document(columns)
        self.length_total += new.length
        for by, keys in ((self.by_stem, new.positions), (self.by_token, new.counts)):
            for key in keys:
                by.setdefault(key, set()).add(row)

    def match(self, query):
        """The rows for which the query is true; unknown for rows without a document."""
        kind, value = query
        if kind == "and":
            return set.intersection(*(self.match(q) for q in value))
        if kind == "or":
            return set.union(*(self.match(q) for q in value))
        if kind == "not":
            return set(self.documents) - self.match(value)
        if kind == "prefix":
            return set().union(*(self.by_token[t] for t in self._expand(value)))
        return self._match_phrase(value)

    def _expand(self, prefix):
        prefix = prefix.lower()
        return [t for t in self.by_token if t.startswith(prefix)]

    def _match_phrase(self, text):
        parts = [(p, stem(t)) for p, t in tokens(text)]
        if not parts:
            return set()
        rows = set.intersection(*(self.by_stem.get(s, set()) for _, s in parts))
        if len(parts) == 1:
            return set(rows)
        first = parts[0][0]
        found = set()
        for row in rows:
            positions = self.documents[row].positions
            starts = set(positions[parts[0][1]])
            for offset, s in parts[1:]:
                starts &= {p - (offset - first) for p in positions[s]}
            if starts:
                found.add(row)
        return found

    def scorer(self, query):
        """A function from row to BM25 score; NULL (None) for a row without a document.

        A word scores as its stem; a phrase as the sum of its words; a prefix as one term whose
        frequency is the number of matching tokens; what stands under NOT does not score.
        """
        terms = [self._term(t) for t in _scored(query)]
        count = len(self.documents)
        mean = self.length_total / count if count else 0.0

        def score(row):
            document = self.documents.get(row)
            if document is None:
                return None
            total = 0.0
            for frequency, rows in terms:
                if row in rows:
                    tf = frequency(document)
                    df = len(rows)
                    idf = math.log(1 + (count - df + 0.5) / (df + 0.5))
                    norm = K1 * (1 - B + B * document.length / mean)
                    total += idf * tf * (K1 + 1) / (tf + norm)
            return total

        return score

    def _term(self, term):
        kind, value = term
        if kind == "stem":
            return (lambda d: len(d.positions[value])), self.by_stem.get(value, set())
        expanded = self._expand(value)
        rows = set().union(*(self.by_token[t] for t in expanded))
        return (lambda d: sum(d.counts.get(t, 0) for t in expanded)), rows


def _scored(query):
    kind, value = query
    if kind in ("and", "or"):
        return [t for part in value for t in _scored(part)]
    if kind == "not":
        return []
    if kind == "prefix":
        return [("prefix", value)]
    return [("stem", stem(t)) for _, t in tokens(value)]
