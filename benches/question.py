#!/usr/bin/env python3
"""The cross-engine question: NodeDB and PostgreSQL 16 with pgvector in turn, from one client.

Loads the 20,000 packages of the atlas data set into both, then times round trips of the same
prepared question over one connection each, alternating between the servers. PostgreSQL has an
HNSW index, a GIN index over the English text, a B-tree on the tenant, and a great-circle
expression for the distance on the map.

Its HNSW index looks at a fixed number of rows, `hnsw.ef_search`, and filters them then, so it may give
fewer than ten rows. A question with such an answer is asked again with that number doubled while that
brings more rows: the figure of an equal answer. Recall is the share of our rows, which are ranked
exactly, among theirs. (In the question itself PostgreSQL stems what stands before a `:*` too, `analy` to
`anali`, and so finds 5 of the 14 rows however long it looks.)

    pip install pgserver 'psycopg[binary]' pyarrow numpy
    python3 benches/question.py --ndb target/release/ndb --atlas DIR [--rounds 5] [--repeat 200]
"""
import argparse
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time

import psycopg
import pyarrow.parquet as parquet

NODEDB_SCHEMA = """
CREATE COLLECTION packages (
  id BIGINT PRIMARY KEY, name TEXT NOT NULL, section TEXT, priority TEXT, installed_kib BIGINT,
  tenant_id INT, summary TEXT, description TEXT, place TEXT, location GEOGRAPHY(POINT),
  embedding VECTOR(384)) WITH (engine = 'document_strict');
CREATE INDEX packages_tenant  ON packages (tenant_id);
CREATE INDEX packages_text    ON packages USING fulltext (summary, description) WITH (analyzer = 'english');
CREATE INDEX packages_place   ON packages USING rtree (location);
CREATE INDEX packages_meaning ON packages USING hnsw (embedding vector_cosine_ops)
"""
POSTGRES_SCHEMA = """
CREATE EXTENSION vector;
CREATE TABLE packages (
  id BIGINT PRIMARY KEY, name TEXT NOT NULL, section TEXT, priority TEXT, installed_kib BIGINT,
  tenant_id INT, summary TEXT, description TEXT, place TEXT, lon FLOAT8, lat FLOAT8,
  embedding VECTOR(384),
  words TSVECTOR GENERATED ALWAYS AS
    (to_tsvector('english', coalesce(summary, '') || ' ' || coalesce(description, ''))) STORED);
CREATE INDEX ON packages (tenant_id);
CREATE INDEX ON packages USING gin (words);
CREATE INDEX ON packages USING hnsw (embedding vector_cosine_ops)
"""
# The most that pgvector takes for hnsw.ef_search.
EF_SEARCH_MAX = 1000
PLACE = "ST_DWithin(location, ST_Point(13.4, 52.5), 1500000)"
CIRCLE = ("6371008.8 * acos(least(1, sin(radians(52.5)) * sin(radians(lat)) + "
          "cos(radians(52.5)) * cos(radians(lat)) * cos(radians(lon - 13.4)))) <= 1500000")


def nearest(where):
    return (f"SELECT name, summary, embedding <=> %s::vector AS distance FROM packages WHERE {where} "
            "ORDER BY embedding <=> %s::vector LIMIT 10")


QUESTIONS = [
    ("the question", 2,
     nearest(f"tenant_id = 42 AND text_match(packages, '(memory OR performance) AND (debug* OR profil* OR analy*)') AND {PLACE}"),
     nearest(f"tenant_id = 42 AND words @@ to_tsquery('english', '(memory | performance) & (debug:* | profil:* | analy:*)') AND {CIRCLE}")),
    ("broad, nearest ten", 2,
     nearest(f"text_match(packages, 'library OR data OR file') AND {PLACE}"),
     nearest(f"words @@ to_tsquery('english', 'library | data | file') AND {CIRCLE}")),
    ("broad, count(*)", 0,
     f"SELECT count(*) FROM packages WHERE text_match(packages, 'library OR data OR file') AND {PLACE}",
     f"SELECT count(*) FROM packages WHERE words @@ to_tsquery('english', 'library | data | file') AND {CIRCLE}"),
    ("tenant 42, nearest ten", 2, nearest("tenant_id = 42"), nearest("tenant_id = 42")),
]


def vector_text(values):
    return "[" + ",".join(repr(float(v)) for v in values) + "]"


