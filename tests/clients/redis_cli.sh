#!/bin/bash
# redis-cli: asks Sentinel for the master, writes numbers to it, and says when each was acknowledged.
number=0
while true; do
  mapfile -t master < <(redis-cli -h "$1" -p "$2" SENTINEL get-master-addr-by-name "$3")
  if [ "$(redis-cli -h "${master[0]}" -p "${master[1]}" SET redis-cli $number 2>&1)" = OK ]; then
    echo "$(date +%s%3N) $number"
    number=$((number + 1))
  fi
done
