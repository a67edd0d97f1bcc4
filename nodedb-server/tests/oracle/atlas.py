"""Reads the atlas data set and knows how it looks in SQL."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from model import COLUMNS, DIMENSIONS, vector_text

CREATE = """CREATE COLLECTION packages (
  id BIGINT PRIMARY KEY, name TEXT NOT NULL, section TEXT, priority TEXT, installed_kib BIGINT,
  tenant_id INT, summary TEXT, description TEXT, place TEXT, location GEOGRAPHY(POINT),
  embedding VECTOR(384)
) WITH (engine = 'document_strict')"""

INDEXES = [
    "CREATE INDEX packages_tenant ON packages (tenant_id)",
    "CREATE INDEX packages_text ON packages USING fulltext (summary, description)"
    " WITH (analyzer = 'english')",
    "CREATE INDEX packages_place ON packages USING rtree (location)",
    "CREATE INDEX packages_meaning ON packages USING hnsw (embedding vector_cosine_ops)",
]

COPY = f"COPY packages ({', '.join(COLUMNS)}) FROM STDIN"


def read_packages(folder, limit=None):
    """The rows as dicts. A limit takes every n-th row, so that all kinds of rows stay."""
    table = pq.read_table(Path(folder) / "packages.parquet")
    if limit and limit < table.num_rows:
        table = table.take([i * table.num_rows // limit for i in range(limit)])
    vectors = _vectors(table["embedding"])
    rows = table.drop_columns(["embedding"]).to_pylist()
    for row, vector in zip(rows, vectors):
        row["location"] = point_of(row["location"])
        row["embedding"] = vector
    return rows


def read_questions(folder):
    """The embeddings of texts that are not in the set, as float32 rows."""
    return _vectors(pq.read_table(Path(folder) / "queries.parquet")["embedding"])


def _vectors(column):
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, DIMENSIONS).astype(np.float32)


def point_of(wkt):
    """(longitude, latitude) of POINT(x y)."""
    x, y = wkt.removeprefix("POINT(").removesuffix(")").split()
    return float(x), float(y)


def point_text(point):
    return None if point is None else f"POINT({point[0]} {point[1]})"


def copy_line(row):
    """A row in COPY's text format."""
    shown = dict(row, location=point_text(row["location"]))
    if row["embedding"] is not None:
        shown["embedding"] = vector_text(row["embedding"])
    return "\t".join(_copy_value(shown[c]) for c in COLUMNS) + "\n"


def _copy_value(value):
    if value is None:
        return r"\N"
    text = str(value).replace("\\", r"\\")
    return text.replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")
