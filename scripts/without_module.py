#!/usr/bin/env python3
"""Makes the data of a server loadable without cache-guard: entries become strings, locks and rate limits are removed.

    without_module.py redis://127.0.0.1:6379 [--drop] [--no-save]

Run it while the module is still loaded, when no client writes by CACHE.SETSM, CACHE.LOCK or CACHE.RATELIMIT any more.
It goes through all databases. Each key is one script call, so it is atomic: readers see the entry or the string.

    fresh entry      becomes a string that expires when its freshness would have ended
    stale entry      is deleted: nobody could tell its string from a fresh one
    lock, limit      is deleted

Then it rewrites the AOF, if the server has one, and writes the RDB file. Status 1: some keys are left, since a client
still writes them. Needs redis-py. In a cluster, run it on each primary; then on each replica, for its files.
"""

import argparse
import sys
import time

import redis

TYPES = ("cg-cached", "cg-locked", "cg-limits")
BATCH = 500
PAUSE_S = 0.1
CONVERT = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'cg-cached' and kind ~= 'cg-locked' and kind ~= 'cg-limits' then return 'kept' end
if kind == 'cg-cached' and ARGV[1] == 'convert' then
  local state, value, _, ms = unpack(redis.call('CACHE.GET', KEYS[1], 'META'))
  if state == 'hit' and ms ~= 0 then
    if ms > 0 then redis.call('SET', KEYS[1], value, 'PX', ms) else redis.call('SET', KEYS[1], value) end
    return 'converted'
  end
end
redis.call('UNLINK', KEYS[1])
return 'deleted'
"""


def convert(client: redis.Redis, how: str) -> dict[str, int]:
    """Converts or deletes every key of the module in the client's database; how many of each."""
    done = {"converted": 0, "deleted": 0, "kept": 0}
    script = client.script_load(CONVERT)
    for kind in TYPES:
        cursor = 0
        while True:
            cursor, keys = client.scan(cursor, count=BATCH, _type=kind)
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.evalsha(script, 1, key, how)
                for outcome in pipe.execute():
                    done[outcome.decode()] += 1
            if cursor == 0:
                break
    return done


def left(client: redis.Redis) -> int:
    """How many keys of the module there are in the client's database."""
    return sum(1 for kind in TYPES for _ in client.scan_iter(count=BATCH, _type=kind))


def await_job(client: redis.Redis, running: str, status: str) -> None:
    """Waits for a background save or rewrite; ends the process if it failed."""
    while (info := client.info("persistence"))[running] or info.get("aof_rewrite_scheduled"):
        time.sleep(PAUSE_S)
    if info[status] != "ok":
        sys.exit(f"the server could not write its files: {status} is {info[status]}")


def write_files(client: redis.Redis) -> None:
    """The AOF without commands of the module, and the RDB file without its types."""
    await_job(client, "rdb_bgsave_in_progress", "rdb_last_bgsave_status")
    if client.info("persistence")["aof_enabled"]:
        client.bgrewriteaof()
        await_job(client, "aof_rewrite_in_progress", "aof_last_bgrewrite_status")
    client.bgsave()
    await_job(client, "rdb_bgsave_in_progress", "rdb_last_bgsave_status")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="redis://[user:password@]host:port, rediss://… or unix://path")
    parser.add_argument("--drop", action="store_true", help="delete the entries, too")
    parser.add_argument("--no-save", action="store_true", help="write no files")
    args = parser.parse_args()
    remaining = 0
    first = redis.from_url(args.url)
    for name in first.info("keyspace"):
        number = int(name.removeprefix("db"))
        with redis.from_url(args.url, db=number) as client:
            done = convert(client, "drop" if args.drop else "convert")
            remaining += left(client)
        print(f"database {number}: {done['converted']} entries are strings now, {done['deleted']} keys deleted")
    if not args.no_save:
        write_files(first)
    if remaining:
        print(f"{remaining} keys of the module are left: a client still writes them. Stop it and run this again")
        return 1
    print("no key of the module is left" + ("" if args.no_save else ", and the files are written"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
