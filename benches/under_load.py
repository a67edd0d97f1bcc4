#!/usr/bin/env python3
"""While 20,000 packages are loaded: the length of the cores' turns, and point selects beside it.

    python3 benches/under_load.py --ndb target/release/ndb --atlas DIR [--runs 5] [--serve-args ...]

Each run times point selects of one pgbench connection alone, then the same while `ndb import`
loads the packages into a collection with four indexes. Printed are the median 99th percentiles of
both, the load's rate, and how many turns of the cores took how much CPU time during the loads
(wall time beside it: the load generator shares the processors). Needs pgbench and psql.
"""
import argparse
import glob
import os
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.request

ROWS = 20_000
SELECT = f"\\set id random(1, {ROWS})\nSELECT payload FROM bench WHERE id = :id;\n"
COLLECTION = """CREATE COLLECTION packages (
  id BIGINT PRIMARY KEY, name TEXT NOT NULL, section TEXT, priority TEXT, installed_kib BIGINT, tenant_id INT,
  summary TEXT, description TEXT, place TEXT, location GEOGRAPHY(POINT), embedding VECTOR(384)
) WITH (engine = 'document_strict')"""
INDEXES = ["CREATE INDEX packages_tenant ON packages (tenant_id)",
           "CREATE INDEX packages_text ON packages USING fulltext (summary, description) WITH (analyzer = 'english')",
           "CREATE INDEX packages_place ON packages USING rtree (location)",
           "CREATE INDEX packages_meaning ON packages USING hnsw (embedding vector_cosine_ops)"]


def pg_tool(name):
    found = shutil.which(name) or next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))), None)
    if not found:
        raise SystemExit(f"{name} is not installed")
    return found


class Server:
    def __init__(self, binary, folder, extra):
        self.process = subprocess.Popen(
            [binary, "serve", "--data-dir", f"{folder}/data", "--pg-port", "0", "--http-port", "0",
             "--native-port", "0", *extra], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        ready = next((line for line in self.process.stdout if line.startswith("ready ")), None)
        if ready is None:
            raise SystemExit("the server did not become ready")
        self.pg, self.http, self.native = (re.search(rf"{name}=\S+:(\d+)", ready).group(1)
                                           for name in ("pg", "http", "native"))

    def sql(self, *statements, stdin=None):
        for statement in statements:
            subprocess.run([pg_tool("psql"), "-h", "127.0.0.1", "-p", self.pg, "-U", "bench", "-d", "nodedb", "-q",
                            "-v", "ON_ERROR_STOP=1", "-c", statement],
                           check=True, input=stdin, text=True, stdout=subprocess.DEVNULL)

    def turns(self, name):
        """Turns of all cores by class: {upper bound: count}."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics").read().decode()
        counts = {}
        for core in set(re.findall(name + r'_bucket{core="(\d+)"', text)):
            below = 0
            for bound, count in re.findall(name + rf'_bucket{{core="{core}",le="([^"]+)"}} (\d+)', text):
                counts[bound] = counts.get(bound, 0) + int(count) - below
                below = int(count)
        return counts


def selects(server, folder, seconds=None, until=None):
    """The 99th percentile (milliseconds) of point selects for so long, or until a process ends."""
    script, log = f"{folder}/select.sql", f"{folder}/selects"
    with open(script, "w") as f:
        f.write(SELECT)
    for old in glob.glob(log + ".*"):
        os.remove(old)
    bench = subprocess.Popen([pg_tool("pgbench"), "-h", "127.0.0.1", "-p", server.pg, "-U", "bench", "-n", "-M",
                              "prepared", "-f", script, "-c", "1", "-T", str(seconds or 600), "-l",
                              "--log-prefix", log, "nodedb"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if until is not None:
        until()
        bench.send_signal(signal.SIGINT)
    bench.wait()
    took = []
    for path in glob.glob(log + ".*"):
        for line in open(path):
            fields = line.split()
            if len(fields) > 2:
                took.append(int(fields[2]))
    took.sort()
    return took[int((len(took) - 1) * 0.99)] / 1e3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ndb", required=True)
    parser.add_argument("--atlas", required=True, help="folder with packages.parquet")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--serve-args", default="", help="more arguments for ndb serve")
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="under-load-")
    server = Server(args.ndb, folder, args.serve_args.split())
    try:
        server.sql("CREATE TABLE bench (id BIGINT PRIMARY KEY, payload TEXT NOT NULL)")
        server.sql("COPY bench FROM STDIN",
                   stdin="".join(f"{i}\tpayload number {i} of the benchmark\n" for i in range(1, ROWS + 1)))
        usual, loaded, rates = [], [], []
        names = ["ndb_turn_seconds", "ndb_turn_wall_seconds"]
        totals = {name: {} for name in names}
        for run in range(args.runs):
            usual.append(selects(server, folder, seconds=4))
            if run > 0:
                server.sql("DROP COLLECTION packages")
            server.sql(COLLECTION, *INDEXES)
            before = {name: server.turns(name) for name in names}

            def load():
                begin = time.perf_counter()
                subprocess.run([args.ndb, "import", f"{args.atlas}/packages.parquet", "--into", "packages",
                                "--url", f"ndb://127.0.0.1:{server.native}"],
                               check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                rates.append(20_000 / (time.perf_counter() - begin))

            loaded.append(selects(server, folder, until=load))
            for name in names:
                for bound, count in server.turns(name).items():
                    totals[name][bound] = totals[name].get(bound, 0) + count - before[name].get(bound, 0)
        print("| during the load of 20,000 packages | |")
        print("|---|---|")
        print(f"| rows loaded a second, median | {statistics.median(rates):,.0f} |")
        print(f"| point select p99, alone | {statistics.median(usual):.2f} ms |")
        ratio = statistics.median(b / a for a, b in zip(usual, loaded))
        print(f"| point select p99, during the load | {statistics.median(loaded):.2f} ms ({ratio:.1f} ×) |")
        for name, what in zip(names, ["CPU", "wall"]):
            shown = ", ".join(f"≤ {float(bound) * 1e3:g} ms: {count:,}" for bound, count in
                              sorted(totals[name].items(), key=lambda item: float(item[0])))
            print(f"| turns by {what} time | {shown.replace('≤ inf ms', '> 2 ms')} |")
    finally:
        server.process.terminate()
        server.process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
