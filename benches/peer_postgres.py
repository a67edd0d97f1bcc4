#!/usr/bin/env python3
"""Point selects and durable inserts: NodeDB and PostgreSQL in turn, driven by pgbench.

Both servers run on this machine with fsync on and share its processors with the load generator,
so server CPU per operation stands beside throughput. Each workload runs in pairs (NodeDB, then
PostgreSQL); medians over the pairs are printed as a Markdown table.

    python3 benches/peer_postgres.py --ndb target/release/ndb [--pairs 5] [--seconds 8]

Needs initdb, postgres and pgbench of PostgreSQL 15; run as root it starts PostgreSQL as the
user `postgres`, which it must not run as root itself.
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

TICK = os.sysconf("SC_CLK_TCK")
ROWS = 100_000

SELECT = "\\set id random(1, %d)\nSELECT payload FROM bench WHERE id = :id;\n" % ROWS
INSERT = ("\\set id random(1, 9000000000000000)\n"
          "INSERT INTO bench_insert (id, payload) VALUES (:id, 'a payload of some forty characters in all');\n")


def pg_tool(name):
    found = shutil.which(name) or next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))), None)
    if not found:
        raise SystemExit(f"{name} is not installed")
    return found


def cpu_seconds(root):
    """User and system time of a process, its threads, and its living and reaped children."""
    stats = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            text = open(path).read()
        except OSError:
            continue
        fields = text[text.rindex(")") + 2:].split()
        stats[int(path.split("/")[2])] = (int(fields[1]), sum(map(int, fields[11:15])))
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        if pid in stats:
            total += stats[pid][1]
        todo += [child for child, (parent, _) in stats.items() if parent == pid]
    return total / TICK


class Postgres:
    name = "PostgreSQL 15"

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="peer-pg-")
        self.as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        if self.as_user:
            shutil.chown(self.dir, "postgres", "postgres")
        data = os.path.join(self.dir, "data")
        run = lambda *cmd: subprocess.run([*self.as_user, *cmd], check=True, stdout=subprocess.DEVNULL, cwd=self.dir)
        run(pg_tool("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-instructions")
        self.port = "54329"
        self.process = subprocess.Popen(
            [*self.as_user, pg_tool("postgres"), "-D", data, "-p", self.port, "-k", self.dir,
             "-c", "shared_buffers=256MB", "-c", "listen_addresses=127.0.0.1"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.dir)
        ready = pg_tool("pg_isready")
        while subprocess.run([ready, "-q", "-h", "127.0.0.1", "-p", self.port]).returncode:
            time.sleep(0.1)
        self.database, self.user = "postgres", "postgres"

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


class NodeDb:
    name = "NodeDB"

    def __init__(self, binary, extra):
        self.dir = tempfile.mkdtemp(prefix="peer-ndb-")
        self.process = subprocess.Popen(
            [binary, "serve", "--data-dir", os.path.join(self.dir, "data"), "--pg-port", "0",
             "--http-port", "0", "--native-port", "0", *extra],
            stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.startswith("ready "):
                self.port = re.search(r"pg=\S+:(\d+)", line).group(1)
                break
        else:
            raise SystemExit("the server did not become ready")
        self.database, self.user = "nodedb", "postgres"

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def address(server):
    return ["-h", "127.0.0.1", "-p", server.port, "-U", server.user]


def psql(server, sql, stdin=None):
    subprocess.run([pg_tool("psql"), *address(server), "-d", server.database, "-q", "-v", "ON_ERROR_STOP=1", "-c", sql],
                   check=True, input=stdin, text=True, stdout=subprocess.DEVNULL)


def prepare(server):
    psql(server, "CREATE TABLE bench (id BIGINT PRIMARY KEY, payload TEXT NOT NULL)")
    psql(server, "CREATE TABLE bench_insert (id BIGINT PRIMARY KEY, payload TEXT NOT NULL)")
    for start in range(1, ROWS + 1, 10_000):
        lines = "".join(f"{i}\tpayload number {i} of the benchmark\n" for i in range(start, start + 10_000))
        psql(server, "COPY bench FROM STDIN", lines)
    if server.name.startswith("Postgre"):
        psql(server, "VACUUM ANALYZE bench")


def bench(server, script, clients, seconds):
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as f:
        f.write(script)
        f.flush()
        os.chmod(f.name, 0o644)
        before = cpu_seconds(server.process.pid)
        out = subprocess.run([pg_tool("pgbench"), *address(server), "-n", "-M", "prepared", "-f", f.name,
                              "-c", str(clients), "-j", "2", "-T", str(seconds), server.database],
                             check=True, capture_output=True, text=True).stdout
        cpu = cpu_seconds(server.process.pid) - before
    rate = float(re.search(r"tps = ([\d.]+)", out).group(1))
    done = int(re.search(r"actually processed: (\d+)", out).group(1))
    latency = float(re.search(r"latency average = ([\d.]+)", out).group(1))
    return rate, cpu / max(done, 1) * 1e6, latency


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ndb", required=True)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--serve-args", default="", help="more arguments for ndb serve")
    args = parser.parse_args()
    servers = [NodeDb(args.ndb, args.serve_args.split()), Postgres()]
    try:
        for server in servers:
            prepare(server)
        print("| workload | server | per second | CPU µs per operation | mean latency ms |")
        print("|---|---|---|---|---|")
        for label, script, clients in [("point select, 16 connections", SELECT, 16),
                                       ("durable insert, 32 connections", INSERT, 32)]:
            runs = {server.name: [] for server in servers}
            for _ in range(args.pairs):
                for server in servers:
                    runs[server.name].append(bench(server, script, clients, args.seconds))
            for name, rows in runs.items():
                rate, cpu, latency = (statistics.median(column) for column in zip(*rows))
                print(f"| {label} | {name} | {rate:,.0f} | {cpu:.1f} | {latency:.3f} |")
            ours, theirs = (runs[s.name] for s in servers)
            wall = statistics.median(a[0] / b[0] for a, b in zip(ours, theirs))
            cpu = statistics.median(b[1] / a[1] for a, b in zip(ours, theirs))
            print(f"| {label} | ratio, median of pairs | {wall:.2f} × | {cpu:.2f} × per CPU second | |", flush=True)
    finally:
        for server in servers:
            server.stop()


if __name__ == "__main__":
    main()