def load(nodedb, postgres, atlas):
    rows = parquet.read_table(os.path.join(atlas, "packages.parquet")).to_pylist()
    plain = ["id", "name", "section", "priority", "installed_kib", "tenant_id", "summary", "description", "place"]
    with nodedb.cursor() as cursor:
        # In pieces, so that each statement stays well under its memory.
        for start in range(0, len(rows), 1000):
            with cursor.copy(f"COPY packages ({', '.join(plain)}, location, embedding) FROM STDIN") as copy:
                for row in rows[start:start + 1000]:
                    copy.write_row([row[c] for c in plain] + [row["location"], vector_text(row["embedding"])])
    with postgres.cursor() as cursor:
        with cursor.copy(f"COPY packages ({', '.join(plain)}, lon, lat, embedding) FROM STDIN") as copy:
            for row in rows:
                place = re.findall(r"-?[\d.]+", row["location"]) if row["location"] else [None, None]
                copy.write_row([row[c] for c in plain] + [*place, vector_text(row["embedding"])])
        cursor.execute("ANALYZE packages")


def time_one(connection, sql, params, repeat):
    with connection.cursor(binary=False) as cursor:
        for _ in range(10):
            cursor.execute(sql, params, prepare=True)
            got = cursor.fetchall()
        times = []
        for _ in range(repeat):
            begin = time.perf_counter()
            cursor.execute(sql, params, prepare=True)
            got = cursor.fetchall()
            times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3, got


def report(label, vectors, pairs, ours_rows, theirs_rows):
    ours, theirs = (statistics.median(column) for column in zip(*pairs))
    ratio = statistics.median(b / a for a, b in pairs)
    size = lambda rows: rows[0][0] if vectors == 0 else len(rows)
    names = {row[0] for row in ours_rows}
    recall = "" if vectors == 0 else f"{len(names & {row[0] for row in theirs_rows}) / max(len(names), 1):.1f}"
    print(f"| {label} | {ours:.3f} | {size(ours_rows)} | {theirs:.3f} | {size(theirs_rows)} | {recall} | {ratio:.1f} × |",
          flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ndb", required=True)
    parser.add_argument("--atlas", required=True, help="folder with packages.parquet and queries.parquet")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=200)
    parser.add_argument("--serve-args", default="")
    args = parser.parse_args()
    import pgserver

    folder = tempfile.mkdtemp(prefix="question-")
    server = subprocess.Popen([args.ndb, "serve", "--data-dir", f"{folder}/ndb", "--pg-port", "0", "--http-port", "0",
                               "--native-port", "0", *args.serve_args.split()], stdout=subprocess.PIPE, text=True)
    peer = pgserver.get_server(f"{folder}/pg")
    try:
        ready = next(line for line in server.stdout if line.startswith("ready "))
        port = re.search(r"pg=\S+:(\d+)", ready).group(1)
        nodedb = psycopg.connect(f"host=127.0.0.1 port={port} dbname=nodedb user=bench", autocommit=True)
        postgres = psycopg.connect(peer.get_uri(), autocommit=True)
        for statement in NODEDB_SCHEMA.split(";"):
            nodedb.execute(statement)
        for statement in POSTGRES_SCHEMA.split(";"):
            postgres.execute(statement)
        begin = time.perf_counter()
        load(nodedb, postgres, args.atlas)
        print(f"loaded both in {time.perf_counter() - begin:.1f} s\n")
        query = vector_text(parquet.read_table(f"{args.atlas}/queries.parquet").to_pylist()[0]["embedding"])
        print("| question | NodeDB ms | rows | PostgreSQL 16 ms | rows | recall | ratio |")
        print("|---|---|---|---|---|---|---|")
        for label, vectors, ours_sql, theirs_sql in QUESTIONS:
            params = [query] * vectors
            search, found = 40, -1
            while True:
                postgres.execute(f"SET hnsw.ef_search = {search}")
                pairs = []
                for _ in range(args.rounds):
                    ours, ours_rows = time_one(nodedb, ours_sql, params, args.repeat)
                    theirs, theirs_rows = time_one(postgres, theirs_sql, params, args.repeat)
                    pairs.append((ours, theirs))
                report(label if search == 40 else f"… its ef_search {search}", vectors, pairs, ours_rows, theirs_rows)
                if not found < len(theirs_rows) < len(ours_rows) or search * 2 > EF_SEARCH_MAX:
                    break
                search, found = search * 2, len(theirs_rows)
    finally:
        server.terminate()
        server.wait()
        peer.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
