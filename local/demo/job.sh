# The script of every job in the demo: reads its own limits as the kernel has them, and makes one connection.
if [ -f /sys/fs/cgroup/cpu.max ]; then
    read -r quota period </sys/fs/cgroup/cpu.max
    memory=$(cat /sys/fs/cgroup/memory.max)
else
    quota=$(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us)
    period=$(cat /sys/fs/cgroup/cpu/cpu.cfs_period_us)
    memory=$(cat /sys/fs/cgroup/memory/memory.limit_in_bytes)
fi
echo "limits quota_us=$quota period_us=$period memory_bytes=$memory"
python3 -ISE - "$https_proxy" "$RUNYARD_DEMO_TARGET" <<'PY'
import socket, sys
from urllib.parse import urlsplit
proxy, target = urlsplit(sys.argv[1]), sys.argv[2]
with socket.create_connection((proxy.hostname, proxy.port), 10) as connection:
    connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    print("connection", connection.recv(200).decode().splitlines()[0])
PY
sleep 2
