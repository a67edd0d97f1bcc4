#!/usr/bin/env python3
"""A server at rest: how soon it is ready, what it weighs, what it burns, and how long the demo takes.

    python3 benches/at_rest.py --ndb target/release/ndb [--seconds 20] [--starts 5]

Prints a Markdown table. "Ready" is from the start of the process to its `ready` line; memory is
the resident set of an empty server; idle CPU is of all its threads, with nobody connected; the
demo is `ndb demo` on a fresh directory, once built.
"""
import argparse
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time

TICK = os.sysconf("SC_CLK_TCK")


def start(binary, folder):
    begin = time.perf_counter()
    server = subprocess.Popen([binary, "serve", "--data-dir", folder, "--pg-port", "0", "--http-port", "0",
                               "--native-port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if not any(line.startswith("ready ") for line in server.stdout):
        raise SystemExit("the server did not become ready")
    return server, (time.perf_counter() - begin) * 1e3


def stop(server):
    server.send_signal(signal.SIGTERM)
    server.wait()


def ticks(pid):
    text = open(f"/proc/{pid}/stat").read()
    return sum(map(int, text[text.rindex(")") + 2:].split()[11:13]))


def memory_mib(pid, field):
    line = next(line for line in open(f"/proc/{pid}/status") if line.startswith(field))
    return int(line.split()[1]) / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ndb", required=True)
    parser.add_argument("--seconds", type=float, default=20, help="how long the idle server is watched")
    parser.add_argument("--starts", type=int, default=5)
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="at-rest-")
    rows = []
    try:
        fresh, again = [], []
        for i in range(args.starts):
            server, ms = start(args.ndb, f"{folder}/data{i}")
            fresh.append(ms)
            stop(server)
            server, ms = start(args.ndb, f"{folder}/data{i}")
            again.append(ms)
            stop(server)
        rows.append(("ready, fresh directory", f"{statistics.median(fresh):.0f} ms", "100 ms"))
        rows.append(("ready, existing empty directory", f"{statistics.median(again):.0f} ms", "100 ms"))
        server, _ = start(args.ndb, f"{folder}/idle")
        # What starting leaves to be done, such as prewriting the log, is over by then.
        time.sleep(3)
        rows.append(("resident memory, empty", f"{memory_mib(server.pid, 'VmRSS'):.1f} MiB", "60 MiB"))
        before, begin = ticks(server.pid), time.perf_counter()
        time.sleep(args.seconds)
        share = (ticks(server.pid) - before) / TICK / (time.perf_counter() - begin)
        rows.append((f"processor, idle, {args.seconds:.0f} s", f"{share * 100:.2f} %", "1 %"))
        stop(server)
        begin = time.perf_counter()
        subprocess.run([args.ndb, "demo", "--data-dir", f"{folder}/demo"], check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        rows.append(("`ndb demo`, 2,000 packages", f"{time.perf_counter() - begin:.1f} s", "20 s"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("| what | figure | goal, below |")
    print("|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
