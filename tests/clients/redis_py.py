"""redis-py: writes numbers to the master that Sentinel names, and says when each was acknowledged."""
import sys
import time

import redis
from redis.sentinel import Sentinel

host, port, name = sys.argv[1:]
sentinel = Sentinel([(host, int(port))], socket_timeout=1)
master = sentinel.master_for(name, socket_timeout=1)
number = 0
while True:
    try:
        master.set("redis-py", number)
        print(time.time_ns() // 1_000_000, number, flush=True)
        number += 1
    except redis.RedisError as error:
        print("failed:", error, file=sys.stderr, flush=True)
    time.sleep(0.002)
