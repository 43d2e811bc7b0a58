#!/bin/sh
# Reads the limits that the kernel holds this job to, writes them into a receipt, and fails when they are not its
# profile's. Needs nothing but a POSIX shell and an awk, however small: busybox's knows no powers.
#
# NUMBER, JOB, PROFILE  which job this is
# CPUS, MEMORY          what its profile gives, such as 0.5 and 512m or 8g
# RECEIPT               file to write
# CGROUP                where control groups are mounted; /sys/fs/cgroup when absent
set -eu
cgroup=${CGROUP:-/sys/fs/cgroup}

if [ -f "$cgroup/cpu.max" ]; then
    version=2
    read -r quota period <"$cgroup/cpu.max"
    memory=$(cat "$cgroup/memory.max")
elif [ -f "$cgroup/cpu/cpu.cfs_quota_us" ]; then
    version=1
    quota=$(cat "$cgroup/cpu/cpu.cfs_quota_us")
    period=$(cat "$cgroup/cpu/cpu.cfs_period_us")
    memory=$(cat "$cgroup/memory/memory.limit_in_bytes")
else
    echo "::error::no control group, neither version 2 nor 1, is to be seen in $cgroup"
    exit 1
fi

# "max" (version 2) and -1 (version 1) are no limit: they are written as 0.
awk -v number="$NUMBER" -v job="$JOB" -v profile="$PROFILE" -v runner="${RUNNER_NAME:-}" -v version="$version" \
    -v quota="$quota" -v period="$period" -v memory="$memory" -v cpus="$CPUS" -v wanted="$MEMORY" '
    function bytes(text, unit) {
        unit = tolower(substr(text, length(text)))
        return text * (unit == "g" ? 1073741824 : unit == "m" ? 1048576 : unit == "k" ? 1024 : 1)
    }
    BEGIN {
        cpu_millis = quota + 0 > 0 ? int(quota * 1000 / period + 0.5) : 0
        # Version 1 shows the largest number of whole pages where there is no limit.
        memory_bytes = memory + 0 > 0 && memory + 0 < 4611686018427387904 ? memory + 0 : 0
        printf "{\"number\": %d, \"job\": \"%s\", \"profile\": \"%s\", \"runner\": \"%s\", \"cgroup\": %d, ", \
            number, job, profile, runner, version
        printf "\"cpu_millis\": %d, \"wanted_cpu_millis\": %d, \"memory_bytes\": %.0f, \"wanted_memory_bytes\": %.0f}\n", \
            cpu_millis, int(cpus * 1000 + 0.5), memory_bytes, bytes(wanted)
        exit cpu_millis == int(cpus * 1000 + 0.5) && memory_bytes == bytes(wanted) ? 0 : 3
    }' >"$RECEIPT" && fits=yes || fits=no

cat "$RECEIPT"
if [ "$fits" = no ]; then
    echo "::error::$JOB does not have the limits of profile $PROFILE, $CPUS CPUs and $MEMORY"
    exit 1
fi
