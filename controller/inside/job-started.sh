#!/bin/sh
# Runs before the first step of every job and waits until the container has the size of this job's profile.
# The gate on the host knows this runner by its address and answers 200 when the size is right, anything else when the
# job must not run. Images differ in what they have, so whatever HTTP client is there is used.
url="http://$RUNYARD_GATE/job-started"
body="run_id=${GITHUB_RUN_ID:-}&run_attempt=${GITHUB_RUN_ATTEMPT:-}"
wait_s=${RUNYARD_GATE_TIMEOUT:-300}

ask() {
    if command -v curl >/dev/null 2>&1; then
        curl --silent --show-error --noproxy '*' --max-time "$wait_s" --data "$body" --write-out '\n%{http_code}' "$url"
    elif command -v python3 >/dev/null 2>&1 && ! command -v nc >/dev/null 2>&1; then
        python3 -c '
import sys, urllib.error, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    answer = opener.open(sys.argv[1], sys.argv[2].encode(), timeout=float(sys.argv[3]))
except urllib.error.HTTPError as error:
    answer = error
print(answer.read().decode(), answer.status, sep="\n")' "$url" "$body" "$wait_s"
    elif command -v nc >/dev/null 2>&1; then
        printf 'POST /job-started HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %s\r\n\r\n%s' \
            "${#body}" "$body" | nc "${RUNYARD_GATE%:*}" "${RUNYARD_GATE#*:}" | tr -d '\r' | {
            IFS=' ' read -r _ status _
            while IFS= read -r line && [ -n "$line" ]; do :; done
            cat
            printf '\n%s' "$status"
        }
    elif command -v wget >/dev/null 2>&1; then
        wget --quiet --no-proxy --timeout="$wait_s" --tries=1 --post-data="$body" --output-document=- "$url" && printf '\n200'
    else
        printf 'this image has none of curl, nc, python3 and wget\n501'
    fi
}

# A controller that is restarted does not answer for a moment: only a real answer decides.
give_up_at=$(($(date +%s) + wait_s))
while :; do
    answer=$(ask 2>&1) || :
    status=$(printf '%s\n' "$answer" | tail -n 1)
    text=$(printf '%s\n' "$answer" | sed '$d')
    case $status in
    200)
        printf 'runyard: %s\n' "$text"
        exit 0
        ;;
    [1-5][0-9][0-9])
        printf 'runyard: this job must not run here: %s\n' "$text"
        exit 1
        ;;
    esac
    if [ "$(date +%s)" -ge "$give_up_at" ]; then
        printf 'runyard: this job must not run here: the gate does not answer: %s\n' "$answer"
        exit 1
    fi
    sleep 1
done
