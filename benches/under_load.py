#!/usr/bin/env python3
"""Point selects beside bulk work: while 20,000 packages are loaded, and while they are checkpointed.

    python3 benches/under_load.py --ndb target/release/ndb --atlas DIR [--runs 5] [--serve-args ...]

Each run times point selects of one pgbench connection alone, then the same while `ndb import`
loads the packages into a collection with four indexes. Printed are the median 99th percentiles of
both, the load's rate, how many turns of the cores took how much CPU time during the loads (wall
time beside it: the load generator shares the processors), and for how long a worker was with one
task at a stretch.

Then a node that checkpoints a core whenever it has logged 64 kB: selects alone, and while updates
at a fixed rate keep the checkpoints of the loaded packages going. Needs pgbench and psql.
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


UPDATES_PER_SECOND = 100
UPDATE = f"\\set id random(1, {ROWS})\nUPDATE packages SET tenant_id = (:id % 7)::int WHERE id = :id;\n"


class Server:
    def __init__(self, binary, folder, extra):
        self.process = subprocess.Popen(
            [binary, "serve", "--data-dir", folder, "--pg-port", "0", "--http-port", "0",
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

    def metrics(self):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics").read().decode()

    def histogram(self, name):
        """Counts by class, over all cores: {upper bound: count}."""
        text = self.metrics()
        counts = {}
        for label in set(re.findall(name + r'_bucket{(core="\d+",)?le', text)):
            below = 0
            for bound, count in re.findall(name + rf'_bucket{{{label}le="([^"]+)"}} (\d+)', text):
                counts[bound] = counts.get(bound, 0) + int(count) - below
                below = int(count)
        return counts

    def total(self, name):
        """The sum of a figure over all cores."""
        return sum(int(v) for v in re.findall(rf'^{name}{{[^}}]*}} (\d+)$', self.metrics(), re.M))

    def load_payloads(self):
        self.sql("CREATE TABLE bench (id BIGINT PRIMARY KEY, payload TEXT NOT NULL)")
        self.sql("COPY bench FROM STDIN",
                 stdin="".join(f"{i}\tpayload number {i} of the benchmark\n" for i in range(1, ROWS + 1)))

    def load_packages(self, binary, atlas):
        subprocess.run([binary, "import", f"{atlas}/packages.parquet", "--into", "packages",
                        "--url", f"ndb://127.0.0.1:{self.native}"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self):
        self.process.terminate()
        self.process.wait()


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


def shown(histogram):
    text = ", ".join(f"≤ {float(bound) * 1e3:g} ms: {count:,}" for bound, count in
                     sorted(histogram.items(), key=lambda item: float(item[0])))
    return text.replace("≤ inf ms", "> 2 ms")


def ratio(usual, loaded):
    return statistics.median(b / a for a, b in zip(usual, loaded))


def during_loads(args, folder):
    server = Server(args.ndb, f"{folder}/loads", args.serve_args.split())
    try:
        server.load_payloads()
        usual, loaded, rates = [], [], []
        names = ["ndb_turn_seconds", "ndb_turn_wall_seconds", "ndb_poll_seconds"]
        totals = {name: {} for name in names}
        for run in range(args.runs):
            usual.append(selects(server, folder, seconds=4))
            if run > 0:
                server.sql("DROP COLLECTION packages")
            server.sql(COLLECTION, *INDEXES)
            before = {name: server.histogram(name) for name in names}

            def load():
                begin = time.perf_counter()
                server.load_packages(args.ndb, args.atlas)
                rates.append(ROWS / (time.perf_counter() - begin))

            loaded.append(selects(server, folder, until=load))
            for name in names:
                for bound, count in server.histogram(name).items():
                    totals[name][bound] = totals[name].get(bound, 0) + count - before[name].get(bound, 0)
    finally:
        server.stop()
    print("| during the load of 20,000 packages | |")
    print("|---|---|")
    print(f"| rows loaded a second, median | {statistics.median(rates):,.0f} |")
    print(f"| point select p99, alone | {statistics.median(usual):.2f} ms |")
    print(f"| point select p99, during the load | {statistics.median(loaded):.2f} ms ({ratio(usual, loaded):.1f} ×) |")
    for name, what in zip(names, ["turns by CPU time", "turns by wall time", "workers' polls by wall time"]):
        print(f"| {what} | {shown(totals[name])} |")


def during_checkpoints(args, folder):
    server = Server(args.ndb, f"{folder}/checkpoints", ["--checkpoint-log", "64kB", *args.serve_args.split()])
    try:
        server.load_payloads()
        server.sql(COLLECTION, *INDEXES)
        server.load_packages(args.ndb, args.atlas)
        script = f"{folder}/update.sql"
        with open(script, "w") as f:
            f.write(UPDATE)
        usual, loaded, ended, written = [], [], [], []
        for _ in range(args.runs):
            settle(server)
            usual.append(selects(server, folder, seconds=4))
            before = [server.total(f"ndb_checkpoint{name}") for name in ("s_total", "_written_bytes_total")]

            def update():
                subprocess.run([pg_tool("pgbench"), "-h", "127.0.0.1", "-p", server.pg, "-U", "bench", "-n", "-M",
                                "prepared", "-f", script, "-c", "1", "-T", "5", "-R", str(UPDATES_PER_SECOND),
                                "nodedb"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

            loaded.append(selects(server, folder, until=update))
            ended.append(server.total("ndb_checkpoints_total") - before[0])
            written.append(server.total("ndb_checkpoint_written_bytes_total") - before[1])
    finally:
        server.stop()
    print(f"| during checkpoints of the packages, {UPDATES_PER_SECOND} updates a second | |")
    print("|---|---|")
    print(f"| checkpoints of a shard in 5 s, median | {statistics.median(ended):,.0f} "
          f"({statistics.median(written) / 2**20:.1f} MiB written) |")
    print(f"| point select p99, alone | {statistics.median(usual):.2f} ms |")
    print(f"| point select p99, during checkpoints | {statistics.median(loaded):.2f} ms ({ratio(usual, loaded):.1f} ×) |")


def settle(server):
    """Waits until no checkpoint ends any more."""
    last = -1
    while (now := server.total("ndb_checkpoints_total")) != last:
        last = now
        time.sleep(1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ndb", required=True)
    parser.add_argument("--atlas", required=True, help="folder with packages.parquet")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--serve-args", default="", help="more arguments for ndb serve")
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="under-load-")
    try:
        during_loads(args, folder)
        print()
        during_checkpoints(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
