#!/bin/bash
# peak.sh COMMAND...: runs it and prints the peak of its resident memory in bytes (polled from VmHWM, which never falls).
"$@" >/dev/null 2>&1 </dev/null &
pid=$!
peak=0
while kb=$(grep -s VmHWM "/proc/$pid/status" | tr -dc 0-9) && [ -n "$kb" ]; do
    peak=$kb
    sleep 0.005
done
wait $pid || exit 1
echo $((peak * 1024))
