"""Makes the demo's data from the atlas data set: 2,000 packages and a few questions.

    python3 make_extract.py DIRECTORY_WITH_ATLAS

needs pyarrow, numpy and geographiclib. It writes atlas-2000.parquet and queries.parquet beside
itself. The choice is deterministic: every package that the demo's text condition accepts (so
that the answers are those of the whole set), then the nearest packages to each question, then
packages in the order of a hash of their name, until there are 2,000. Columns, rows' order and
embeddings (384 x float16, unit length) are as in the source.
"""

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 2000
NEAREST_PER_QUESTION = 60
# Texts of the source's queries.parquet that read well as questions.
QUESTIONS = [
    "nearest neighbor descent for approximate nearest neighbors",
    "BioConductor facilities for parallel evaluation",
    "GNU Transactional Memory Library",
    "Tiny vi compatible editor for the base system",
    "Python Robot OS robot metapackage",
]
# A package whose own embedding asks for packages like it.
LIKE = "libheaptrack"


def in_text(row):
    """The demo's text condition, widely: (memory OR performance) AND (debug* OR profil* OR analy*)."""
    words = re.findall(r"\w+", (row["summary"] + " " + row["description"]).lower())
    topic = any(w.startswith(("memor", "perform")) for w in words)
    return topic and any(w.startswith(("debug", "profil", "analy")) for w in words)


def main(source):
    here = Path(__file__).resolve().parent
    packages = pq.read_table(source / "packages.parquet")
    rows = packages.drop_columns(["embedding"]).to_pylist()
    flat = packages["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors = flat.reshape(-1, 384).astype(np.float32)

    asked = pq.read_table(source / "queries.parquet").to_pylist()
    by_text = {q["text"]: q["embedding"] for q in asked}
    like = next(i for i, r in enumerate(rows) if r["name"] == LIKE)
    questions = [(f"like {LIKE}: {rows[like]['summary']}", vectors[like].astype(np.float16))]
    questions += [(text, np.array(by_text[text], dtype=np.float16)) for text in QUESTIONS]

    chosen = {i for i, row in enumerate(rows) if in_text(row)}
    for _, vector in questions:
        order = np.argsort(-(vectors @ vector.astype(np.float32)), kind="stable")
        chosen.update(int(i) for i in order[:NEAREST_PER_QUESTION])
    by_hash = sorted(range(len(rows)), key=lambda i: hashlib.sha256(rows[i]["name"].encode()).digest())
    for i in by_hash:
        if len(chosen) == ROWS:
            break
        chosen.add(i)

    extract = packages.take(pa.array(sorted(chosen)))
    write(extract, here / "atlas-2000.parquet")
    embedding = packages.schema.field("embedding").type
    table = pa.table(
        {
            "text": pa.array([text for text, _ in questions]),
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(np.concatenate([v for _, v in questions])), type=embedding
            ),
        }
    )
    write(table, here / "queries.parquet")
    print(f"{extract.num_rows} packages, {table.num_rows} questions")


def write(table, path):
    # Dictionaries do not pay for columns in which every value differs.
    pq.write_table(
        table.replace_schema_metadata(None),
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=["section", "priority", "place", "location"],
        row_group_size=ROWS,
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
