#!/bin/sh
# Runs before the first step of every job and waits until the container has the size of this job's profile.
# The gate on the host knows this runner by its address and answers 200 when the job may run, anything else when it must
# not. Images differ in what they have, so whatever HTTP client is there is used. Without an answer, the policy decides.
url="http://$RUNYARD_GATE/job-started"
body="run_id=${GITHUB_RUN_ID:-}&run_attempt=${GITHUB_RUN_ATTEMPT:-}"
wait_s=${RUNYARD_GATE_TIMEOUT:-700}

# Each of these prints the answer's text and, on the last line, its status.

ask_with_curl() {
    curl --silent --show-error --noproxy '*' --max-time "$wait_s" --data "$body" --write-out '\n%{http_code}' "$url"
}

ask_with_nc() {
    printf 'POST /job-started HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %s\r\n\r\n%s' \
        "${#body}" "$body" | nc -w "$wait_s" "${RUNYARD_GATE%:*}" "${RUNYARD_GATE#*:}" | tr -d '\r' | {
        IFS=' ' read -r _ status _
        while IFS= read -r line && [ -n "$line" ]; do :; done
        cat
        printf '\n%s' "$status"
    }
}

ask_with_wget() {
    # The text of a refusal is not shown: GNU's wget tells it by exit code 8 alone, busybox's by the status on its last line.
    code=0
    answered=$(http_proxy='' wget -q -T "$wait_s" --post-data="$body" -O - "$url" 2>&1) || code=$?
    case $code,$answered in
    0,*) printf '%s\n200' "$answered" ;;
    8,* | *'HTTP/1.1 4'*) printf 'the controller says why in its log, and in the document of this job\n409' ;;
    *) printf '%s\n' "$answered" ;;
    esac
}

ask_with_python3() {
    python3 -c '
import sys, urllib.error, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    answer = opener.open(sys.argv[1], sys.argv[2].encode(), timeout=float(sys.argv[3]))
except urllib.error.HTTPError as error:
    answer = error
print(answer.read().decode(), answer.status, sep="\n")' "$url" "$body" "$wait_s"
}

go_without_answer() {
    if [ "${RUNYARD_GATE_ON_ERROR:-closed}" = open ]; then
        printf 'runyard: this job runs on the size that its runner has (sizing.on_error: open): %s\n' "$1"
        exit 0
    fi
    printf 'runyard: this job must not run here: %s\n' "$1"
    exit 1
}

for client in curl nc wget python3 none; do
    if command -v "$client" >/dev/null 2>&1; then break; fi
done
[ "$client" != none ] || go_without_answer 'this image has none of curl, nc, wget and python3 to ask the gate with'

# A controller that is restarted does not answer for a moment: only a real answer decides.
give_up_at=$(($(date +%s) + wait_s))
while :; do
    answer=$("ask_with_$client" 2>&1) || :
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
    [ "$(date +%s)" -lt "$give_up_at" ] || go_without_answer "the gate does not answer: $answer"
    sleep 1
done
